//! What a run directory holds, read and checked. Input: the directory. Invariant: every piece is optional, since a
//! report of half a run is asked for too; a piece that is there and damaged is an error.

use crate::changed::{self, DURABILITY};
use crate::data::DataReport;
use crate::error::{Error, Result};
use crate::files::{self, json};
use crate::format::list;
use crate::head::{self, Head};
use crate::manifest::{self, Manifest};
use crate::measured::{self, Measured};
use crate::metrics::Metrics;
use crate::provenance::{self, FigureState, Provenance};
use crate::study::Study;
use crate::summary::Summary;
use crate::training::{self, Course, TrainingSummary};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// The file of a study, and the name of its record.
const STUDY: &str = "study.json";
/// The directory of the rounds of a training, beside its metrics.
const ROUNDS: &str = "rounds";
/// More rounds than any training has.
const MAX_ROUNDS: usize = 1000;

/// Everything but the answers, which are read on demand.
#[derive(Default)]
pub(crate) struct Run {
    /// What it is about.
    pub(crate) head: Head,
    /// `summary.json`.
    pub(crate) summary: Option<Summary>,
    /// `plan.toml`, unchanged.
    pub(crate) plan: Option<String>,
    /// Hardened subjects with their training, in the order of `subjects.json`, else of the summary.
    pub(crate) trained: Vec<Trained>,
    /// What made each artefact of the run: `manifest.json`.
    pub(crate) stages: Vec<Stage>,
    /// What the figures were measured on.
    pub(crate) measured: Measured,
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
    /// Seconds of each evaluation and benchmark that figures come from.
    pub(crate) requests: Vec<f64>,
    /// Why there are no figures, where there are none.
    pub(crate) unmeasured: &'static str,
}

/// One stage of the run: what made an artefact.
#[derive(Serialize)]
pub(crate) struct Stage {
    pub(crate) artefact: String,
    pub(crate) verb: String,
    pub(crate) version: String,
    pub(crate) begun: String,
    /// Hash of everything the stage read: model, settings, files.
    pub(crate) input: String,
    pub(crate) done: bool,
}

/// How a subject was made.
pub(crate) struct Trained {
    pub(crate) name: String,
    pub(crate) settings: Map<String, Value>,
    /// Those of the settings that are not the published ones, or not the preset's; None: not on record.
    pub(crate) differs: Option<Map<String, Value>>,
    /// None: there is no metrics file.
    pub(crate) metrics: Option<Metrics>,
    /// What training ended with: `summary.json` beside the metrics. None: there is no such file.
    pub(crate) summary: Option<TrainingSummary>,
    /// How far it went.
    course: Course,
    /// How it was trained.
    recipe: Option<String>,
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
        let mut summary = optional(&run.join("summary.json"), Summary::read)?;
        let plan = optional(&run.join("plan.toml"), files::read_text)?;
        let manifest = optional(&run.join("manifest.json"), Manifest::read)?;
        let entries = match optional(&run.join("subjects.json"), json::<Vec<Entry>>)? {
            Some(entries) => entries,
            None => entries_by_convention(run, summary.as_ref(), manifest.as_ref()),
        };
        if summary.is_none() && plan.is_none() && entries.is_empty() && !run.join("eval").is_dir() {
            return Err(Error::NotARun(run.to_path_buf()));
        }
        let judges = optional(&run.join("judges.json"), json)?.unwrap_or_default();
        let mut study = optional(&run.join(STUDY), Study::read)?;
        let mut durability = optional(&run.join(DURABILITY), Study::read)?;
        let data = optional(&run.join("data_report.json"), DataReport::read)?;
        let home = |(i, e): (usize, &Entry)| {
            (e.name.clone(), e.adapter.clone().unwrap_or_else(|| home(i, &e.name, "adapter")))
        };
        let adapters: Vec<(String, String)> = entries.iter().enumerate().map(home).collect();
        let provenance = Provenance::find(run, manifest.as_ref(), summary.as_ref(), &adapters, data.is_some())?;
        for study in study.iter_mut().chain(&mut durability) {
            if let Some(manifest) = &manifest {
                tell_origin(study, run, manifest, &adapters)?;
            }
        }
        let measured = summary.as_ref().map(|s| measured::measured(s, manifest.as_ref())).unwrap_or_default();
        if let (Some(summary), Some(manifest)) = (&mut summary, &manifest) {
            measured::separate(summary, manifest);
        }
        let stages = manifest.as_ref().map(stages).unwrap_or_default();
        let ended =
            |home: &str| manifest.as_ref().and_then(|m| m.artefacts.get(home)).is_none_or(|r| r.ended.is_some());
        let trained = entries.into_iter().zip(&adapters).map(|(mut e, (_, home))| {
            let record = manifest.as_ref().and_then(|m| m.artefacts.get(home));
            if e.settings.is_empty() {
                e.settings = record.and_then(|r| r.options["train"].as_object().cloned()).unwrap_or_default();
            }
            let mut trained = e.read(run, ended(home))?;
            trained.differs = record.and_then(|r| r.options["differs"].as_object().cloned());
            trained.recipe = record.and_then(|r| training::recipe(&r.options));
            let began_elsewhere = record.is_some_and(|r| r.options["train"]["init_adapter"].is_string());
            if let Some(summary) = &mut trained.summary {
                summary.began_from_adapter = began_elsewhere;
            }
            Ok(trained)
        });
        let trained = trained.collect::<Result<_>>()?;
        let seconds = manifest.iter().flat_map(|m| m.requests.values()).map(|request| request.seconds);
        let requests = seconds.filter(|s| (0.0..1e12).contains(s)).collect();
        let unmeasured = unmeasured(run, manifest.as_ref());
        let head = head::head(summary.as_ref(), manifest.as_ref(), &adapters);
        Ok(Self {
            head,
            summary,
            plan,
            trained,
            stages,
            measured,
            data,
            judges,
            study,
            durability,
            provenance,
            requests,
            unmeasured,
        })
    }
}

/// Why a run without summary.json has no figures.
fn unmeasured(run: &Path, manifest: Option<&Manifest>) -> &'static str {
    let answered = std::fs::read_dir(run.join("eval")).is_ok_and(|mut entries| entries.next().is_some());
    let measured = manifest.is_some_and(|m| m.artefacts.get("summary.json").is_some_and(|r| r.ended.is_some()));
    match (measured, answered) {
        (true, true) => {
            "There is no `summary.json`: it was removed after the evaluation. The answers are still there: the same `eraser eval` \
             makes the figures of them again, without asking anything again."
        }
        (true, false) => "There is no `summary.json`: it was removed after the evaluation, and so were the answers.",
        (false, true) => {
            "There is no `summary.json`, but there are answers: an evaluation has not ended, or the file was removed. The same \
             command makes the figures of them."
        }
        (false, false) => "There is no `summary.json`: nothing was evaluated yet.",
    }
}

impl Trained {
    /// Where the hinge of its training closes; None for one without a hinge.
    pub(crate) fn gamma(&self) -> Option<f64> {
        let given = self.settings.get("gamma").and_then(Value::as_f64);
        // Other methods have a harm term that is never below zero, too.
        let other = self.settings.get("method").and_then(Value::as_str).is_some_and(|method| method != "eraser");
        let hinged = !other && self.metrics.as_ref().is_some_and(|m| m.hinged);
        self.summary.as_ref().and_then(TrainingSummary::gamma).or(given).filter(|_| hinged)
    }

    /// What the report says of its training; empty where nothing is known of one.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let told = training::sentences(self.metrics.as_ref(), &self.course, self.summary.as_ref(), self.gamma());
        self.recipe.iter().cloned().chain(told).collect()
    }
}

/// What made each artefact. Files of answers and scores, which an older version listed one by one, are left out.
fn stages(manifest: &Manifest) -> Vec<Stage> {
    let stage = |(artefact, record): (&String, &manifest::Record)| Stage {
        artefact: artefact.clone(),
        verb: record.verb.clone(),
        version: record.version.clone(),
        begun: record.started.clone(),
        input: manifest::short(&manifest::of_inputs(record)),
        done: record.ended.is_some(),
    };
    let of_answers = |artefact: &str| artefact.starts_with("eval/") || artefact.starts_with("bench/");
    manifest.artefacts.iter().filter(|(artefact, _)| !of_answers(artefact)).map(stage).collect()
}

/// Marks the rows of a study that are not of the adapters that are there now.
fn tell_origin(study: &mut Study, run: &Path, manifest: &Manifest, adapters: &[(String, String)]) -> Result<()> {
    let record = manifest.artefacts.get(DURABILITY).filter(|_| study.is_durability());
    if !study.is_durability()
        && let Some(record) = manifest.artefacts.get(STUDY)
    {
        let subjects: Vec<String> = study.subjects().into_iter().map(|(name, _)| name).collect();
        study.facts = measured::facts(record, &list(&subjects));
    }
    if study.is_durability() {
        changed::of_durability(run, record)?.into_iter().for_each(|said| study.note(said));
    }
    if let Some(record) = record.filter(|record| record.ended.is_some()) {
        let adapter = |(name, adapter): (String, Option<String>)| match adapter {
            Some(adapter) => format!("{name} (adapter {})", manifest::short(&adapter)),
            None => name,
        };
        let subjects: Vec<String> = study.subjects().into_iter().map(adapter).collect();
        study.facts = measured::facts(record, &list(&subjects));
    }
    for (subject, adapter) in study.subjects() {
        let records = match record {
            Some(record) => vec![record],
            None => provenance::evaluations(manifest, &subject),
        };
        // Of a subject that no evaluation lists, durability itself recorded where its adapter is.
        let recorded = record.and_then(|r| r.options["adapters"][&subject].as_str());
        let home = adapters.iter().find(|(name, _)| *name == subject).map(|(_, home)| home.as_str()).or(recorded);
        let state = match home {
            None => FigureState::Unknown("the run has no such subject now".to_owned()),
            Some(home) => {
                let measured = provenance::Measured { adapter: adapter.as_deref(), by: &records };
                provenance::state_of(run, manifest, &subject, home, &measured)?
            }
        };
        match state {
            FigureState::Current => {}
            FigureState::Stale(why) | FigureState::Untrained(why) => study.mark(&subject, true, &why),
            FigureState::Unknown(why) => study.mark(&subject, false, &why),
        }
    }
    Ok(())
}

impl Run {
    /// The subjects whose durability was measured.
    pub(crate) fn durable(&self) -> Vec<String> {
        self.durability.iter().flat_map(Study::subjects).map(|(subject, _)| subject).collect()
    }

    /// What the training of a subject ended with.
    pub(crate) fn training(&self, subject: &str) -> Option<&TrainingSummary> {
        self.trained.iter().find(|t| t.name == subject)?.summary.as_ref()
    }
}

impl Entry {
    /// Reads what the training left; `ended` says whether it has.
    fn read(self, run: &Path, ended: bool) -> Result<Trained> {
        let mut course = Course { rounds: Vec::new(), unfinished: !ended };
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
                for round in 1..=MAX_ROUNDS {
                    let earlier = path.with_file_name(ROUNDS).join(round.to_string()).join("train/metrics.jsonl");
                    let Some(metrics) = optional(&earlier, Metrics::read)? else { break };
                    course.rounds.push(metrics.steps as u64);
                }
                (optional(&path, Metrics::read)?, summary)
            }
        };
        Ok(Trained { name: self.name, settings: self.settings, differs: None, metrics, summary, course, recipe: None })
    }
}

/// Where something of the subject number `i` is: the first one's is in the run itself, the others' in
/// `variants/<name>`.
fn home(i: usize, name: &str, what: &str) -> String {
    if i == 0 { what.to_owned() } else { format!("variants/{name}/{what}") }
}

/// Without `subjects.json`: `train/metrics.jsonl` belongs to the first hardened subject and
/// `variants/<name>/train/metrics.jsonl` to each of the others. Without a summary the adapter in the run itself is the
/// only subject, by its name on record, whether its training has ended or not.
fn entries_by_convention(run: &Path, summary: Option<&Summary>, manifest: Option<&Manifest>) -> Vec<Entry> {
    let mut names: Vec<String> = summary.iter().flat_map(|s| s.hardened()).map(|s| s.name.clone()).collect();
    let record = manifest.and_then(|m| m.artefacts.get("adapter"));
    let begun = || run.join("train/metrics.jsonl").is_file() || run.join("train").join(ROUNDS).is_dir();
    if names.is_empty() && (record.is_some() || begun()) {
        let name = record.and_then(|r| r.options["name"].as_str());
        names.push(name.unwrap_or("eraser").to_owned());
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
