//! run/manifest.json: what made each artefact of a run directory, and each figure of its summary. In: the options and
//! the hashes of everything that the work reads, before it begins, and of what it wrote, when it has ended; out:
//! whether it has to be done, gone on with, or begun. Invariants: an artefact counts as made only if the inputs of its
//! record are the present ones and its files are those that the record names, byte for byte.

mod results;

use crate::failure::Kind;
use crate::inputs::Inputs;
use crate::stage::report;
use eraser_data::files::{hash_file, write_atomic};
use eraser_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

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
    /// Hex SHA-256 of each file of results (answers, scores, figures, metrics), as it was written.
    #[serde(default, alias = "answers")]
    results: BTreeMap<String, String>,
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

/// Work that has begun.
pub(crate) struct Begun {
    artefact: String,
    /// The record that it replaces.
    earlier: Option<Record>,
    /// Seconds of earlier attempts.
    before: f64,
    start: Instant,
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

    /// Why a recorded artefact has to be made again from `inputs`, in a line; None where no record says that it was
    /// made.
    pub(crate) fn why_again(&self, artefact: &str, inputs: &Inputs) -> Option<String> {
        let record = self.stored.artefacts.get(artefact)?;
        let now = inputs.hashes();
        let other = |(name, hash): &(&String, &String)| now.get(*name).is_some_and(|now| now != *hash);
        let changed: Vec<&str> = record.inputs.iter().filter(other).map(|(name, _)| name.as_str()).collect();
        // The column of a file goes with the file, and an adapter with the variant that is trained.
        let goes_with = |name: &str| ["column ", "adapter "].iter().any(|of| name.starts_with(of));
        let only = |these: &BTreeMap<String, String>, others: &BTreeMap<String, String>| -> Vec<String> {
            these.keys().filter(|name| !others.contains_key(*name) && !goes_with(name)).cloned().collect()
        };
        let (joined, left) = (only(now, &record.inputs), only(&record.inputs, now));
        let mut why = Vec::new();
        if !changed.is_empty() {
            why.push(format!("these changed: {}", changed.join(", ")));
        }
        if !joined.is_empty() {
            why.push(format!("these are new: {}", joined.join(", ")));
        }
        if !left.is_empty() {
            why.push(format!("these are asked for no more: {}", left.join(", ")));
        }
        if !why.is_empty() {
            return Some(format!("{artefact} is made again, because {}", why.join("; ")));
        }
        let removed = record.ended.is_some() && record.inputs == *now;
        removed.then(|| format!("{artefact} is made again: its files are not there"))
    }

    /// Records that the work for an artefact begins. Until [`Self::end`] the artefact counts as not made.
    ///
    /// # Errors
    /// A manifest that cannot be written.
    pub(crate) fn begin(&mut self, request: &Request<'_>) -> Result<Begun> {
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
        let artefact = request.artefact.to_owned();
        let earlier = self.stored.artefacts.insert(artefact.clone(), record);
        self.write()?;
        // A report that is there tells from now on that something is being made anew, also if this never ends.
        report::refresh(&self.dir);
        Ok(Begun { artefact, earlier, before, start: Instant::now() })
    }

    /// Records how the work ended that was begun: what it wrote, or that it failed.
    ///
    /// # Errors
    /// A file that cannot be read; a manifest that cannot be written.
    pub(crate) fn end(&mut self, begun: Begun, outcome: std::result::Result<Outputs, ErrorKind>) -> Result<()> {
        let Begun { artefact, earlier, before, start } = begun;
        let seconds = before + start.elapsed().as_secs_f64();
        let written = match outcome {
            Ok(outputs) => Some(self.hashed(outputs)?),
            // Work that was refused made nothing: what was there before still is.
            Err(ErrorKind::Request) if earlier.as_ref().is_some_and(|r| r.ended.is_some()) => {
                self.stored.artefacts.extend(earlier.map(|earlier| (artefact, earlier)));
                self.write()?;
                report::refresh(&self.dir);
                return Ok(());
            }
            Err(_) => None,
        };
        let failed = written.is_none();
        if let Some(record) = self.stored.artefacts.get_mut(&artefact) {
            record.seconds = seconds;
            if let Some((files, fingerprint)) = written {
                (record.files, record.fingerprint, record.ended) = (files, fingerprint, Some(now()));
            }
        }
        self.write()?;
        if failed {
            report::refresh(&self.dir);
        }
        Ok(())
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
        let begun = self.begin(request)?;
        let result = work();
        let outcome = match &result {
            Ok(value) => Ok(outputs(value)?),
            Err(error) => Err(error.kind()),
        };
        self.end(begun, outcome)?;
        result
    }

    fn hashed(&self, outputs: Outputs) -> Result<(BTreeMap<String, String>, Option<String>)> {
        let mut files = BTreeMap::new();
        for path in outputs.files {
            files.insert(self.name_of(&path), hash_file(&path)?);
        }
        Ok((files, outputs.fingerprint))
    }

    /// The path of a file in the run directory.
    fn name_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.dir).unwrap_or(path).to_string_lossy().replace('\\', "/")
    }

    /// Records that `other` comes from the work that made `artefact`, if it is there; else removes its record.
    pub(crate) fn copy(&mut self, artefact: &str, other: &str, there: bool) -> Result<()> {
        let record = self.stored.artefacts.get(artefact).cloned().filter(|_| there);
        match record {
            Some(record) => self.stored.artefacts.insert(other.to_owned(), record),
            None => self.stored.artefacts.remove(other),
        };
        self.write()
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

    /// Removes the records of artefacts, and the hashes of files of results, that are gone.
    pub(crate) fn forget(&mut self, gone: impl Fn(&str) -> bool) -> Result<()> {
        let Stored { artefacts, results, .. } = &mut self.stored;
        let before = artefacts.len() + results.len();
        artefacts.retain(|name, _| !gone(name));
        results.retain(|name, _| !gone(name));
        if artefacts.len() + results.len() < before { self.write() } else { Ok(()) }
    }

    /// Takes over the record of an artefact from the manifest of another directory, and the hashes of the results whose
    /// names begin with `results`.
    pub(crate) fn adopt(&mut self, from: &Self, artefact: &str, results: &str) -> Result<()> {
        let Some(record) = from.get(artefact) else { return Ok(()) };
        self.stored.artefacts.insert(artefact.to_owned(), record.clone());
        let taken = from.stored.results.iter().filter(|(name, _)| name.starts_with(results));
        self.stored.results.extend(taken.map(|(name, hash)| (name.clone(), hash.clone())));
        self.write()
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

/// Whether an artefact is an adapter of the run.
pub(crate) fn is_adapter(artefact: &str) -> bool {
    artefact == "adapter" || artefact.starts_with("variants/") && artefact.ends_with("/adapter")
}

/// The features of this build that decide where and with what it computes.
pub fn features() -> impl Iterator<Item = &'static str> {
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
mod tests;
