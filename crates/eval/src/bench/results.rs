//! `bench.json` and the files of scores. Invariant: a figure over nothing is null, never 0.

use super::BenchOptions;
use crate::served::SelfTest;
use crate::stats::Change;
use crate::subject::Fingerprint;
use crate::summary::{SubjectSummary, Summary, UtilitySummary};
use eraser_data::Entry;
use eraser_model::error::PathContext as _;
use eraser_model::files::write_atomic;
use eraser_model::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// One item of a task, or one window of a text: a line of `bench/<subject>/<task>.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Number of the row, from 0.
    pub id: usize,
    /// Natural log-likelihood of every choice; for a window, of its tokens.
    pub loglikelihoods: Vec<f64>,
    /// Scored tokens of every choice.
    pub tokens: Vec<usize>,
    /// Characters of every choice; empty for a window.
    pub characters: Vec<usize>,
    /// Which choices are right; empty for a window.
    pub right: Vec<bool>,
    /// The item's value under every metric.
    pub metrics: BTreeMap<String, f64>,
    /// What the model wrote, where the task asks for a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What was scored: the first 16 hex digits of its fingerprint. Empty in files of older versions: unknown.
    #[serde(default)]
    pub subject: String,
    /// Key of subject and tokens: a score with another key belongs to another experiment.
    pub fingerprint: String,
}

impl Entry for ItemScore {
    type Key = (usize, String);

    fn key(&self) -> Self::Key {
        (self.id, self.fingerprint.clone())
    }
}

/// The whole of `bench.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchSummary {
    /// Version of this layout: 1.
    pub schema: u32,
    /// The model, as it was named.
    pub model: String,
    /// The options.
    pub options: BenchOptions,
    /// One entry per subject, base first.
    pub subjects: Vec<BenchSubject>,
    /// Every other subject against the base, item by item; empty when the base was not measured.
    pub differences: Vec<Difference>,
    /// Seconds of scoring, without loading.
    pub score_s: f64,
    /// Items and windows scored in that time; those found in the directory are not counted.
    pub scored: usize,
}

/// Figures of one subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchSubject {
    /// `base` or the name of the adapter.
    pub name: String,
    /// What was scored; None in files of older versions: unknown.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// Of a model that a server has: which, and what its self-test found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<SelfTest>,
    /// A row per task and metric, as in summary.json.
    pub utility: Vec<UtilitySummary>,
}

/// A subject against the base.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The subject.
    pub subject: String,
    /// Task or text.
    pub task: String,
    /// Metric.
    pub metric: String,
    /// Items that both have.
    pub n: usize,
    /// The subject's value less the base's.
    pub difference: Option<f64>,
    /// 95 % interval of the difference.
    pub ci: Option<[f64; 2]>,
    /// How the interval was made: `bonett-price` for shares of right answers, `bootstrap` for the others.
    pub method: String,
}

impl BenchSummary {
    /// Version of the layout.
    pub const SCHEMA: u32 = 1;
    /// The file within the output directory.
    pub const FILE: &str = "bench.json";

    /// Writes `dir/bench.json`, whole or not at all.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(Self::FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
        write_atomic(&path, format!("{text}\n").as_bytes())
    }

    /// Reads `dir/bench.json`; None if there is no such file.
    ///
    /// # Errors
    /// A file that is malformed or of another version.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(Self::FILE);
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.at(&path)?,
        };
        let hint = "remove it, and measure again";
        let found: Self =
            serde_json::from_slice(&text).map_err(|e| Error::request(format!("{}: {e}", path.display())).hint(hint))?;
        if found.schema != Self::SCHEMA {
            let (schema, known) = (found.schema, Self::SCHEMA);
            return Err(
                Error::request(format!("{}: schema {schema}, this version reads {known}", path.display())).hint(hint)
            );
        }
        Ok(Some(found))
    }

    /// The figures as those of an evaluation, for [`crate::record`].
    pub fn summary(&self) -> Summary {
        let row = |subject: &str, row: &UtilitySummary| {
            let same = |d: &&Difference| d.subject == subject && d.task == row.task && d.metric == row.metric;
            let change = |d: &Difference| Some(Change { difference: d.difference?, ci: d.ci?, n: d.n, questions: d.n });
            UtilitySummary { change: self.differences.iter().find(same).and_then(change), ..row.clone() }
        };
        let subject = |s: &BenchSubject| SubjectSummary {
            name: s.name.clone(),
            fingerprint: s.fingerprint.clone(),
            served: s.served.clone(),
            utility: s.utility.iter().map(|u| row(&s.name, u)).collect(),
            ..SubjectSummary::default()
        };
        let subjects = self.subjects.iter().map(subject).collect();
        Summary { schema: Summary::SCHEMA, subjects, ..Summary::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_their_differences_to_the_base_along() {
        let row = UtilitySummary { task: "a".into(), metric: "acc".into(), n: 4, ..UtilitySummary::default() };
        let subject =
            |name: &str| BenchSubject { name: name.into(), utility: vec![row.clone()], ..BenchSubject::default() };
        let difference = Difference {
            subject: "eraser".into(),
            task: "a".into(),
            metric: "acc".into(),
            n: 4,
            difference: Some(-0.25),
            ci: Some([-0.5, 0.1]),
            method: "bonett-price".into(),
        };
        let bench = BenchSummary {
            subjects: vec![subject("base"), subject("eraser")],
            differences: vec![difference],
            ..BenchSummary::default()
        };
        let changes: Vec<Option<f64>> =
            bench.summary().subjects.iter().map(|s| s.utility[0].change.map(|c| c.difference)).collect();
        assert_eq!(changes, [None, Some(-0.25)]);
    }

    #[test]
    fn a_file_reads_back_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(BenchSummary::read(dir.path()).unwrap(), None);
        let bench = BenchSummary { schema: 1, score_s: 0.1 + 0.2, ..BenchSummary::default() };
        bench.write(dir.path()).unwrap();
        assert_eq!(BenchSummary::read(dir.path()).unwrap(), Some(bench));
        for text in ["", "{}", "{\"schema\":2}"] {
            std::fs::write(dir.path().join(BenchSummary::FILE), text).unwrap();
            assert!(BenchSummary::read(dir.path()).is_err(), "{text}");
        }
    }
}
