//! The variants that a study makes of a run file's. In: the document, methods or points; out: the document with other
//! `[[variant]]` tables, which then resolves as any does. Invariant: a value is found under the place it came from: the
//! file's line, or the point of the sweep.

use super::document::{Document, NewVariant};
use crate::failure::Problems;
use eraser_model::{Error, suggest};
use eraser_train::Method;
use std::fmt::Write as _;

/// Which variants a plan has.
#[derive(Clone, Copy, Debug, Default)]
pub enum Variants<'a> {
    /// Those of the file.
    #[default]
    AsWritten,
    /// Those of the file that use these methods, and one for each method that has none.
    Methods(&'a [Method]),
    /// One of the file's, changed.
    Points {
        /// Name of the one; None = the first.
        of: Option<&'a str>,
        /// What is changed.
        points: &'a [Point],
    },
}

/// A key of `[train]` and its values in a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The key.
    pub key: String,
    /// Its values, in the order given.
    pub values: Vec<toml::Value>,
}

/// One setting of the keys of a sweep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// Its name as a variant, if that is not made of its values.
    pub label: Option<String>,
    /// Each changed key with its value.
    pub values: Vec<(String, toml::Value)>,
}

impl Axis {
    /// `KEY=V1,V2,..`, or `KEY=[V1, V2]` for values that hold commas; a value that is not TOML is a string.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (key, text) = text.split_once('=').ok_or("no `=` (write it as gamma=0.5,1,1.8)")?;
        let toml = |text: &str| toml::from_str::<toml::Table>(&format!("value = {text}")).ok()?.remove("value");
        let values = match toml(text) {
            Some(toml::Value::Array(values)) => values,
            _ => text.split(',').map(str::trim).map(|v| toml(v).unwrap_or_else(|| v.into())).collect(),
        };
        let key = key.trim();
        if key.is_empty() || values.is_empty() || values.iter().any(|v| v.as_str() == Some("")) {
            return Err("an empty key or value".to_owned());
        }
        if ["name", "init_adapter", "dump_grads"].contains(&key) {
            return Err(format!("`{key}` cannot be swept"));
        }
        Ok(Self { key: key.to_owned(), values })
    }
}

impl Point {
    /// Every combination of values, the last axis changing fastest; with `each`, one key at a time, after the unchanged
    /// variant.
    pub fn all(axes: &[Axis], each: bool) -> Vec<Self> {
        if each {
            let changed = axes.iter().flat_map(|axis| {
                axis.values.iter().map(|value| Self { label: None, values: vec![(axis.key.clone(), value.clone())] })
            });
            return std::iter::once(Self::default()).chain(changed).collect();
        }
        axes.iter().fold(vec![Self::default()], |points, axis| {
            let with = |point: &Self| {
                let add = |value: &toml::Value| {
                    let values = point.values.iter().cloned().chain([(axis.key.clone(), value.clone())]);
                    Self { label: None, values: values.collect() }
                };
                axis.values.iter().map(add).collect::<Vec<_>>()
            };
            points.iter().flat_map(with).collect()
        })
    }

    /// Its name as a variant: its label, or else `gamma-0.5`; None when nothing is changed.
    pub fn name(&self) -> Option<String> {
        let parts: Vec<String> = self.values.iter().map(|(key, value)| format!("{key}-{}", text(value))).collect();
        self.label.clone().or_else(|| (!parts.is_empty()).then(|| parts.join("_")))
    }

    /// The value of `key` as it is shown; None where it is unchanged.
    pub(crate) fn value(&self, key: &str) -> Option<String> {
        self.values.iter().rev().find(|(k, _)| k == key).map(|(_, v)| text(v))
    }

    /// Its values in words: `gamma 0.5, rank 8`.
    pub fn describe(&self) -> String {
        let parts: Vec<String> = self.values.iter().map(|(key, value)| format!("{key} {}", text(value))).collect();
        if parts.is_empty() { "the run file as it is".to_owned() } else { parts.join(", ") }
    }
}

/// A value as it is shown and named.
pub(crate) fn text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    }
}

impl Variants<'_> {
    /// Puts them into `document`.
    pub(super) fn apply(self, document: &mut Document, problems: &mut Problems) {
        let tables: Vec<toml::Table> = match document.root.get("variant") {
            Some(toml::Value::Array(items)) => items.iter().filter_map(|v| v.as_table().cloned()).collect(),
            _ => Vec::new(),
        };
        let made = match self {
            Self::AsWritten => return,
            Self::Methods(methods) => by_method(document, &tables, methods),
            Self::Points { of, points } => match by_point(&tables, of, points) {
                Ok(made) => made,
                Err(e) => return problems.push(e),
            },
        };
        document.replace_variants(made);
    }
}

fn by_method(document: &Document, tables: &[toml::Table], methods: &[Method]) -> Vec<NewVariant> {
    let shared = document.root.get("train").and_then(|t| t.get("method"));
    let default = Method::default().name;
    let method = |table: &toml::Table| {
        let named = table.get("method").or(shared).and_then(toml::Value::as_str);
        named.unwrap_or(default).to_owned()
    };
    let mut made = Vec::new();
    for wanted in methods.iter().map(|m| m.name) {
        let before = made.len();
        for (i, table) in tables.iter().enumerate().filter(|(_, table)| method(table) == wanted) {
            made.push(NewVariant { table: table.clone(), from: Some(i), assigned: Vec::new() });
        }
        if made.len() > before {
            continue;
        }
        let mut table = toml::Table::new();
        table.insert("name".into(), wanted.into());
        table.insert("method".into(), wanted.into());
        // As published; but a file without variants means `eraser` with all that it gives.
        if wanted != default || !tables.is_empty() {
            table.insert("retain".into(), false.into());
        }
        made.push(NewVariant { table, from: None, assigned: Vec::new() });
    }
    made
}

fn by_point(tables: &[toml::Table], of: Option<&str>, points: &[Point]) -> Result<Vec<NewVariant>, Error> {
    let named = |table: &toml::Table| table.get("name").and_then(toml::Value::as_str).map(ToOwned::to_owned);
    let from = match of {
        None => (!tables.is_empty()).then_some(0),
        Some(name) => Some(tables.iter().position(|t| named(t).as_deref() == Some(name)).ok_or_else(|| {
            let known: Vec<String> = tables.iter().filter_map(named).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            suggest(Error::request(format!("--variant {name}: the run file has no such variant")), name, &known)
        })?),
    };
    let base = from.map_or_else(toml::Table::new, |i| tables[i].clone());
    let make = |point: &Point| {
        let mut table = base.clone();
        let mut place = "sweep".to_owned();
        for (key, value) in &point.values {
            table.insert(key.clone(), value.clone());
            let _ = write!(place, " {key}={}", text(value));
        }
        let name = point.name().or_else(|| named(&base)).unwrap_or_else(|| Method::default().name.to_owned());
        table.insert("name".into(), name.into());
        let keys = point.values.iter().map(|(key, _)| key.clone()).chain(["name".to_owned()]);
        NewVariant { table, from, assigned: keys.map(|key| (key, place.clone())).collect() }
    };
    Ok(points.iter().map(make).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(points: &[Point]) -> Vec<String> {
        points.iter().map(|p| p.name().unwrap_or_default()).collect()
    }

    #[test]
    fn axes() {
        let axis = Axis::parse("gamma=0.5, 1,1.8").unwrap();
        assert_eq!(axis.values, [0.5.into(), 1.into(), 1.8.into()]);
        assert_eq!(Axis::parse("harm_answers=file,random").unwrap().values, ["file".into(), "random".into()]);
        let lists = Axis::parse("targets=[[\"q\"], [\"q\", \"v\"]]").unwrap();
        assert_eq!(text(&lists.values[1]), "q+v");
        for wrong in ["gamma", "=1", "gamma=", "gamma=1,,2", "name=a"] {
            assert!(Axis::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn points_are_a_grid_or_one_at_a_time() {
        let axes = [Axis::parse("gamma=1,2").unwrap(), Axis::parse("rank=4,8").unwrap()];
        assert_eq!(
            names(&Point::all(&axes, false)),
            ["gamma-1_rank-4", "gamma-1_rank-8", "gamma-2_rank-4", "gamma-2_rank-8"]
        );
        assert_eq!(names(&Point::all(&axes, true)), ["", "gamma-1", "gamma-2", "rank-4", "rank-8"]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z=,.0-9\\[\\]\"' {}-]{0,30}") {
            let _ = Axis::parse(&text).map(|axis| names(&Point::all(&[axis], true)));
        }
    }
}
