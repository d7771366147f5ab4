//! What a run directory holds, read and checked. Input: the directory. Invariant: every piece is optional, since a
//! report of half a run is asked for too; a piece that is there and damaged is an error.

use crate::data::DataReport;
use crate::error::{Error, Result};
use crate::files::{self, json};
use crate::metrics::Metrics;
use crate::provenance::{Manifest, Provenance};
use crate::study::Study;
use crate::summary::Summary;
use crate::training::TrainingSummary;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// Everything but the answers, which are read on demand.
#[derive(Default)]
pub(crate) struct Run {
    /// `summary.json`.
    pub(crate) summary: Option<Summary>,
    /// `plan.toml`, unchanged.
    pub(crate) plan: Option<String>,
    /// Hardened subjects with their training, in the order of `subjects.json`, else of the summary.
    pub(crate) trained: Vec<Trained>,
    /// The stages that were run, by name: `stages.json`.
    pub(crate) stages: BTreeMap<String, Stage>,
    /// What the sets hold, if they were prepared: `data_report.json`.
    pub(crate) data: Option<DataReport>,
    /// Phrases of each keyword judge, by its name in the summary: `judges.json`.
    pub(crate) judges: BTreeMap<String, Vec<String>>,
    /// `study.json`, if the run is one.
    pub(crate) study: Option<Study>,
    /// What outlasts merging, quantising and fine-tuning: `durability.json`.
    pub(crate) durability: Option<Study>,
    /// Which adapters the figures are of.
    pub(crate) provenance: Provenance,
}

/// One stage of the run.
#[derive(Deserialize)]
pub(crate) struct Stage {
    /// Hash of everything the stage read: model, settings, files.
    pub(crate) input: String,
    pub(crate) done: bool,
}

/// How a subject was made.
pub(crate) struct Trained {
    pub(crate) name: String,
    pub(crate) settings: Map<String, Value>,
    /// None: there is no metrics file.
    pub(crate) metrics: Option<Metrics>,
    /// What training ended with: `summary.json` beside the metrics. None: there is no such file.
    pub(crate) summary: Option<TrainingSummary>,
}

/// An entry of `subjects.json`.
#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    metrics: Option<String>,
    /// Directory of its adapter in the run.
    #[serde(default)]
    adapter: Option<String>,
    #[serde(default)]
    settings: Map<String, Value>,
}

impl Run {
    /// Reads the directory `run`.
    pub(crate) fn read(run: &Path) -> Result<Self> {
        std::fs::read_dir(run).map_err(|e| Error::read(run, e))?;
        let summary = optional(&run.join("summary.json"), Summary::read)?;
        let plan = optional(&run.join("plan.toml"), files::read_text)?;
        let entries = match optional(&run.join("subjects.json"), json::<Vec<Entry>>)? {
            Some(entries) => entries,
            None => entries_by_convention(run, summary.as_ref()),
        };
        if summary.is_none() && plan.is_none() && entries.is_empty() && !run.join("eval").is_dir() {
            return Err(Error::NotARun(run.to_path_buf()));
        }
        let stages = optional(&run.join("stages.json"), json)?.unwrap_or_default();
        let judges = optional(&run.join("judges.json"), json)?.unwrap_or_default();
        let study = optional(&run.join("study.json"), Study::read)?;
        let durability = optional(&run.join("durability.json"), Study::read)?;
        let data = optional(&run.join("data_report.json"), DataReport::read)?;
        let manifest = optional(&run.join("manifest.json"), Manifest::read)?;
        let home = |(i, e): (usize, &Entry)| {
            (e.name.clone(), e.adapter.clone().unwrap_or_else(|| home(i, &e.name, "adapter")))
        };
        let adapters: Vec<(String, String)> = entries.iter().enumerate().map(home).collect();
        let provenance = Provenance::find(run, manifest.as_ref(), summary.as_ref(), &adapters, data.is_some())?;
        let trained = entries.into_iter().map(|e| e.read(run)).collect::<Result<_>>()?;
        Ok(Self { summary, plan, trained, stages, data, judges, study, durability, provenance })
    }
}

impl Run {
    /// What the training of a subject ended with.
    pub(crate) fn training(&self, subject: &str) -> Option<&TrainingSummary> {
        self.trained.iter().find(|t| t.name == subject)?.summary.as_ref()
    }
}

impl Entry {
    fn read(self, run: &Path) -> Result<Trained> {
        let (metrics, summary) = match &self.metrics {
            None => (None, None),
            Some(path) => {
                let relative = Path::new(path);
                if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
                    let message = format!("subject `{}`: metrics `{path}` is not inside the run", self.name);
                    return Err(Error::content(&run.join("subjects.json"), message));
                }
                let path = run.join(relative);
                let summary = optional(&path.with_file_name("summary.json"), TrainingSummary::read)?;
                (optional(&path, Metrics::read)?, summary)
            }
        };
        Ok(Trained { name: self.name, settings: self.settings, metrics, summary })
    }
}

/// Where something of the subject number `i` is: the first one's is in the run itself, the others' in `variants/<name>`.
fn home(i: usize, name: &str, what: &str) -> String {
    if i == 0 { what.to_owned() } else { format!("variants/{name}/{what}") }
}

/// Without `subjects.json`: `train/metrics.jsonl` belongs to the first hardened subject and
/// `variants/<name>/train/metrics.jsonl` to each of the others.
fn entries_by_convention(run: &Path, summary: Option<&Summary>) -> Vec<Entry> {
    let mut names: Vec<String> = summary.iter().flat_map(|s| s.hardened()).map(|s| s.name.clone()).collect();
    if names.is_empty() && run.join("train/metrics.jsonl").is_file() {
        names.push("eraser".into());
    }
    let path = |(i, name): (usize, String)| {
        let metrics = home(i, &name, "train/metrics.jsonl");
        // A name that would lead out of the run has no metrics.
        let inside = !name.contains(['/', '\\']) && name != "..";
        Entry { metrics: inside.then_some(metrics), adapter: None, name, settings: Map::new() }
    };
    names.into_iter().enumerate().map(path).collect()
}

/// None when there is no such file; any other failure is an error.
fn optional<T>(path: &Path, read: impl FnOnce(&Path) -> Result<T>) -> Result<Option<T>> {
    match read(path) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_no_run() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Run::read(dir.path()), Err(Error::NotARun(_))));
        assert!(matches!(Run::read(&dir.path().join("none")), Err(Error::Read { .. })));
    }

    #[test]
    fn metrics_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/passwd", "a/../../b"] {
            let text = format!(r#"[{{"name":"eraser","metrics":"{path}"}}]"#);
            std::fs::write(dir.path().join("subjects.json"), text).unwrap();
            assert!(matches!(Run::read(dir.path()), Err(Error::Content { .. })), "{path}");
        }
    }
}
