//! run/stages.json: which stage was done with which inputs. In: hashes of everything a stage reads; out: whether it has
//! to be done, gone on with, or begun. Invariant: a stage counts as done only if the inputs it recorded are the present
//! ones and its outputs are there.

use eraser_data::files::{hash_file, hex, write_atomic};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file.
pub(crate) struct Stages {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    input: String,
    done: bool,
    /// Spent on it so far.
    seconds: f64,
}

/// What is to be done about a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Done,
    /// Go on: it was begun with the same inputs.
    Begun,
    /// Begin: it never was, or with other inputs.
    New,
}

impl Stages {
    /// Reads the file of a run directory; a missing or damaged one is an empty one, since all it can save is work.
    pub(crate) fn read(dir: &Path) -> Self {
        let path = dir.join("stages.json");
        let text = std::fs::read(&path).unwrap_or_default();
        let entries = serde_json::from_slice(&text).unwrap_or_else(|e| {
            if !text.is_empty() {
                tracing::warn!("{}: {e}; every stage is done again", path.display());
            }
            BTreeMap::new()
        });
        Self { path, entries }
    }

    /// The state of `stage`, were it done with `input` into `outputs`.
    pub(crate) fn state(&self, stage: &str, input: &str, outputs: &[PathBuf]) -> State {
        match self.entries.get(stage) {
            Some(entry) if entry.input != input => State::New,
            Some(entry) if entry.done && outputs.iter().all(|p| p.exists()) => State::Done,
            Some(entry) if entry.done => State::New,
            Some(_) => State::Begun,
            None => State::New,
        }
    }

    /// Notes that `stage` is under way with `input`.
    pub(crate) fn begin(&mut self, stage: &str, input: &str) -> Result<()> {
        let seconds = self.entries.get(stage).filter(|e| e.input == input && !e.done).map_or(0.0, |e| e.seconds);
        self.entries.insert(stage.to_owned(), Entry { input: input.to_owned(), done: false, seconds });
        self.write()
    }

    /// Notes that `seconds` more were spent on `stage`, and whether that was all.
    pub(crate) fn spent(&mut self, stage: &str, seconds: f64, done: bool) -> Result<()> {
        if let Some(entry) = self.entries.get_mut(stage) {
            entry.seconds += seconds;
            entry.done = done;
        }
        self.write()
    }

    /// Seconds spent on a stage so far; None when it was never begun.
    pub(crate) fn seconds(&self, stage: &str) -> Option<f64> {
        self.entries.get(stage).map(|entry| entry.seconds)
    }

    fn write(&self) -> Result<()> {
        let text =
            serde_json::to_string_pretty(&self.entries).map_err(|e| Error::failed(format!("stages.json: {e}")))?;
        write_atomic(&self.path, format!("{text}\n").as_bytes())
    }
}

/// A hash of everything that a stage reads.
#[derive(Default)]
pub(crate) struct Inputs(Sha256);

impl Inputs {
    /// Adds text under a name.
    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.bytes(name, text.as_bytes());
    }

    /// Adds bytes under a name.
    pub(crate) fn bytes(&mut self, name: &str, bytes: &[u8]) {
        for part in [name.as_bytes(), bytes] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Adds settings.
    pub(crate) fn settings<T: Serialize>(&mut self, name: &str, settings: &T) -> Result<()> {
        let text = serde_json::to_string(settings).map_err(|e| Error::failed(format!("{name}: {e}")))?;
        self.text(name, &text);
        Ok(())
    }

    /// Adds the content of a file, or of all files in a directory.
    pub(crate) fn path(&mut self, name: &str, path: &Path) -> Result<()> {
        if !path.is_dir() {
            self.text(name, &hash_file(path)?);
            return Ok(());
        }
        let entries = std::fs::read_dir(path).at(path)?;
        let mut inside = entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>().at(path)?;
        inside.sort();
        for file in inside.iter().filter(|p| p.is_file()) {
            let file_name = file.file_name().unwrap_or_default().to_string_lossy();
            self.text(&format!("{name}/{file_name}"), &hash_file(file)?);
        }
        Ok(())
    }

    /// The hash, in hex.
    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_means_these_inputs_and_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("output");
        let outputs = std::slice::from_ref(&output);
        let mut stages = Stages::read(dir.path());
        assert_eq!(stages.state("train", "a", outputs), State::New);
        stages.begin("train", "a").unwrap();
        stages.spent("train", 2.0, false).unwrap();
        assert_eq!(stages.state("train", "a", outputs), State::Begun);
        assert_eq!(stages.state("train", "b", outputs), State::New);

        let mut stages = Stages::read(dir.path());
        stages.begin("train", "a").unwrap();
        stages.spent("train", 3.0, true).unwrap();
        assert_eq!(stages.seconds("train"), Some(5.0));
        assert_eq!(stages.state("train", "a", outputs), State::New);
        std::fs::write(&output, "").unwrap();
        assert_eq!(stages.state("train", "a", outputs), State::Done);
        stages.begin("train", "b").unwrap();
        assert_eq!(stages.seconds("train"), Some(0.0));
        assert_eq!(stages.seconds("eval"), None);
    }

    #[test]
    fn a_damaged_file_only_costs_work() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("stages.json"), "{\"train\":").unwrap();
        assert_eq!(Stages::read(dir.path()).state("train", "a", &[]), State::New);
    }

    #[test]
    fn names_and_contents_do_not_run_together() {
        let hash = |pairs: &[(&str, &str)]| {
            let mut inputs = Inputs::default();
            for (name, text) in pairs {
                inputs.text(name, text);
            }
            inputs.finish()
        };
        assert_ne!(hash(&[("a", "bc")]), hash(&[("ab", "c")]));
        assert_ne!(hash(&[("a", ""), ("b", "")]), hash(&[("a", "b")]));
        assert_eq!(hash(&[]).len(), 64);
    }
}
