//! `bench.json` and the files of scores. Invariant: a figure over nothing is null, never 0.

use super::BenchOptions;
use crate::summary::{SubjectSummary, Summary, UtilitySummary};
use eraser_model::error::PathContext as _;
use eraser_model::files::write_atomic;
use eraser_model::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The file within the output directory.
const FILE: &str = "bench.json";

/// One item of a task, or one window of a text: a line of `bench/<subject>/<task>.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Number of the row, from 0.
    pub id: usize,
    /// Natural log-likelihood of every choice; of a window, of its tokens.
    pub loglikelihoods: Vec<f64>,
    /// Scored tokens of every choice.
    pub tokens: Vec<usize>,
    /// Characters of every choice; empty for a window.
    pub characters: Vec<usize>,
    /// Which choices are right; empty for a window.
    pub right: Vec<bool>,
    /// The item's value under every metric.
    pub metrics: BTreeMap<String, f64>,
    /// Key of subject and tokens: a score with another key is of another experiment.
    pub fingerprint: String,
}

/// The whole of `bench.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchSummary {
    /// Version of this layout: 1.
    pub schema: u32,
    /// The model, as it was named.
    pub model: String,
    /// What was asked for.
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
    /// Hex SHA-256 of model and adapter.
    pub fingerprint: String,
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

    /// Writes `dir/bench.json`, whole or not at all.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
        write_atomic(&path, format!("{text}\n").as_bytes())
    }

    /// Reads `dir/bench.json`; None if there is no such file.
    ///
    /// # Errors
    /// A file that is malformed or of another version.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
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

    /// Puts the figures among the utility rows of `summary`, in place of older ones of the same task and metric.
    pub fn join(&self, summary: &mut Summary) {
        for measured in &self.subjects {
            let found = summary.subjects.iter().position(|s| s.name == measured.name);
            let at = found.unwrap_or_else(|| {
                let at = if measured.name == "base" { 0 } else { summary.subjects.len() };
                let new = SubjectSummary { name: measured.name.clone(), ..SubjectSummary::default() };
                summary.subjects.insert(at, new);
                at
            });
            let rows = &mut summary.subjects[at].utility;
            for row in &measured.utility {
                match rows.iter_mut().find(|r| r.task == row.task && r.metric == row.metric) {
                    Some(old) => *old = row.clone(),
                    None => rows.push(row.clone()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(task: &str, value: f64) -> UtilitySummary {
        UtilitySummary { task: task.into(), metric: "acc".into(), n: 4, value: Some(value), stderr: Some(0.1) }
    }

    fn measured(name: &str, utility: Vec<UtilitySummary>) -> BenchSubject {
        BenchSubject { name: name.into(), utility, ..BenchSubject::default() }
    }

    #[test]
    fn figures_join_those_of_an_evaluation() {
        let hardened =
            SubjectSummary { name: "eraser".into(), utility: vec![row("a", 0.1)], ..SubjectSummary::default() };
        let mut summary = Summary { schema: 1, subjects: vec![hardened], ..Summary::default() };
        let bench = BenchSummary {
            subjects: vec![
                measured("base", vec![row("a", 0.5)]),
                measured("eraser", vec![row("a", 0.4), row("b", 0.3)]),
            ],
            ..BenchSummary::default()
        };
        bench.join(&mut summary);
        bench.join(&mut summary);
        let names: Vec<&str> = summary.subjects.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["base", "eraser"]);
        assert_eq!(summary.subjects[1].utility, [row("a", 0.4), row("b", 0.3)]);
    }

    #[test]
    fn a_file_reads_back_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(BenchSummary::read(dir.path()).unwrap(), None);
        let bench = BenchSummary { schema: 1, score_s: 0.1 + 0.2, ..BenchSummary::default() };
        bench.write(dir.path()).unwrap();
        assert_eq!(BenchSummary::read(dir.path()).unwrap(), Some(bench));
        for text in ["", "{}", "{\"schema\":2}"] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            assert!(BenchSummary::read(dir.path()).is_err(), "{text}");
        }
    }
}
