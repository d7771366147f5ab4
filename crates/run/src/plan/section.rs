//! A table of a run file, read key by key. In: the table and its path; out: typed values, errors with file and line.
//! Invariant: a key is an error unless it was declared known, and its nearest known neighbour is suggested.

use super::document::{Document, join};
use super::values;
use crate::failure::Problems;
use eraser_model::{Error, nearest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What settings are called by transformers and PEFT, and here.
pub const ELSEWHERE: [(&str, &str); 10] = [
    ("batch_size", "micro_batch"),
    ("gradient_accumulation_steps", "grad_accum"),
    ("learning_rate", "lr"),
    ("lora_alpha", "alpha"),
    ("lora_r", "rank"),
    ("lr_scheduler_type", "schedule"),
    ("max_seq_length", "max_length"),
    ("max_steps", "steps"),
    ("num_train_epochs", "epochs"),
    ("target_modules", "targets"),
];

/// Older names of keys, which are still taken.
const OLDER: [&str; 1] = ["tasks"];
/// Most keys that are listed where one of them is near.
const SHORT: usize = 16;

/// The table.
#[derive(Clone)]
pub(crate) struct Section<'d> {
    document: &'d Document,
    path: String,
    table: std::borrow::Cow<'d, toml::Table>,
}

impl<'d> Section<'d> {
    /// The whole file.
    pub(crate) fn root(document: &'d Document) -> Self {
        Self { document, path: String::new(), table: std::borrow::Cow::Borrowed(&document.root) }
    }

    /// The table `key`; an empty one when it is not there.
    pub(crate) fn section(&self, key: &str, problems: &mut Problems) -> Section<'d> {
        let path = join(&self.path, key);
        let table = match self.table.get(key) {
            Some(toml::Value::Table(table)) => table.clone(),
            None => toml::Table::new(),
            Some(other) => {
                problems.push(self.wrong(key, format!("a table is expected, not {}", kind(other))));
                toml::Table::new()
            }
        };
        Section { document: self.document, path, table: std::borrow::Cow::Owned(table) }
    }

    /// The tables of the array `key`; none when it is not there.
    pub(crate) fn sections(&self, key: &str, problems: &mut Problems) -> Vec<Section<'d>> {
        let items = match self.table.get(key) {
            Some(toml::Value::Array(items)) => items.as_slice(),
            None => &[],
            Some(other) => {
                problems.push(self.wrong(key, format!("a list of tables is expected, not {}", kind(other))));
                &[]
            }
        };
        let mut sections = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let path = format!("{}[{i}]", join(&self.path, key));
            match item {
                toml::Value::Table(table) => sections.push(Section {
                    document: self.document,
                    path,
                    table: std::borrow::Cow::Owned(table.clone()),
                }),
                other => {
                    let place = self.document.place(&path);
                    let what = format!("a table is expected in `{key}`, not {}", kind(other));
                    problems.push(Error::request(format!("{place}: {what}")));
                }
            }
        }
        sections
    }

    /// The raw value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&toml::Value> {
        self.table.get(key)
    }

    /// The file and line of a key.
    pub(crate) fn place(&self, key: &str) -> String {
        self.document.place(&join(&self.path, key))
    }

    /// An error about `key`.
    pub(crate) fn wrong(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::request(format!("{}: `{key}`: {what}", self.place(key)))
    }

    /// An error that `key` is not there.
    pub(crate) fn missing(&self, key: &str) -> Error {
        let table = self.title().map(|title| format!(" in {title}")).unwrap_or_default();
        Error::request(format!("{}: `{key}` is missing{table}", self.document.place(&self.path)))
    }

    /// Notes an error for each key that is not among `known`.
    pub(crate) fn know(&self, known: &[&str], problems: &mut Problems) {
        let table = self.title().map(|title| format!(" in {title}")).unwrap_or_default();
        let mut named: Vec<&str> = Vec::new();
        for key in known.iter().filter(|key| !OLDER.contains(key)) {
            if !named.contains(key) {
                named.push(key);
            }
        }
        for key in self.table.keys().filter(|k| !known.contains(&k.as_str())) {
            let error = Error::request(format!("{}: unknown key `{key}`{table}", self.place(key)));
            let elsewhere = ELSEWHERE.iter().find(|(name, ours)| name == key && known.contains(ours));
            let near = elsewhere.map(|(_, ours)| *ours).or_else(|| nearest(key, named.iter().copied()));
            let found = near.is_some();
            let error = near.map(|near| format!("did you mean `{near}`?")).into_iter().fold(error, Error::hint);
            // Behind a good guess, a list of sixty keys only hides the other errors.
            let list = !found || named.len() <= SHORT;
            problems.push(if list { error.hint(format!("the keys{table} are {}", named.join(", "))) } else { error });
        }
    }

    /// The table as it is written in the file; None for the file itself.
    fn title(&self) -> Option<String> {
        let in_list = self.path.ends_with(']');
        let path = if in_list { self.path.rsplit_once('[').map_or("", |(path, _)| path) } else { &self.path };
        match path {
            "" => None,
            _ if in_list && !path.contains('.') => Some(format!("[[{path}]]")),
            _ => Some(format!("[{path}]")),
        }
    }

    /// A value of any type that deserialises.
    pub(crate) fn value<T: DeserializeOwned>(&self, key: &str, problems: &mut Problems) -> Option<T> {
        let value = self.table.get(key)?.clone();
        problems.ok(value.try_into().map_err(|e: toml::de::Error| self.wrong_value(key, &e)))
    }

    /// An error about the value of `key`; where it is none of some names, with the nearest of them.
    fn wrong_value(&self, key: &str, error: &toml::de::Error) -> Error {
        let message = one_line(error);
        let near = meant(&message).map(|near| format!("did you mean `{near}`?"));
        let error = self.wrong(key, message);
        near.into_iter().fold(error, Error::hint)
    }

    /// A text that `parse` takes.
    pub(crate) fn parsed<T, E: std::fmt::Display>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
        problems: &mut Problems,
    ) -> Option<T> {
        let text: String = self.value(key, problems)?;
        problems.ok(parse(&text).map_err(|e| self.wrong(key, e)))
    }

    /// A path: variables expanded, relative to the run file; paths under `builtin` stay as they are.
    pub(crate) fn path(&self, key: &str, problems: &mut Problems) -> Option<PathBuf> {
        let text: String = self.value(key, problems)?;
        problems.ok(self.resolve(key, &text))
    }

    /// As [`Self::path`], of a text that was read already.
    pub(crate) fn resolve(&self, key: &str, text: &str) -> Result<PathBuf, Error> {
        self.relative(text).map_err(|e| {
            let error = self.wrong(key, &e);
            match e {
                PathError::Variable(values::ExpandError::NotSet { name, .. }) => {
                    error.hint(format!("set it to the directory that holds the files: {name}=DIR eraser run .."))
                }
                _ => error,
            }
        })
    }

    /// As [`Self::resolve`], with the bare reason.
    pub(crate) fn relative(&self, text: &str) -> Result<PathBuf, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        let expanded = values::expand(text).map_err(PathError::Variable)?;
        let path = Path::new(&expanded);
        match self.document.file.parent() {
            Some(base) if crate::builtin::relative(path).is_none() => Ok(base.join(path)),
            _ => Ok(path.to_owned()),
        }
    }

    /// Reads the keys of a settings struct on top of `defaults`, each checked alone, so that every error is found and
    /// has its place. `special` are keys that the caller reads itself; `convert` may rewrite a value first.
    pub(crate) fn settings<T: Serialize + DeserializeOwned + Clone>(
        &self,
        defaults: &T,
        special: &[&str],
        convert: impl Fn(&str, &toml::Value) -> Option<Result<toml::Value, String>>,
        problems: &mut Problems,
    ) -> T {
        let known = keys(defaults);
        let all: Vec<&str> = known.iter().map(String::as_str).chain(special.iter().copied()).collect();
        self.know(&all, problems);
        let mut merged = toml::Table::try_from(defaults).unwrap_or_default();
        for (key, value) in self.table.iter() {
            if special.contains(&key.as_str()) || !known.contains(key) {
                continue;
            }
            let value = match convert(key, value).unwrap_or_else(|| Ok(value.clone())) {
                Ok(value) => value,
                Err(e) => {
                    problems.push(self.wrong(key, e));
                    continue;
                }
            };
            let mut alone = merged.clone();
            alone.insert(key.clone(), value);
            match alone.clone().try_into::<T>() {
                Ok(_) => merged = alone,
                Err(e) => problems.push(self.wrong_value(key, &e)),
            }
        }
        merged.try_into().unwrap_or_else(|_| defaults.clone())
    }
}

/// Why a text is no path.
#[derive(Debug)]
pub(crate) enum PathError {
    Empty,
    Variable(values::ExpandError),
}

impl std::fmt::Display for PathError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty path"),
            Self::Variable(error) => error.fmt(f),
        }
    }
}

/// The field names of a settings struct, those that are None included.
pub(crate) fn keys<T: Serialize>(settings: &T) -> Vec<String> {
    match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(map)) => map.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    }
}

/// The message of a TOML error, without the picture of the line and the names of Rust's types.
fn one_line(error: &toml::de::Error) -> String {
    let mut message = error.message().to_owned();
    for (rust, plain) in [
        ("invalid type: ", ""),
        ("invalid value: ", ""),
        // A variant is a way to train.
        ("unknown variant ", "unknown value "),
        ("expected usize", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected f32", "expected a number"),
        ("expected a boolean", "expected true or false"),
    ] {
        message = message.replace(rust, plain);
    }
    message
}

/// Which of the names that serde lists was meant by the one that it does not know.
fn meant(message: &str) -> Option<&str> {
    // Unknown value `a`, expected one of `b`, `c`.
    let mut names = message.strip_prefix("unknown value ")?.split('`').skip(1).step_by(2);
    let name = names.next()?;
    nearest(name, names)
}

/// How a value's type is called.
fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a string",
        toml::Value::Integer(_) | toml::Value::Float(_) => "a number",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a table",
    }
}
