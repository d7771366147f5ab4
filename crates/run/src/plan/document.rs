//! A run file as a tree of values that knows on which line each one is. In: TOML text and `--set` assignments; out:
//! values by path (`train.lr`, `variant[1].retain`) and the place to name in an error. Invariant: every syntax error is
//! reported, and a file that has one is not checked further, since what seems to be missing may be what was not read.

use eraser_model::Error;
use eraser_model::error::PathContext as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::failure::Problems;

/// A run file larger than this is not one.
const MOST_BYTES: u64 = 4 << 20;

/// The tree.
#[derive(Default)]
pub(crate) struct Document {
    /// The file, for errors and as the root of relative paths.
    pub(crate) file: PathBuf,
    /// The values.
    pub(crate) root: toml::Table,
    /// The file and line of each path.
    places: BTreeMap<String, String>,
}

/// A `[[variant]]` table that a study made.
pub(crate) struct NewVariant {
    pub(crate) table: toml::Table,
    /// Number of the file's variant that it changes.
    pub(crate) from: Option<usize>,
    /// Keys that are not the file's, and where they come from.
    pub(crate) assigned: Vec<(String, String)>,
}

impl Document {
    /// Reads `file`.
    pub(crate) fn read(file: &Path, problems: &mut Problems) -> Option<Self> {
        let mut bytes = Vec::new();
        let opened = problems.ok(File::open(file).at(file))?;
        // A device has no size to ask for.
        problems.ok(opened.take(MOST_BYTES + 1).read_to_end(&mut bytes).at(file))?;
        if bytes.len() as u64 > MOST_BYTES {
            problems.push(Error::request(format!("{}: larger than a run file can be (4 MiB)", file.display())));
            return None;
        }
        let Ok(text) = String::from_utf8(bytes) else {
            problems.push(Error::request(format!("{}: not a text file in UTF-8", file.display())));
            return None;
        };
        Self::parse(file, &text, problems)
    }

    /// Takes `text` as the content of `file`.
    pub(crate) fn parse(file: &Path, text: &str, problems: &mut Problems) -> Option<Self> {
        let (tree, errors) = DeTable::parse_recoverable(text);
        // One error per line: further ones on it usually follow from the first.
        let place = |e: &toml::de::Error| e.span().map_or(1, |span| line_of(text, span.start));
        let lines: BTreeMap<usize, &toml::de::Error> = errors.iter().rev().map(|e| (place(e), e)).collect();
        for (line, error) in &lines {
            let error = Error::request(format!("{}:{line}: {}", file.display(), error.message()));
            problems.push(error.hint("a run file is TOML: [table], key = value, strings in quotes"));
        }
        if !lines.is_empty() {
            return None;
        }
        let wrong = |e: &toml::de::Error| Error::request(format!("{}:{}: {}", file.display(), place(e), e.message()));
        let root = toml::from_str(text).map_err(|e| wrong(&e));
        let mut document = Self { file: file.to_owned(), root: problems.ok(root)?, places: BTreeMap::new() };
        document.place_table("", tree.get_ref(), text);
        Some(document)
    }

    fn place_table(&mut self, prefix: &str, table: &DeTable<'_>, text: &str) {
        for (key, value) in table {
            let path = join(prefix, key.get_ref());
            let place = format!("{}:{}", self.file.display(), line_of(text, key.span().start));
            self.places.insert(path.clone(), place);
            self.place_value(&path, value, text);
        }
    }

    fn place_value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, text: &str) {
        match value.get_ref() {
            DeValue::Table(table) => self.place_table(path, table, text),
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    let place = format!("{}:{}", self.file.display(), line_of(text, item.span().start));
                    self.places.insert(path.clone(), place);
                    self.place_value(&path, item, text);
                }
            }
            _ => {}
        }
    }

    /// Applies `--set KEY=VALUE`; a value that is not TOML is a string.
    pub(crate) fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let wrong = |what: &str| Error::request(format!("--set {assignment}: {what}"));
        let (key, text) = assignment
            .split_once('=')
            .ok_or_else(|| wrong("no `=`").hint("write it as KEY=VALUE, for example train.steps=20"))?;
        let parsed = toml::from_str::<toml::Table>(&format!("value = {text}")).ok().and_then(|mut t| t.remove("value"));
        let value = parsed.unwrap_or_else(|| toml::Value::String(text.to_owned()));
        let parts: Vec<&str> = key.trim().split('.').collect();
        let Some((last, parents)) = parts.split_last().filter(|_| parts.iter().all(|p| !p.is_empty())) else {
            return Err(wrong("an empty key"));
        };
        let mut table = &mut self.root;
        for part in parents {
            let entry = table.entry((*part).to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = entry.as_table_mut().ok_or_else(|| wrong(&format!("`{part}` is not a table")))?;
        }
        table.insert((*last).to_owned(), value);
        self.places.insert(key.trim().to_owned(), format!("--set {assignment}"));
        Ok(())
    }

    /// Puts the table `from` in the place of the table `to`; false when there is none.
    pub(crate) fn replace_table(&mut self, to: &str, from: &str) -> bool {
        let Some(table) = self.root.remove(from) else { return false };
        self.root.insert(to.to_owned(), table);
        let within = |path: &str, table: &str| {
            path.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let old = std::mem::take(&mut self.places);
        for (path, place) in old.into_iter().filter(|(path, _)| !within(path, to)) {
            let path = if within(&path, from) { format!("{to}{}", &path[from.len()..]) } else { path };
            self.places.insert(path, place);
        }
        true
    }

    /// Puts `variants` in place of the file's variants.
    pub(crate) fn replace_variants(&mut self, variants: Vec<NewVariant>) {
        let old = std::mem::take(&mut self.places);
        let mut tables = Vec::new();
        for (i, NewVariant { table, from, assigned }) in variants.into_iter().enumerate() {
            let to = format!("variant[{i}]");
            let places = from.map(|from| format!("variant[{from}]")).into_iter().flat_map(|from| {
                old.iter().filter_map(move |(path, place)| Some((path.strip_prefix(&from)?.to_owned(), place.clone())))
            });
            self.places.extend(places.map(|(rest, place)| (format!("{to}{rest}"), place)));
            self.places.extend(assigned.into_iter().map(|(key, place)| (join(&to, &key), place)));
            tables.push(toml::Value::Table(table));
        }
        self.places.extend(old.into_iter().filter(|(path, _)| !path.starts_with("variant[")));
        self.root.insert("variant".to_owned(), tables.into());
    }

    /// The file and line of `path`, or else of what holds it.
    pub(crate) fn place(&self, path: &str) -> String {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return place.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.file.display().to_string(),
            }
        }
    }
}

/// `prefix.key`.
pub(crate) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// The line, from 1, of a byte of `text`.
fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes().iter().take(byte).filter(|b| **b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> (Option<Document>, Vec<String>) {
        let mut problems = Problems::default();
        let document = Document::parse(Path::new("run.toml"), text, &mut problems);
        (document, problems.messages())
    }

    #[test]
    fn places() {
        let (document, errors) = parse("[train]\nlr = 1\n\n[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\n");
        assert!(errors.is_empty());
        let document = document.unwrap();
        assert_eq!(document.place("train.lr"), "run.toml:2");
        assert_eq!(document.place("variant[1].name"), "run.toml:7");
        assert_eq!(document.place("variant[1].retain"), "run.toml:6");
        assert_eq!(document.place("eval.limit"), "run.toml");
    }

    #[test]
    fn a_table_takes_the_place_of_another_with_its_lines() {
        let mut document = parse("[eval]\nlimit = 1\n[tune]\nbatch = 2\n[tuned]\na = 1\n").0.unwrap();
        assert!(document.replace_table("eval", "tune"));
        assert_eq!(document.root["eval"].as_table().unwrap().keys().collect::<Vec<_>>(), ["batch"]);
        assert_eq!(
            (document.place("eval.batch"), document.place("tuned.a")),
            ("run.toml:4".into(), "run.toml:6".into())
        );
        assert!(document.root.get("tune").is_none() && !document.replace_table("eval", "tune"));
    }

    #[test]
    fn every_syntax_error_is_reported() {
        let (_, errors) = parse("a = \nb = 1\nd = 'x\n");
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].starts_with("run.toml:1: ") && errors[1].starts_with("run.toml:3: "), "{errors:?}");
    }

    #[test]
    fn assignments() {
        let mut document = parse("[train]\nsteps = 1\n").0.unwrap();
        document.set("train.steps=20").unwrap();
        document.set("train.schedule=constant").unwrap();
        document.set("eval.attacks=[\"direct\"]").unwrap();
        assert_eq!(document.root["train"]["steps"].as_integer(), Some(20));
        assert_eq!(document.root["train"]["schedule"].as_str(), Some("constant"));
        assert_eq!(document.root["eval"]["attacks"].as_array().map(Vec::len), Some(1));
        assert_eq!(document.place("train.steps"), "--set train.steps=20");
        for wrong in ["x", "=1", "a..b=1", "train.steps.x=1"] {
            assert!(document.set(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]a-c=.{}\"\n 0-9]{0,60}", set in "[a.=1\\[]{0,12}") {
            if let Some(mut document) = parse(&text).0 {
                let _ = document.set(&set);
                let _ = document.place("a.b[0]");
            }
        }
    }
}
