//! The answers of a stage as they come: one JSON line each, appended. In: answers under the key of what they answer; out:
//! the answers of earlier invocations. Invariant: a key has one line; a last line that a kill cut short is taken away
//! before anything is appended, and other lines that are none are passed over.

use super::Answer;
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lines that may be lost to a power cut, and for how long.
const SYNC_LINES: usize = 32;
const SYNC_AFTER: Duration = Duration::from_secs(2);

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    answer: Answer,
}

/// The file of a stage.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    answers: HashMap<String, Answer>,
    unsynced: usize,
    synced: Instant,
}

impl Journal {
    /// Opens the file, or makes it, and reads what it holds.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = match std::fs::read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            bytes => bytes.at(path)?,
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut answers = HashMap::new();
        for (number, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => {
                    answers.entry(line.key).or_insert(line.answer);
                }
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(e) => {
                    tracing::warn!("{}: line {} is no answer and is passed over: {e}", path.display(), number + 1);
                }
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).at(path)?;
        if whole < bytes.len() {
            file.set_len(whole as u64).at(path)?;
        }
        Ok(Self { path: path.to_owned(), file, answers, unsynced: 0, synced: Instant::now() })
    }

    /// The answer under `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Answer> {
        self.answers.get(key)
    }

    /// Adds an answer, unless there is one under this key.
    pub(super) fn push(&mut self, key: &str, answer: &Answer) -> Result<()> {
        if self.answers.contains_key(key) {
            return Ok(());
        }
        let line = Line { key: key.to_owned(), answer: answer.clone() };
        let mut bytes = serde_json::to_vec(&line).map_err(|e| Error::failed(format!("answer {key}: {e}")))?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(|e| self.failed(&e))?;
        self.answers.insert(line.key, line.answer);
        self.unsynced += 1;
        if self.unsynced >= SYNC_LINES || self.synced.elapsed() >= SYNC_AFTER { self.sync() } else { Ok(()) }
    }

    /// Puts everything on the disk.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.unsynced > 0 {
            self.file.sync_data().map_err(|e| self.failed(&e))?;
        }
        self.unsynced = 0;
        self.synced = Instant::now();
        Ok(())
    }

    fn failed(&self, e: &std::io::Error) -> Error {
        Error::failed(format!("{}: {e}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(text: &str) -> Answer {
        Answer { text: text.into(), tokens: Some(1), stopped: true, refused: false }
    }

    #[test]
    fn the_first_of_a_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        for text in ["one", "two"] {
            let mut journal = Journal::open(&path).unwrap();
            journal.push("k", &answer(text)).unwrap();
            journal.sync().unwrap();
        }
        assert_eq!(Journal::open(&path).unwrap().get("k").unwrap().text, "one");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn what_is_no_answer_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, b"{}\n\xff\n\n{\"key\":\"k\",\"text\":\"t\",\"tokens\":null,\"stopped\":true}\n")
            .unwrap();
        assert_eq!(Journal::open(&path).unwrap().get("k").unwrap().text, "t");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn cut_anywhere_it_goes_on(texts in prop::collection::vec("\\PC{0,6}", 1..5), cut in any::<prop::sample::Index>()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.jsonl");
            let fill = || {
                let mut journal = Journal::open(&path).unwrap();
                for (i, text) in texts.iter().enumerate() {
                    journal.push(&i.to_string(), &answer(text)).unwrap();
                }
            };
            fill();
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..cut.index(whole.len())]).unwrap();
            fill();
            prop_assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }
}
