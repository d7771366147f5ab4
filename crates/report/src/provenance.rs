//! Which adapter a figure is of. In: `manifest.json`, `subjects.json`, the summary; out: whether each subject's figures are of
//! the adapter that is in the directory now, and whether the data report is of the sets that were trained on. Invariant: what
//! cannot be told is unknown, never current.

use crate::error::{Error, Result};
use crate::summary::{Subject, Summary};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path};

/// The only layout this version reads.
const SCHEMA: u32 = 1;
/// The record of the prepared sets.
const SETS: &str = "data";
/// More artefacts than any run has.
const MAX: usize = 100_000;
/// Hex digits of a fingerprint that a reader sees.
const SHORT: usize = 12;

/// `manifest.json`: where each artefact comes from.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Manifest {
    schema: u32,
    artefacts: BTreeMap<String, Artefact>,
}

/// One artefact, by its path in the run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Artefact {
    /// Of an adapter: hex SHA-256 of its settings and tensors.
    fingerprint: Option<String>,
    /// Hex SHA-256 of its files, by their path in the run.
    files: BTreeMap<String, String>,
    /// Hex SHA-256 of what it was made from.
    inputs: BTreeMap<String, String>,
    /// When it was done; None: the work was interrupted.
    ended: Option<String>,
}

/// Whether a subject's figures are of the adapter that is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FigureState {
    Current,
    /// They are of an earlier one; how that shows.
    Stale(String),
    /// Nothing says so; why.
    Unknown(String),
}

/// What the directory says about its figures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Provenance {
    subjects: BTreeMap<String, FigureState>,
    /// What a reader of the data report must know; None: the sets are those that were trained on.
    pub(crate) data: Option<String>,
    /// Files of answers of an evaluation that was interrupted: `base direct`.
    unfinished: Vec<String>,
    /// Files of answers that were changed after the evaluation had written them.
    edited: Vec<String>,
}

impl Manifest {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let manifest: Self = crate::files::json(path)?;
        if manifest.schema != SCHEMA {
            return Err(Error::content(path, format_args!("schema {}, this version reads {SCHEMA}", manifest.schema)));
        }
        if manifest.artefacts.len() > MAX {
            return Err(Error::content(path, format_args!("more than {MAX} artefacts")));
        }
        Ok(manifest)
    }
}

impl Provenance {
    /// Compares what the summary was measured on with what is in the directory `run`. `adapters` are the subjects with the
    /// directories of their adapters in the run; `data` says that there is a data report.
    pub(crate) fn find(
        run: &Path,
        manifest: Option<&Manifest>,
        summary: Option<&Summary>,
        adapters: &[(String, String)],
        data: bool,
    ) -> Result<Self> {
        let edited = manifest.map_or_else(|| Ok(Vec::new()), |manifest| edited(run, manifest))?;
        let mut found = Self { unfinished: unfinished(run)?, edited, ..Self::default() };
        let home = |name: &str| adapters.iter().find(|(subject, _)| subject == name).map(|(_, home)| home.as_str());
        for subject in summary.iter().flat_map(|s| s.hardened()) {
            let standing = match (manifest, home(&subject.name)) {
                (None, _) => {
                    FigureState::Unknown("no manifest.json is there, because an older version made this run".to_owned())
                }
                (_, None) => FigureState::Unknown("its adapter is not part of this run".to_owned()),
                (Some(manifest), Some(home)) => state_of(run, manifest, subject, home)?,
            };
            found.subjects.insert(subject.name.clone(), standing);
        }
        if data {
            let homes: Vec<&str> = adapters.iter().map(|(_, home)| home.as_str()).collect();
            found.data = match manifest {
                None => Some("Whether these sets were trained on is unknown: there is no manifest.json.".to_owned()),
                Some(manifest) => sets(run, manifest, &homes)?,
            };
        }
        Ok(found)
    }

    pub(crate) fn of(&self, subject: &str) -> FigureState {
        self.subjects
            .get(subject)
            .cloned()
            .unwrap_or_else(|| FigureState::Unknown("nothing is recorded of it".to_owned()))
    }

    /// The name that a subject's figures are shown under.
    pub(crate) fn label(&self, subject: &str) -> String {
        match self.subjects.get(subject) {
            Some(FigureState::Stale(_)) => format!("{subject} (earlier adapter)"),
            _ => subject.to_owned(),
        }
    }

    /// Whether any subject's figures are of an earlier adapter.
    pub(crate) fn any_stale(&self) -> bool {
        self.subjects.values().any(|s| matches!(s, FigureState::Stale(_)))
    }

    /// What a reader of the figures must know of them, in one line; None when all is known.
    pub(crate) fn unknown(&self) -> Option<String> {
        let interrupted = (!self.unfinished.is_empty()).then(|| {
            format!(
                "An evaluation was interrupted: figures of {} may be of earlier answers, which are gone. Run it again.",
                crate::format::list(&self.unfinished)
            )
        });
        let edited = (!self.edited.is_empty()).then(|| {
            format!(
                "Answers were changed after the evaluation had written them ({}): they may not be what the model answered. To \
                 measure again, run `eraser eval` with `--force`.",
                crate::format::list(&self.edited)
            )
        });
        let told: Vec<String> = interrupted.into_iter().chain(edited).chain(self.unknown_subjects()).collect();
        (!told.is_empty()).then(|| told.join(" "))
    }

    /// In one line, the subjects for which it is unknown; None when it is known for all.
    fn unknown_subjects(&self) -> Option<String> {
        let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, standing) in &self.subjects {
            if let FigureState::Unknown(reason) = standing {
                by_reason.entry(reason).or_default().push(name.clone());
            }
        }
        let told = |(reason, names): (&&str, &Vec<String>)| format!("{}: {reason}", crate::format::list(names));
        let told: Vec<String> = by_reason.iter().map(told).collect();
        (!told.is_empty()).then(|| {
            format!("Whether the figures are of the adapter in this directory is unknown ({}).", told.join("; "))
        })
    }
}

fn state_of(run: &Path, manifest: &Manifest, subject: &Subject, home: &str) -> Result<FigureState> {
    let Some(artefact) = manifest.artefacts.get(home) else {
        return Ok(FigureState::Unknown(format!("manifest.json has no record of {home}")));
    };
    let (Some(evaluated), Some(trained)) = (&subject.adapter, &artefact.fingerprint) else {
        return Ok(FigureState::Unknown("its fingerprint is not recorded".to_owned()));
    };
    let short = |text: &str| text.chars().take(SHORT).collect::<String>();
    if evaluated != trained {
        if as_evaluated(run, manifest, &subject.name, artefact)? {
            return Ok(FigureState::Current);
        }
        let reason = format!("{} was evaluated, {home} holds {}", short(evaluated), short(trained));
        return Ok(FigureState::Stale(reason));
    }
    for (path, recorded) in &artefact.files {
        match sha256(run, path)? {
            None => return Ok(FigureState::Unknown(format!("{path} is not there"))),
            Some(found) if found != *recorded => {
                return Ok(FigureState::Stale(format!("{path} was changed after it was trained")));
            }
            Some(_) => {}
        }
    }
    Ok(FigureState::Current)
}

/// The files of answers that `eraser eval` began to make and did not end, as `subject file`, in order.
fn unfinished(run: &Path) -> Result<Vec<String>> {
    let eval = run.join("eval");
    let mut found = Vec::new();
    let subjects = if eval.is_dir() { crate::files::entries(&eval)? } else { Vec::new() };
    for subject in subjects.iter().filter(|path| path.is_dir()) {
        let files = crate::files::entries(subject)?;
        for file in files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "unfinished")) {
            let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.push(format!("{} {}", name(subject), name(file)));
        }
    }
    Ok(found)
}

/// The files of answers and of scores that are not those that were recorded, in order. After an evaluation that was
/// interrupted nothing is said: it may have replaced files of the one before.
fn edited(run: &Path, manifest: &Manifest) -> Result<Vec<String>> {
    let ended = |name: &str| manifest.artefacts.get(name).is_some_and(|a| a.ended.is_some());
    let mut found = Vec::new();
    for (dir, made_by) in [("eval/", "summary.json"), ("bench/", "bench.json")] {
        let recorded = manifest.artefacts.iter().filter(|(name, _)| name.starts_with(dir) && ended(made_by));
        for (name, hash) in recorded.filter_map(|(name, artefact)| Some((name, artefact.files.get(name)?))) {
            if sha256(run, name)?.is_some_and(|now| now != *hash) {
                found.push(name.clone());
            }
        }
    }
    Ok(found)
}

/// Whether an adapter's files are those that the last evaluation of the subject `name` read, though not those that training
/// wrote: someone put others in their place before it.
fn as_evaluated(run: &Path, manifest: &Manifest, name: &str, adapter: &Artefact) -> Result<bool> {
    let answers = format!("eval/{name}/");
    let mut records =
        manifest.artefacts.iter().filter(|(path, _)| path.starts_with(&answers)).map(|(_, a)| a).peekable();
    if records.peek().is_none() || adapter.files.is_empty() {
        return Ok(false);
    }
    let mut now = Vec::new();
    for path in adapter.files.keys() {
        let file = path.rsplit('/').next().unwrap_or(path);
        now.push((format!("adapter {name}/{file}"), sha256(run, path)?));
    }
    Ok(records
        .all(|record| now.iter().all(|(input, hash)| hash.is_some() && record.inputs.get(input) == hash.as_ref())))
}

/// What to say of the sets of the data report: nothing where they are those that every adapter was trained on.
fn sets(run: &Path, manifest: &Manifest, adapters: &[&str]) -> Result<Option<String>> {
    let trained: Vec<(&&str, &Artefact)> =
        adapters.iter().filter_map(|home| Some((home, manifest.artefacts.get(*home)?))).collect();
    if trained.is_empty() {
        return Ok(Some("No training on these sets is recorded.".to_owned()));
    }
    let mut differing = Vec::new();
    for (home, artefact) in trained {
        for (path, recorded) in artefact.inputs.iter().filter(|(path, _)| path.starts_with("data/")) {
            let prepared = manifest.artefacts.get(SETS).and_then(|a| a.files.get(path));
            let now = sha256(run, path)?;
            let same = now.as_ref().is_none_or(|now| now == recorded) && prepared.is_none_or(|p| p == recorded);
            if !same {
                differing.push(format!("{path} ({home})"));
            }
        }
    }
    Ok((!differing.is_empty()).then(|| {
        format!(
            "These are not the rows that were trained on: the sets were prepared again after the training. They differ in {}.",
            crate::format::list(&differing)
        )
    }))
}

/// Hex SHA-256 of a file of the run; None when it is not there, or not inside the run.
fn sha256(run: &Path, path: &str) -> Result<Option<String>> {
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
    let mut text = String::new();
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(Some(text))
}
