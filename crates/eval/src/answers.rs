//! The file of answers, `eval/<subject>/<attack>.jsonl`: appended to while answers come, put in order at the end.
//! Invariant: a reader finds whole lines only, save perhaps the last; an answer is kept under the key of what made it.

use crate::verdict::Verdict;
use eraser_model::error::PathContext;
use eraser_model::files::write_atomic;
use eraser_model::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Id of the question.
    pub id: String,
    /// Set of the question; of a task its name.
    pub set: String,
    /// `direct`, `template:<name>`.
    pub attack: String,
    /// The question.
    pub question: String,
    /// The whole user turn.
    pub prompt: String,
    /// How the answer begins, where the attack gave that; not the model's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub opening: String,
    /// What the model answered, without the opening.
    pub response: String,
    /// New tokens.
    pub tokens: usize,
    /// Ended by itself, not at the limit.
    pub stopped: bool,
    /// Verdicts by judge; of a task the judge is `expect`.
    pub judgements: BTreeMap<String, Verdict>,
    /// Holds a refusal phrase of `gcg29`.
    pub refused: bool,
    /// Empty, repetitive or not language.
    pub degenerate: bool,
    /// What answered: the first 16 hex digits of its fingerprint. Empty in files of older versions: unknown.
    #[serde(default)]
    pub subject: String,
    /// Key of subject, sampling and prompt: an answer with another key is of another experiment.
    pub fingerprint: String,
}

/// Reads a file of answers, or of other results that are appended a line at a time. What is not a whole one, such as a last
/// line cut short, is left out. The second value is true when the last line was.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<(Vec<T>, bool)> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok((Vec::new(), false)),
        bytes => bytes.at(path)?,
    };
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // The piece after the last line break: empty, or a line that a kill cut short.
    let torn = lines.pop().is_some_and(|rest| !rest.is_empty());
    let parse = |(number, line): (usize, &&[u8])| match serde_json::from_slice(line) {
        Ok(answer) => Some(answer),
        Err(e) => {
            tracing::warn!("{}: line {} is not a result and is dropped: {e}", path.display(), number + 1);
            None
        }
    };
    Ok((lines.iter().enumerate().filter_map(parse).collect(), torn))
}

/// Replaces the file with `answers`.
pub(crate) fn write<T: Serialize>(path: &Path, answers: &[T]) -> Result<()> {
    write_atomic(path, &lines(answers)?)
}

/// Appends answers to a file as they come.
pub(crate) struct Appender {
    path: PathBuf,
    file: File,
}

impl Appender {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path).writing(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Hands all of `answers` to the system in one write.
    pub(crate) fn append<T: Serialize>(&mut self, answers: &[T]) -> Result<()> {
        self.file.write_all(&lines(answers)?).map_err(|e| Error::failed(format!("{}: {e}", self.path.display())))
    }
}

fn lines<T: Serialize>(answers: &[T]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for answer in answers {
        serde_json::to_writer(&mut bytes, answer).map_err(|e| Error::failed(format!("cannot write a result: {e}")))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(text: &str) -> Answer {
        Answer {
            id: "1".into(),
            set: "seen".into(),
            attack: "direct".into(),
            question: "q".into(),
            prompt: "q".into(),
            opening: String::new(),
            response: text.into(),
            tokens: 3,
            stopped: true,
            judgements: BTreeMap::from([("leak".into(), Verdict::default())]),
            refused: false,
            degenerate: false,
            subject: "s".into(),
            fingerprint: "f".into(),
        }
    }

    #[test]
    fn a_missing_file_holds_nothing() {
        assert_eq!(read::<Answer>(Path::new("absent/absent.jsonl")).unwrap(), (Vec::new(), false));
    }

    #[test]
    fn unjudged_is_written_as_null() {
        let text = String::from_utf8(lines(&[answer("a\nb")]).unwrap()).unwrap();
        assert!(text.contains(r#""judgements":{"leak":{"success":null}}"#), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn foreign_lines_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut bytes = b"{}\n\xff\xfe\n\n".to_vec();
        bytes.extend(lines(&[answer("kept")]).unwrap());
        fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap(), (vec![answer("kept")], false));
    }

    proptest! {
        #[test]
        fn cut_anywhere_the_whole_lines_remain(texts in proptest::collection::vec("\\PC{0,8}", 1..5), cut in 0usize..2000) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.jsonl");
            let answers: Vec<Answer> = texts.iter().map(|text| answer(text)).collect();
            let mut bytes = lines(&answers).unwrap();
            bytes.truncate(cut);
            fs::write(&path, &bytes).unwrap();
            let whole = bytes.split(|byte| *byte == b'\n').count() - 1;
            let torn = bytes.last().is_some_and(|byte| *byte != b'\n');
            prop_assert_eq!(read(&path).unwrap(), (answers[..whole].to_vec(), torn));
        }
    }
}
