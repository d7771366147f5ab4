//! run/manifest.json: what made each artefact of a run directory, and each figure of its summary. In: the options and
//! the hashes of everything that the work reads, before it begins, and of what it wrote, when it has ended; out:
//! whether it has to be done, gone on with, or begun. Invariants: an artefact counts as made only if the inputs of its
//! record are the present ones and its files are those that the record names, byte for byte; a figure has the request
//! that measured it, a request is kept for as long as it has a figure, and a file of answers has the hash that it was
//! written with.

use crate::failure::Kind;
use crate::inputs::Inputs;
use eraser_data::files::{hash_file, write_atomic};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The file's name.
pub const FILE: &str = "manifest.json";
const SCHEMA: u32 = 1;

static COMMIT: OnceLock<String> = OnceLock::new();

/// Says which commit this program was built from; the first call counts.
pub fn built_from(commit: &str) {
    COMMIT.get_or_init(|| commit.to_owned());
}

/// The file.
#[derive(Clone, Debug)]
pub struct Manifest {
    dir: PathBuf,
    stored: Stored,
}

/// What is in the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Stored {
    schema: u32,
    artefacts: BTreeMap<String, Record>,
    /// Evaluations and benchmarks that figures of the summary come from, by number.
    #[serde(default)]
    requests: BTreeMap<u64, Record>,
    /// The request that each figure of the summary comes from.
    #[serde(default)]
    figures: BTreeMap<String, u64>,
    /// Hex SHA-256 of each file of answers or scores, as the request that wrote it left it.
    #[serde(default)]
    answers: BTreeMap<String, String>,
}

/// What made one artefact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The verb: `run`, `train`, `eval`, ..
    pub verb: String,
    /// The version of this crate.
    pub version: String,
    /// The commit that the program was built from, where it told of one by [`built_from`].
    pub commit: Option<String>,
    /// Cargo features that change what is computed or where.
    pub features: Vec<String>,
    /// Every option, defaults filled in.
    pub options: Value,
    /// SHA-256 of everything that was read, by name; sets are under `data/NAME.jsonl`.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of the files that were written and that nothing later may change, by their path in the run directory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// What identifies the artefact itself: of an adapter, the hash of its settings and tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Seed of the random streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Threads of the pool.
    pub threads: usize,
    /// When it was begun, in UTC.
    pub started: String,
    /// When it was finished; None: it was not.
    pub ended: Option<String>,
    /// Spent on it, interrupted attempts included.
    pub seconds: f64,
}

/// What is to be done about an artefact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Done,
    /// Go on: it was begun with the same inputs.
    Begun,
    /// Begin: it never was, or with other inputs.
    New,
}

/// What is known before the work begins.
pub(crate) struct Request<'a> {
    pub(crate) artefact: &'a str,
    pub(crate) verb: &'a str,
    pub(crate) options: Value,
    pub(crate) inputs: &'a Inputs,
    pub(crate) seed: Option<u64>,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    /// Files of the artefact, below the run directory, that nothing later may change.
    pub(crate) files: Vec<PathBuf>,
    /// See [`Record::fingerprint`].
    pub(crate) fingerprint: Option<String>,
}

impl Manifest {
    /// Reads the file of a run directory. A missing or damaged one is an empty one: work is then done again.
    pub fn read(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let text = std::fs::read(&path).unwrap_or_default();
        let stored = match serde_json::from_slice::<Stored>(&text) {
            Ok(stored) if stored.schema == SCHEMA => stored,
            Ok(stored) => {
                tracing::warn!("{}: schema {} is not known; every stage is done again", path.display(), stored.schema);
                Stored::default()
            }
            Err(e) => {
                if !text.is_empty() {
                    tracing::warn!("{}: {e}; every stage is done again", path.display());
                }
                Stored::default()
            }
        };
        Self { dir: dir.to_owned(), stored: Stored { schema: SCHEMA, ..stored } }
    }

    /// The record of an artefact.
    pub fn get(&self, artefact: &str) -> Option<&Record> {
        self.stored.artefacts.get(artefact)
    }

    /// Every artefact with its record, by name.
    pub fn artefacts(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.stored.artefacts.iter().map(|(name, record)| (name.as_str(), record))
    }

    /// The state of an artefact that is to be made from `inputs` and to leave `outputs`.
    ///
    /// # Errors
    /// A finished artefact whose files are no longer those that were written.
    pub(crate) fn state(&self, artefact: &str, inputs: &Inputs, outputs: &[PathBuf]) -> Result<State> {
        Ok(match self.stored.artefacts.get(artefact) {
            Some(record) if record.inputs != *inputs.hashes() => State::New,
            Some(record) if record.ended.is_none() => State::Begun,
            Some(record) if outputs.iter().all(|p| p.exists()) => {
                self.check_files(artefact, record)?;
                State::Done
            }
            _ => State::New,
        })
    }

    fn check_files(&self, artefact: &str, record: &Record) -> Result<()> {
        for (name, written) in &record.files {
            let path = self.dir.join(name);
            if path.exists() && hash_file(&path)? != *written {
                return Err(Error::request(format!("{}: changed since {artefact} was made", path.display()))
                    .hint("move it out of the run directory to keep it, or make it again by --force"));
            }
        }
        Ok(())
    }

    /// Which inputs of a recorded artefact have another content in `inputs`, by name. What only one of them has was
    /// named anew, or is named no more: it did not change.
    pub(crate) fn changed<'a>(&'a self, artefact: &str, inputs: &Inputs) -> Vec<&'a str> {
        let Some(record) = self.stored.artefacts.get(artefact) else { return Vec::new() };
        let now = inputs.hashes();
        let other = |(name, hash): &(&String, &String)| now.get(*name).is_some_and(|now| now != *hash);
        record.inputs.iter().filter(other).map(|(name, _)| name.as_str()).collect()
    }

    /// Does `work` for an artefact, recorded from its beginning to its end; `outputs` says what it wrote.
    ///
    /// # Errors
    /// Those of `work`; a manifest that cannot be written.
    pub(crate) fn record<T, E: From<Error> + Kind>(
        &mut self,
        request: &Request<'_>,
        work: impl FnOnce() -> std::result::Result<T, E>,
        outputs: impl FnOnce(&T) -> Result<Outputs>,
    ) -> std::result::Result<T, E> {
        let unfinished = self.stored.artefacts.get(request.artefact);
        let unfinished = unfinished.filter(|r| r.ended.is_none() && r.inputs == *request.inputs.hashes());
        let before = unfinished.map_or(0.0, |r| r.seconds);
        let record = Record {
            verb: request.verb.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.get().cloned(),
            features: features().map(ToOwned::to_owned).collect(),
            options: request.options.clone(),
            inputs: request.inputs.hashes().clone(),
            files: BTreeMap::new(),
            fingerprint: None,
            seed: request.seed,
            threads: eraser_ops::threads::count(),
            started: now(),
            ended: None,
            seconds: before,
        };
        let earlier = self.stored.artefacts.insert(request.artefact.to_owned(), record);
        self.write()?;
        let start = std::time::Instant::now();
        let result = work();
        let seconds = before + start.elapsed().as_secs_f64();
        let written = match &result {
            Ok(value) => Some(outputs(value).and_then(|o| self.hashed(o))?),
            Err(error) => {
                // Work that was refused made nothing: what was there before still is.
                if let Some(earlier) = earlier.filter(|r| r.ended.is_some() && error.kind() == ErrorKind::Request) {
                    self.stored.artefacts.insert(request.artefact.to_owned(), earlier);
                    self.write()?;
                    return result;
                }
                None
            }
        };
        if let Some(record) = self.stored.artefacts.get_mut(request.artefact) {
            record.seconds = seconds;
            if let Some((files, fingerprint)) = written {
                (record.files, record.fingerprint, record.ended) = (files, fingerprint, Some(now()));
            }
        }
        self.write()?;
        result
    }

    fn hashed(&self, outputs: Outputs) -> Result<(BTreeMap<String, String>, Option<String>)> {
        let mut files = BTreeMap::new();
        for path in outputs.files {
            let name = path.strip_prefix(&self.dir).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.insert(name, hash_file(&path)?);
        }
        Ok((files, outputs.fingerprint))
    }

    /// The request that a figure of the summary comes from, by the figure's name.
    pub fn request_of(&self, figure: &str) -> Option<&Record> {
        self.stored.requests.get(self.stored.figures.get(figure)?)
    }

    /// Evaluations and benchmarks that figures of the summary come from, in the order in which they were made.
    pub(crate) fn requests(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.stored.requests.values()
    }

    /// Every figure of the summary with the request that it comes from, by the figure's name.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&str, &Record)> {
        let Stored { figures, requests, .. } = &self.stored;
        figures.iter().filter_map(|(figure, number)| Some((figure.as_str(), requests.get(number)?)))
    }

    /// Records that the figures `made` come from the request that has just made `artefact`, that it wrote these `files`
    /// of answers, each with its hash, and that the summary holds the figures `present`. Requests that have no figure
    /// any more are dropped.
    pub(crate) fn attribute(
        &mut self,
        artefact: &str,
        (made, files): (&BTreeSet<String>, &[String]),
        present: &BTreeSet<String>,
    ) -> Result<()> {
        let Stored { artefacts, requests, figures, answers, .. } = &mut self.stored;
        let Some(record) = artefacts.get(artefact).cloned() else { return Ok(()) };
        let number = requests.keys().next_back().map_or(1, |last| last + 1);
        requests.insert(number, record);
        figures.extend(made.iter().map(|figure| (figure.clone(), number)));
        figures.retain(|figure, _| present.contains(figure));
        let used: BTreeSet<u64> = figures.values().copied().collect();
        requests.retain(|number, _| used.contains(number));
        for file in files {
            answers.insert(file.clone(), hash_file(&self.dir.join(file))?);
        }
        let dir = &self.dir;
        answers.retain(|file, _| dir.join(file).exists());
        self.write()
    }

    /// Removes those of `files` that were changed after the work that made `artefact` had written them, so that they
    /// are made again, and says so in a line each. After work that was interrupted nothing is known: it may have
    /// replaced files of the work before.
    pub(crate) fn discard_changed(&mut self, artefact: &str, files: &[String]) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if self.stored.artefacts.get(artefact).is_none_or(|record| record.ended.is_none()) {
            return Ok(notes);
        }
        for file in files {
            let path = self.dir.join(file);
            let Some(hash) = self.stored.answers.get(file).filter(|_| path.exists()) else { continue };
            if hash_file(&path)? != *hash {
                std::fs::remove_file(&path).writing(&path)?;
                self.stored.answers.remove(file);
                notes.push(format!("{file} was changed after it had been written: it is made again"));
            }
        }
        Ok(notes)
    }

    /// Gives the adapter on record as `artefact` the name that its variant has now.
    pub(crate) fn rename(&mut self, artefact: &str, name: &str) -> Result<()> {
        match self.stored.artefacts.get_mut(artefact) {
            Some(record) if record.options["name"] != name => {
                record.options["name"] = name.into();
                self.write()
            }
            _ => Ok(()),
        }
    }

    /// Removes the records of artefacts, and the hashes of files of answers, that are gone.
    pub(crate) fn forget(&mut self, gone: impl Fn(&str) -> bool) -> Result<()> {
        let Stored { artefacts, answers, .. } = &mut self.stored;
        let before = artefacts.len() + answers.len();
        artefacts.retain(|name, _| !gone(name));
        answers.retain(|name, _| !gone(name));
        if artefacts.len() + answers.len() < before { self.write() } else { Ok(()) }
    }

    /// Seconds spent on an artefact so far; None when it was never begun.
    pub(crate) fn seconds(&self, artefact: &str) -> Option<f64> {
        self.stored.artefacts.get(artefact).map(|record| record.seconds)
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.stored).map_err(|e| Error::failed(format!("{FILE}: {e}")))?;
        write_atomic(&self.dir.join(FILE), format!("{text}\n").as_bytes())
    }
}

/// The features of this build that decide where and with what it computes.
fn features() -> impl Iterator<Item = &'static str> {
    let all = [
        ("hub", cfg!(feature = "hub")),
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
        ("accelerate", cfg!(feature = "accelerate")),
        ("mkl", cfg!(feature = "mkl")),
    ];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name)
}

/// The time in UTC, to the second.
fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(text: &str) -> Inputs {
        let mut inputs = Inputs::default();
        inputs.text("a", text);
        inputs
    }

    fn train(manifest: &mut Manifest, text: &str, result: Result<()>, outputs: &[PathBuf]) {
        let inputs = inputs(text);
        let options = serde_json::json!({"x": 1});
        let request = Request { artefact: "adapter", verb: "train", options, inputs: &inputs, seed: Some(1) };
        let files = outputs.to_vec();
        let _ = manifest.record(&request, || result, |()| Ok(Outputs { files, fingerprint: Some("f".into()) }));
    }

    #[test]
    fn made_means_these_inputs_and_these_files() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("output");
        let outputs = std::slice::from_ref(&output);
        let state = |text: &str| Manifest::read(dir.path()).state("adapter", &inputs(text), outputs);
        assert_eq!(state("a").unwrap(), State::New);
        let mut manifest = Manifest::read(dir.path());
        train(&mut manifest, "a", Err(Error::failed("no")), &[]);
        assert_eq!((state("a").unwrap(), state("b").unwrap()), (State::Begun, State::New));

        std::fs::write(&output, "x").unwrap();
        train(&mut manifest, "a", Ok(()), outputs);
        let record = Manifest::read(dir.path()).get("adapter").cloned().unwrap();
        assert_eq!((record.verb.as_str(), record.options["x"].as_u64()), ("train", Some(1)));
        assert_eq!((record.files.len(), record.fingerprint.as_deref()), (1, Some("f")));
        assert!(record.ended.is_some() && record.seconds >= 0.0);
        assert_eq!((state("a").unwrap(), state("b").unwrap()), (State::Done, State::New));
        assert_eq!(manifest.changed("adapter", &inputs("b")), ["a"]);
        let mut others = inputs("a");
        others.text("joined", "x");
        assert!(
            manifest.changed("adapter", &others).is_empty()
                && manifest.changed("adapter", &Inputs::default()).is_empty()
        );

        std::fs::write(&output, "y").unwrap();
        assert!(state("a").unwrap_err().to_string().contains("changed since"));
        std::fs::remove_file(&output).unwrap();
        assert_eq!(state("a").unwrap(), State::New);
        manifest.forget(|name| name == "adapter").unwrap();
        assert!(Manifest::read(dir.path()).get("adapter").is_none());
    }

    /// The report could not tell figures of an earlier request from those of the last one.
    #[test]
    fn a_figure_has_the_request_that_measured_it() {
        let dir = tempfile::tempdir().unwrap();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut manifest = Manifest::read(dir.path());
        train(&mut manifest, "a", Ok(()), &[]);
        let files = ["eval/x.jsonl".to_owned()];
        std::fs::create_dir(dir.path().join("eval")).unwrap();
        std::fs::write(dir.path().join(&files[0]), "an answer").unwrap();
        manifest.attribute("adapter", (&set(&["x", "y"]), &files), &set(&["x", "y"])).unwrap();
        train(&mut manifest, "b", Ok(()), &[]);
        manifest.attribute("adapter", (&set(&["y", "z"]), &[]), &set(&["x", "y", "z"])).unwrap();
        let manifest = Manifest::read(dir.path());
        let of = |figure: &str| manifest.request_of(figure).map(|r| r.inputs["a"].clone());
        let hash = |text: &str| inputs(text).hashes()["a"].clone();
        assert_eq!(["x", "y", "z", "w"].map(of), [Some(hash("a")), Some(hash("b")), Some(hash("b")), None]);
        let mut manifest = manifest.clone();
        // What an earlier request wrote keeps its hash for as long as it is there.
        assert_eq!(manifest.stored.answers[&files[0]], hash_file(&dir.path().join(&files[0])).unwrap());
        std::fs::remove_file(dir.path().join(&files[0])).unwrap();
        manifest.attribute("adapter", (&set(&["x"]), &[]), &set(&["x"])).unwrap();
        assert!(Manifest::read(dir.path()).stored.answers.is_empty());
        assert_eq!(Manifest::read(dir.path()).stored.requests.len(), 1);
        manifest.rename("adapter", "other").unwrap();
        assert_eq!(Manifest::read(dir.path()).get("adapter").unwrap().options["name"], "other");
    }

    #[test]
    fn a_damaged_file_only_costs_work() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{\"schema\":", "{\"schema\":9,\"artefacts\":{}}", "[]"] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(Manifest::read(dir.path()).artefacts().count(), 0);
        }
    }
}
