//! A file of rows and which of them are meant. In: a path, or a table with columns, a filter, a shuffle and a range;
//! out: records or questions. Invariant: filter, then shuffle, then range; the same source always gives the same rows.

use super::basics::exists;
use super::section::Section;
use super::values::RowRange;
use crate::builtin::{self, Assets};
use crate::failure::Problems;
use eraser_data::{
    CONTEXT_STRING, Pair, Question, Record, SetName, besides, find_column, no_column, read_pairs, read_questions,
    read_set, read_texts,
};
use eraser_model::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The keys of a set given as a table.
pub(crate) const SET_KEYS: [&str; 6] = ["path", "input", "output", "where", "shuffle", "take"];
/// The keys that questions and tasks add to their own.
pub(crate) const ROW_KEYS: [&str; 5] = ["path", "column", "where", "shuffle", "take"];

/// The file and the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Column (or key) of the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Column (or key) of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Only rows whose columns have these values.
    #[serde(rename = "where", skip_serializing_if = "BTreeMap::is_empty")]
    pub filter: BTreeMap<String, String>,
    /// Seed of a shuffle of the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<u64>,
    /// Range of the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub take: Option<RowRange>,
}

impl Source {
    /// A whole set file.
    pub fn file(path: &Path) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }

    /// The set under `key`: a path, or a table with the keys [`SET_KEYS`].
    pub(crate) fn set(section: &Section<'_>, key: &str, problems: &mut Problems) -> Option<Self> {
        Self::path_or_table(section, key, problems, |table, problems| {
            table.know(&SET_KEYS, problems);
            let (input, output) = (table.value("input", problems), table.value("output", problems));
            let source = Self::rows(table, problems).map(|rows| Self { input, output, ..rows })?;
            if source.input.is_some() != source.output.is_some() {
                problems.push(section.wrong(key, "`input` and `output` are given together or not at all"));
            }
            Some(source)
        })
    }

    /// A file of questions or texts under `key`: a path, or a table with the keys [`ROW_KEYS`].
    pub(crate) fn questions_of(section: &Section<'_>, key: &str, problems: &mut Problems) -> Option<Self> {
        Self::path_or_table(section, key, problems, |table, problems| {
            table.know(&ROW_KEYS, problems);
            Self::rows(table, problems)
        })
    }

    fn path_or_table(
        section: &Section<'_>,
        key: &str,
        problems: &mut Problems,
        read: impl FnOnce(&Section<'_>, &mut Problems) -> Option<Self>,
    ) -> Option<Self> {
        match section.get(key)? {
            toml::Value::String(text) => {
                let path = problems.ok(section.resolve(key, text))?;
                problems.ok(check_path(&path).map_err(|e| e.context(section.place(key))))?;
                Some(Self::file(&path))
            }
            toml::Value::Table(_) => read(&section.section(key, problems), problems),
            _ => {
                problems.push(section.wrong(key, "a path, or a table with `path`, is expected"));
                None
            }
        }
    }

    /// The keys [`ROW_KEYS`] of a table; `column` becomes `input`.
    pub(crate) fn rows(table: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        if table.get("path").is_none() {
            problems.push(table.missing("path"));
        }
        let take = match table.get("take") {
            Some(toml::Value::Integer(n)) => {
                let text = n.to_string();
                problems.ok(RowRange::parse(&text).map_err(|e| table.wrong("take", e)))
            }
            _ => table.parsed("take", RowRange::parse, problems),
        };
        let source = Self {
            input: table.value("column", problems),
            output: None,
            filter: table.value("where", problems).unwrap_or_default(),
            shuffle: table.value("shuffle", problems),
            take,
            path: table.path("path", problems)?,
        };
        problems.ok(check_path(&source.path).map_err(|e| e.context(table.place("path"))))?;
        Some(source)
    }

    /// From a flag: a file, or a file and which of its rows are meant, `FILE?column=prompt&where=label:safe&take=0-49`.
    ///
    /// # Errors
    /// A choice of rows that is malformed.
    pub fn flag(text: &Path) -> Result<Self> {
        let Some((file, choice)) = text.to_str().filter(|_| !text.exists()).and_then(|text| text.split_once('?'))
        else {
            return Ok(Self::file(text));
        };
        let mut source = Self::file(Path::new(file));
        let mut said: Vec<&str> = Vec::new();
        for part in choice.split('&') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let wrong = |what: &str| {
                Error::request(format!("{file}?{choice}: `{part}`: {what}"))
                    .hint("rows are chosen as in FILE?column=prompt&where=label:safe&shuffle=1&take=0-49")
            };
            let of = match key {
                "where" => part.split_once(':').map_or(part, |(of, _)| of),
                "input" => "column",
                _ => key,
            };
            if said.contains(&of) {
                return Err(wrong("it is said twice"));
            }
            said.push(of);
            match key {
                "column" | "input" if !value.is_empty() => source.input = Some(value.to_owned()),
                "output" if !value.is_empty() => source.output = Some(value.to_owned()),
                "where" => {
                    let (column, wanted) = value.split_once(':').ok_or_else(|| wrong("COLUMN:VALUE is expected"))?;
                    source.filter.insert(column.to_owned(), wanted.to_owned());
                }
                "shuffle" => source.shuffle = Some(value.parse().map_err(|_| wrong("a seed is expected"))?),
                "take" => source.take = Some(RowRange::parse(value).map_err(|e| wrong(&e))?),
                _ => return Err(wrong("this is not a known choice of rows")),
            }
        }
        Ok(source)
    }

    /// From the flag `at`, as [`Self::flag`], with what flags of their own say (`own`, without a path). What is said
    /// twice is an error, and so are a column of questions without one of answers, or the reverse, where answers are
    /// read.
    pub fn flags(text: &Path, own: Self, at: &str, problems: &mut Problems) -> Self {
        let source = Self::flag(text).unwrap_or_else(|e| {
            problems.push(e.context(at));
            // What is wrong is the choice of rows; that the file is there, is looked at all the same.
            let text = text.to_string_lossy();
            Self::file(Path::new(text.split('?').next().unwrap_or_default()))
        });
        let twice = [
            ("column", source.input.is_some() && own.input.is_some()),
            ("output", source.output.is_some() && own.output.is_some()),
            ("take", source.take.is_some() && own.take.is_some()),
        ];
        for (key, _) in twice.into_iter().filter(|(_, twice)| *twice) {
            let what = format!("{at}: {}: `{key}` is said twice, behind `?` and by a flag", source.path.display());
            problems.push(Error::request(what).hint("say it once"));
        }
        Self {
            input: source.input.or(own.input),
            output: source.output.or(own.output),
            take: source.take.or(own.take),
            ..source
        }
    }

    /// True when the file is to be used as it is.
    pub(crate) fn whole(&self) -> bool {
        self.filter.is_empty() && self.shuffle.is_none() && self.take.is_none()
    }

    /// The rows as questions with answers.
    pub(crate) fn records(&self, assets: &Assets) -> Result<Vec<Record>> {
        self.read(assets, read_set)
    }

    /// The rows as the set `set` of a training.
    pub(crate) fn training_set(&self, set: SetName, assets: &Assets) -> Result<Vec<Record>> {
        self.read(assets, |path| set.read(path))
    }

    fn read(&self, assets: &Assets, read: impl Fn(&Path) -> Result<Vec<Record>>) -> Result<Vec<Record>> {
        let path = assets.locate(&self.path)?;
        let records = match (&self.input, &self.output) {
            (Some(input), Some(output)) => {
                let questions = read_questions(&path, Some(input))?;
                questions.into_iter().map(|q| self.record(q, output)).collect::<Result<_>>()?
            }
            _ => read(&path)?,
        };
        self.select(records, |r| &r.extra)
    }

    /// The rows as questions.
    pub(crate) fn questions(&self, assets: &Assets) -> Result<Vec<Question>> {
        let questions = read_questions(&assets.locate(&self.path)?, self.input.as_deref())?;
        self.select(questions, |q| &q.extra)
    }

    /// The rows as questions with or without answers. Columns are found by their names.
    pub(crate) fn pairs(&self, assets: &Assets) -> Result<Vec<Pair>> {
        if let Some(column) = &self.input {
            return Err(Error::request(format!("{}: `column` {column} cannot be chosen here", self.path.display()))
                .hint("name the columns as usual sets do, as prompt and response, or instruction, input and output"));
        }
        self.select(read_pairs(&assets.locate(&self.path)?)?, |pair| &pair.extra)
    }

    fn record(&self, question: Question, output: &str) -> Result<Record> {
        let place = format!("{}: {}", self.path.display(), question.place);
        let mut extra = question.extra;
        let key = find_column(&extra, output)?.unwrap_or(output).to_owned();
        let answer = match extra.shift_remove(&key) {
            Some(Value::String(answer)) => Some(answer),
            // Reading takes this key for the facts of the question.
            None if output == "answer" && question.facts.len() == 1 => question.facts.into_iter().next(),
            _ => None,
        };
        if let Some(answer) = answer {
            return Ok(Record { input: question.text, output: answer, extra, place });
        }
        let error = Error::request(format!("{place}: no text `{output}`"));
        let error = error.hint("`output` names the column that holds the answer");
        Err(no_column(error, output, &extra.keys().map(String::as_str).collect::<Vec<_>>()))
    }

    /// The rows as running texts: of a file with columns those of `column`, else of `text`; of plain text its
    /// paragraphs.
    pub(crate) fn texts(&self, assets: &Assets) -> Result<Vec<String>> {
        let path = assets.locate(&self.path)?;
        let texts = self.select(read_texts(&path, self.input.as_deref())?, |(_, extra)| extra)?;
        Ok(texts.into_iter().map(|(text, _)| text).collect())
    }

    fn select<T>(&self, rows: Vec<T>, extra: impl Fn(&T) -> &Map<String, Value>) -> Result<Vec<T>> {
        let mut rows = self.filtered(rows, &extra)?;
        if let Some(seed) = self.shuffle {
            let mut keyed: Vec<_> = rows.into_iter().enumerate().map(|(i, row)| (shuffle_key(seed, i), row)).collect();
            keyed.sort_by_key(|(key, _)| *key);
            rows = keyed.into_iter().map(|(_, row)| row).collect();
        }
        if let Some(take) = self.take {
            let last = rows.len().saturating_sub(1);
            rows = take.of(rows).map_err(|e| {
                let error = Error::request(format!("{}: {e}", self.path.display()));
                error.hint(format!("rows count from 0, after `where`: the last one is {last}"))
            })?;
        }
        if rows.is_empty() {
            return Err(Error::request(format!("{}: no row of it is chosen", self.path.display()))
                .hint("`where` and `take` choose among the rows of the file"));
        }
        // A column that was named is what is meant, without what it is about.
        let meant = |key: &str| self.input.is_some() && key.trim().eq_ignore_ascii_case("context");
        let besides = |row: &T| besides(extra(row)).filter(|key| !meant(key)).map(str::to_owned);
        if let Some((n, key)) = rows.iter().enumerate().find_map(|(n, row)| Some((n, besides(row)?))) {
            let file = self.path.display();
            return Err(Error::request(format!(
                "{file}: row {n} of those chosen has `{key}`, which the answer depends on"
            ))
            .hint("a question stands alone here: write it so, and remove that column")
            .hint(format!("or choose the rows without it, as FILE?where={key}:")));
        }
        Ok(rows)
    }

    /// The rows that `where` chooses.
    fn filtered<T>(&self, rows: Vec<T>, extra: &impl Fn(&T) -> &Map<String, Value>) -> Result<Vec<T>> {
        let at = |e: Error| e.context(self.path.display());
        for key in self.filter.keys() {
            let mut there = false;
            for row in &rows {
                there |= find_column(extra(row), key).map_err(at)?.is_some();
            }
            if !there {
                let columns = rows.first().map(|row| extra(row).keys().map(String::as_str).collect::<Vec<_>>());
                let what =
                    format!("{}: `where` names `{key}`, which is no column besides the text", self.path.display());
                return Err(no_column(Error::request(what), key, &columns.unwrap_or_default()));
            }
        }
        let wanted = |row: &T| {
            self.filter.iter().all(|(key, wanted)| {
                match find_column(extra(row), key).ok().flatten().map(|key| &extra(row)[key]) {
                    Some(Value::String(text)) => text == wanted,
                    Some(other) => &other.to_string() == wanted,
                    None => false,
                }
            })
        };
        Ok(rows.into_iter().filter(wanted).collect())
    }
}

/// An error unless the file is there, in the file system or in the binary.
///
/// # Errors
/// As described; it names the path.
pub fn check_path(path: &Path) -> Result<()> {
    builtin::relative(path).map_or_else(|| exists(path), builtin::check)
}

/// Sorting rows by this is a shuffle that is the same on every machine.
pub(crate) fn shuffle_key(seed: u64, row: usize) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((row as u64).to_le_bytes());
    hash.finalize().into()
}

/// A question as a row that reads back as the same question, whatever its other keys are called.
pub(crate) fn question_row(question: &Question) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("id".into(), question.id.as_str().into());
    row.insert("question".into(), question.text.as_str().into());
    if !question.facts.is_empty() {
        row.insert("facts".into(), question.facts.clone().into());
    }
    for (key, value) in &question.extra {
        // They would be taken for the text, or a part of it, when the row is read.
        if !["goal", CONTEXT_STRING].iter().any(|taken| key.trim().eq_ignore_ascii_case(taken)) {
            row.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    row
}

#[cfg(test)]
mod tests;
