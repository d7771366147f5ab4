//! Which adapter a figure is of. In: the manifest, `subjects.json`, the summary; out: whether each subject's figures
//! are of the adapter that is in the directory now, and whether the data report is of the sets that were trained on.
//! Invariant: what cannot be told is unknown, never current.

use crate::changed;
use crate::error::Result;
use crate::manifest::{Manifest, Record, sha256, short};
use crate::measured;
use crate::summary::{Subject, Summary};
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// The record of the prepared sets.
const SETS: &str = "data";
/// The file of the run's format before manifest.json.
const BEFORE: &str = "stages.json";

/// Whether a subject's figures are of the adapter that is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FigureState {
    Current,
    /// They are of an earlier one; how that shows.
    Stale(String),
    /// They are of an earlier one, and the training of the next one was begun and has not ended; how that shows.
    Untrained(String),
    /// Nothing says so; why.
    Unknown(String),
}

/// What the directory says about its figures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Provenance {
    subjects: BTreeMap<String, FigureState>,
    /// What a reader of the data report must know; None: the sets are those that were trained on.
    pub(crate) data: Option<String>,
    /// What must be said of files of results that are not as they were written.
    changed: Vec<String>,
    /// What must be said of what was trained on and asked.
    trained: Vec<String>,
}

impl Provenance {
    /// Compares what the summary was measured on with what is in the directory `run`. `adapters` are the subjects with
    /// the directories of their adapters in the run; `data` says that there is a data report.
    pub(crate) fn find(
        run: &Path,
        manifest: Option<&Manifest>,
        summary: Option<&Summary>,
        adapters: &[(String, String)],
        data: bool,
    ) -> Result<Self> {
        let changed = manifest.map(|manifest| changed::sentences(run, manifest)).transpose()?.unwrap_or_default();
        let mut found = Self { changed, ..Self::default() };
        let homes: Vec<&str> = adapters.iter().map(|(_, home)| home.as_str()).collect();
        found.changed.extend(manifest.iter().flat_map(|manifest| changed::unended(manifest, &homes)));
        for note in manifest.iter().flat_map(|m| m.requests.values()).flat_map(measured::notes) {
            if !found.trained.iter().any(|known| known == note) {
                found.trained.push(note.to_owned());
            }
        }
        let home = |name: &str| adapters.iter().find(|(subject, _)| subject == name).map(|(_, home)| home.as_str());
        for subject in summary.iter().flat_map(|s| s.hardened()) {
            let standing = match (manifest, home(&subject.name)) {
                // It has no adapter here; which model a server had, its own test says.
                _ if subject.served.is_some() => FigureState::Current,
                (None, _) => FigureState::Unknown(no_manifest(run, subject).to_owned()),
                (_, None) => FigureState::Unknown("subjects.json does not say where its adapter is".to_owned()),
                (Some(manifest), Some(home)) => {
                    let evaluations = evaluations(manifest, &subject.name);
                    let measured = Measured { adapter: subject.adapter.as_deref(), by: &evaluations };
                    state_of(run, manifest, &subject.name, home, &measured)?
                }
            };
            found.subjects.insert(subject.name.clone(), standing);
        }
        if data {
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
            Some(FigureState::Stale(_) | FigureState::Untrained(_)) => format!("{subject} (earlier adapter)"),
            _ => subject.to_owned(),
        }
    }

    /// Whether any subject's figures are of an earlier adapter.
    pub(crate) fn any_stale(&self) -> bool {
        self.subjects.values().any(|s| matches!(s, FigureState::Stale(_) | FigureState::Untrained(_)))
    }

    /// What a reader of the figures must know of them, in one line; None when all is known.
    pub(crate) fn unknown(&self) -> Option<String> {
        let trained = (!self.trained.is_empty())
            .then(|| format!("What was trained on and what is asked: {}.", self.trained.join("; ")));
        let told: Vec<String> =
            trained.into_iter().chain(self.changed.iter().cloned()).chain(self.unknown_subjects()).collect();
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

/// Why nothing is known of a subject where there is no manifest.json.
fn no_manifest(run: &Path, subject: &Subject) -> &'static str {
    if run.join(BEFORE).exists() {
        "an older version made this run, which wrote no manifest.json"
    } else if subject.fingerprint.is_some() {
        "manifest.json was removed"
    } else {
        "there is no manifest.json"
    }
}

/// How figures were measured.
pub(crate) struct Measured<'a> {
    /// The fingerprint of the adapter; None: not recorded.
    pub(crate) adapter: Option<&'a str>,
    /// The records of what measured them.
    pub(crate) by: &'a [&'a Record],
}

/// The requests that figures of the subject `name` come from.
pub(crate) fn evaluations<'a>(manifest: &'a Manifest, name: &str) -> Vec<&'a Record> {
    let of = |figure: &str| figure.split('/').nth(1) == Some(name);
    let mut numbers: Vec<u64> = manifest.figures.iter().filter(|(f, _)| of(f)).map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.iter().filter_map(|number| manifest.requests.get(number)).collect()
}

/// Whether figures of `name` are of the adapter that is in `home` now.
pub(crate) fn state_of(
    run: &Path,
    manifest: &Manifest,
    name: &str,
    home: &str,
    measured: &Measured<'_>,
) -> Result<FigureState> {
    let unknown = |why: String| Ok(FigureState::Unknown(why));
    let inside = Path::new(home).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside {
        return unknown(format!("its adapter is not in this directory: {home}"));
    }
    // A directory, or a GGUF file.
    let there = run.join(home).exists();
    let Some(artefact) = manifest.artefacts.get(home) else {
        if !there {
            return unknown(format!("its adapter was removed: {home}"));
        }
        return match as_measured(run, name, home, measured.by)? {
            Some(true) => Ok(FigureState::Current),
            Some(false) => Ok(FigureState::Stale(format!("{home} was changed after it was evaluated"))),
            None => {
                unknown(format!("{home} was not trained in this directory, and what was evaluated is not recorded"))
            }
        };
    };
    let Some(trained) = &artefact.fingerprint else {
        return Ok(if artefact.ended.is_none() {
            FigureState::Untrained(format!("the training of {home} was begun again and has not ended"))
        } else {
            FigureState::Unknown(format!("the training of {home} recorded no fingerprint"))
        });
    };
    let Some(evaluated) = measured.adapter else {
        return unknown("an older version evaluated it, which recorded no fingerprint".to_owned());
    };
    if evaluated != trained {
        if as_measured(run, name, home, measured.by)? == Some(true) {
            return Ok(FigureState::Current);
        }
        return Ok(FigureState::Stale(format!("{} was evaluated, {home} holds {}", short(evaluated), short(trained))));
    }
    for (path, recorded) in &artefact.files {
        match sha256(run, path)? {
            None if !there => return unknown(format!("its adapter was removed: {home}")),
            None => return unknown(format!("{path} is not there")),
            Some(found) if found != *recorded => {
                return Ok(FigureState::Stale(format!("{path} was changed after it was trained")));
            }
            Some(_) => {}
        }
    }
    Ok(FigureState::Current)
}

/// Whether the files in `home` are those that every one of these records read as the adapter of `name`; None: they do
/// not say.
fn as_measured(run: &Path, name: &str, home: &str, records: &[&Record]) -> Result<Option<bool>> {
    let of = format!("adapter {name}");
    let mut same = None;
    for (input, recorded) in records.iter().flat_map(|record| &record.inputs) {
        // Nothing follows the name of an adapter that is one file.
        let Some(file) = input.strip_prefix(&of).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            continue;
        };
        let found = sha256(run, &format!("{home}{file}"))?;
        same = Some(same.unwrap_or(true) && found.as_ref() == Some(recorded));
    }
    Ok(same)
}

/// What to say of the sets of the data report: nothing where they are those that every adapter was trained on.
fn sets(run: &Path, manifest: &Manifest, adapters: &[&str]) -> Result<Option<String>> {
    let trained: Vec<(&&str, &Record)> =
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
