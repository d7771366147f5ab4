//! `manifest.json`: what made each artefact of a run, and which request measured each figure. In: the file; out: its
//! records. Invariant after [`Manifest::read`]: the layout is one that this version knows, and no list is longer than a
//! run's.

use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path};

/// The only layout this version reads.
const SCHEMA: u32 = 1;
/// More artefacts, figures or files than any run has.
const MAX: usize = 100_000;
/// Hex digits of a hash that a reader sees.
const SHORT: usize = 12;

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Manifest {
    schema: u32,
    /// By their paths in the run.
    pub(crate) artefacts: BTreeMap<String, Record>,
    /// Evaluations and benchmarks that figures of the summary come from, in the order in which they were made.
    #[serde(default)]
    pub(crate) requests: BTreeMap<u64, Record>,
    /// The request of each figure; how figures are named, see [`attack`] and its siblings.
    #[serde(default)]
    pub(crate) figures: BTreeMap<String, u64>,
    /// Hex SHA-256 of each file of results, as it was written.
    #[serde(default, alias = "answers")]
    pub(crate) results: BTreeMap<String, String>,
}

/// What made something.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) verb: String,
    pub(crate) version: String,
    pub(crate) commit: Option<String>,
    pub(crate) options: Value,
    /// Of an adapter: hex SHA-256 of its settings and tensors.
    pub(crate) fingerprint: Option<String>,
    /// Hex SHA-256 of its files, by their path in the run.
    pub(crate) files: BTreeMap<String, String>,
    /// Hex SHA-256 of what it was made from.
    pub(crate) inputs: BTreeMap<String, String>,
    pub(crate) seed: Option<u64>,
    pub(crate) started: String,
    /// None: it was interrupted, or failed.
    pub(crate) ended: Option<String>,
    /// Spent on it.
    pub(crate) seconds: f64,
}

impl Manifest {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let manifest: Self = crate::files::json(path)?;
        if manifest.schema != SCHEMA {
            return Err(Error::content(path, format_args!("schema {}, this version reads {SCHEMA}", manifest.schema)));
        }
        let Self { artefacts, requests, figures, results, .. } = &manifest;
        if [artefacts.len(), requests.len(), figures.len(), results.len()].iter().any(|n| *n > MAX) {
            return Err(Error::content(path, format_args!("more than {MAX} entries in a list")));
        }
        Ok(manifest)
    }

    /// The request that a figure comes from.
    pub(crate) fn request_of(&self, figure: &str) -> Option<&Record> {
        self.requests.get(self.figures.get(figure)?)
    }
}

/// The name of an attack's figure. The pool of an attack and its parts are one.
pub(crate) fn attack(subject: &str, attack: &str, set: &str, judge: &str) -> String {
    format!("attack/{subject}/{}/{set}/{judge}", attack.split(':').next().unwrap_or_default())
}

/// The name of the figure of a task's metric.
pub(crate) fn utility(subject: &str, task: &str, metric: &str) -> String {
    format!("utility/{subject}/{task}/{metric}")
}

/// The name of the figure of refusals; `kind` is `over-refusal` or `contrast`.
pub(crate) fn refusals(kind: &str, subject: &str, set: &str) -> String {
    format!("{kind}/{subject}/{set}")
}

/// The name of the figures of what a set of known answers costs, in all contexts.
pub(crate) fn likelihood(subject: &str, set: &str) -> String {
    format!("likelihood/{subject}/{set}")
}

/// The first digits of a hash.
pub(crate) fn short(hash: &str) -> String {
    hash.chars().take(SHORT).collect()
}

/// Hex SHA-256 of a file of the run; None when it is not there, or not inside the run.
pub(crate) fn sha256(run: &Path, path: &str) -> Result<Option<String>> {
    let relative = Path::new(path);
    if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
        return Ok(None);
    }
    let path = run.join(relative);
    let mut file = match File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|e| Error::read(&path, e))?,
    };
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut buffer).map_err(|e| Error::read(&path, e))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    Ok(Some(hex(hash)))
}

/// One hash of everything that something was made from.
pub(crate) fn of_inputs(record: &Record) -> String {
    let mut hash = Sha256::new();
    for (name, value) in &record.inputs {
        hash.update(format!("{name}\0{value}\n"));
    }
    hex(hash)
}

/// The first digits of one hash of several.
pub(crate) fn of_all<'a>(hashes: impl Iterator<Item = &'a str>, digits: usize) -> String {
    let mut all = Sha256::new();
    hashes.for_each(|hash| all.update(hash));
    hex(all).chars().take(digits).collect()
}

fn hex(hash: Sha256) -> String {
    let mut text = String::new();
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
