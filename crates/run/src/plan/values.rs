//! Values that are written as text, in flags and in run files alike: modules, layers, templates, row ranges, named
//! paths.

use eraser_model::adapter::Module;
use eraser_train::Templates;
use serde::Serialize;
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;

/// More layers than any model has.
const MOST_LAYERS: usize = 4096;

/// `q,v`, `q_proj,v_proj` or `all-linear`; sorted, each once.
///
/// # Errors
/// The name that is no module.
pub fn targets(text: &str) -> Result<Vec<Module>, String> {
    if text == "all-linear" {
        return Ok(Module::SINGLE.to_vec());
    }
    let mut targets = Vec::new();
    for name in text.split(',').map(str::trim) {
        let module =
            name.parse().map_err(|_| format!("unknown module `{name}` (q, k, v, o, gate, up, down, or all-linear)"))?;
        targets.push(module);
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

/// `15-29` or `0,2,4-6`; sorted, each once.
///
/// # Errors
/// What is no layer number, and empty ranges.
pub fn layers(text: &str) -> Result<Vec<usize>, String> {
    let number = |s: &str| match s.trim().parse::<usize>() {
        Ok(n) if n < MOST_LAYERS => Ok(n),
        _ => Err(format!("`{s}` is not a layer number (layers are written as 15-29 or 0,2,4)")),
    };
    let mut layers = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => layers.push(number(part)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(format!("the range `{part}` is empty"));
                }
                layers.extend(first..=last);
            }
        }
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

/// `both`, `model`, `plain` or a file.
///
/// # Errors
/// None; the type is that of a parser of flags.
pub fn templates(text: &str) -> Result<Templates, Infallible> {
    Ok(match text {
        "both" => Templates::Both,
        "model" => Templates::Model,
        "plain" => Templates::Plain,
        file => Templates::File(file.into()),
    })
}

/// A path with an optional name before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath {
    /// The text before `=`.
    pub name: Option<String>,
    /// The path.
    pub path: PathBuf,
}

/// `name=path`, or a path alone. The text before `=` is a name only if it could not be part of a path.
pub fn named(text: &str) -> NamedPath {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !name.contains(['/', '\\', '.', '?']) => {
            NamedPath { name: Some(name.to_owned()), path: path.into() }
        }
        _ => NamedPath { name: None, path: text.into() },
    }
}

impl std::str::FromStr for NamedPath {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(named(text))
    }
}

/// Rows of a file, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRange {
    /// The first row.
    pub first: usize,
    /// The last row; None: to the end.
    pub last: Option<usize>,
}

impl RowRange {
    /// `0-389` (both included), `390-`, or a number of rows from the start.
    ///
    /// # Errors
    /// What is no range of rows.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a range of rows (rows are written as 0-389, 390- or 100)");
        let number = |s: &str| s.trim().parse::<usize>().map_err(|_| wrong());
        match text.split_once('-') {
            None => match number(text)? {
                0 => Err(wrong()),
                n => Ok(Self { first: 0, last: Some(n - 1) }),
            },
            Some((first, "")) => Ok(Self { first: number(first)?, last: None }),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last { Err(wrong()) } else { Ok(Self { first, last: Some(last) }) }
            }
        }
    }

    /// These rows of `rows`; an error when there are not that many.
    pub(crate) fn of<T>(self, mut rows: Vec<T>) -> Result<Vec<T>, String> {
        let needed = self.last.unwrap_or(self.first);
        if needed >= rows.len() {
            return Err(format!("rows {self} were asked for, but there are {}", rows.len()));
        }
        if let Some(last) = self.last {
            rows.truncate(last + 1);
        }
        rows.drain(..self.first);
        Ok(rows)
    }
}

impl fmt::Display for RowRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(last) => write!(f, "{}-{last}", self.first),
            None => write!(f, "{}-", self.first),
        }
    }
}

impl Serialize for RowRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why the variables of a text could not be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExpandError {
    /// `${` without `}`.
    Unclosed {
        /// The whole text.
        text: String,
    },
    /// A variable that is not set, or empty.
    NotSet {
        /// The variable.
        name: String,
        /// The whole text.
        text: String,
    },
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed { text } => write!(f, "`${{` without `}}` in `{text}`"),
            Self::NotSet { name, text } => write!(f, "the environment variable {name} of `{text}` is not set"),
        }
    }
}

/// `text` with every `${NAME}` replaced by the environment variable of that name.
pub(crate) fn expand(text: &str) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(len) = rest[start..].find('}') else {
            return Err(ExpandError::Unclosed { text: text.to_owned() });
        };
        let name = &rest[start + 2..start + len];
        out.push_str(&rest[..start]);
        // An empty name, or one with `=`, would panic in some versions of the standard library.
        let value = if name.is_empty() || name.contains(['=', '\0']) { None } else { std::env::var(name).ok() };
        match value.filter(|v| !v.is_empty()) {
            Some(value) => out.push_str(&value),
            None => return Err(ExpandError::NotSet { name: name.to_owned(), text: text.to_owned() }),
        }
        rest = &rest[start + len + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modules() {
        assert_eq!(targets("v,q"), Ok(vec![Module::Q, Module::V]));
        assert_eq!(targets("q_proj, v_proj,q"), Ok(vec![Module::Q, Module::V]));
        assert_eq!(targets("all-linear").map(|t| t.len()), Ok(7));
        assert!(targets("q,w").is_err());
        assert!(targets("").is_err());
    }

    #[test]
    fn layer_lists() {
        assert_eq!(layers("3-5,1,4"), Ok(vec![1, 3, 4, 5]));
        for wrong in ["", "5-3", "a", "1-", "0-99999999999"] {
            assert!(layers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(named("unseen=a/b.csv"), NamedPath { name: Some("unseen".into()), path: "a/b.csv".into() });
        assert_eq!(named("./a=b"), NamedPath { name: None, path: "./a=b".into() });
        assert_eq!(named("a/b.csv").name, None);
    }

    #[test]
    fn rows() {
        let rows: Vec<usize> = (0..10).collect();
        let take = |text: &str| RowRange::parse(text).and_then(|t| t.of(rows.clone()));
        assert_eq!(take("2-4"), Ok(vec![2, 3, 4]));
        assert_eq!(take("8-"), Ok(vec![8, 9]));
        assert_eq!(take("3"), Ok(vec![0, 1, 2]));
        for wrong in ["", "0", "4-2", "-3", "8-10", "10-", "x"] {
            assert!(take(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn environment() {
        assert_eq!(expand("a/${CARGO_MANIFEST_DIR}/b"), Ok(format!("a/{}/b", env!("CARGO_MANIFEST_DIR"))));
        assert_eq!(expand("no $variable"), Ok("no $variable".into()));
        for wrong in ["${", "${}", "${A=B}", "${ERASER_NO_SUCH_VARIABLE}/x"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,24}") {
            let _ = (targets(&text), layers(&text), templates(&text), named(&text), expand(&text));
            if let Ok(take) = RowRange::parse(&text) {
                let _ = take.of(vec![0; 5]);
                prop_assert_eq!(RowRange::parse(&take.to_string()), Ok(take));
            }
        }
    }
}
