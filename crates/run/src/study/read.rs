//! What a finished run says about a study's question. In: the summary of the run, what its variants changed, their
//! metrics; out: the results. Invariant: training, evaluation and resuming are those of any run; a study only reads
//! what they leave.

use super::compare::{self, Methods};
use super::front::{self, Bounds, Scored};
use super::results::{StudyResults, SubjectRow, judge};
use super::sweep::{self, HELP, NLL};
use crate::plan::RunPlan;
use crate::plan::study::{Axis, Point};
use eraser_data::files::write_atomic;
use eraser_eval::{Choice, Figure, Figures, Summary};
use eraser_model::{Error, Result};
use eraser_train::{StepMetrics, metrics};
use std::path::Path;

/// The file of a study in its run directory.
pub(crate) const FILE: &str = "study.json";

/// What is studied.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// Methods beside each other.
    Compare,
    /// One variant under several settings.
    Sweep {
        /// The keys and their values.
        axes: &'a [Axis],
        /// The setting of each variant, in the order of the variants.
        points: &'a [Point],
    },
    /// The best of many settings.
    Tune {
        /// The keys and their values.
        axes: &'a [Axis],
        /// The setting of each variant, in the order of the variants.
        points: &'a [Point],
        /// What a setting may cost.
        bounds: &'a Bounds,
    },
}

/// Reads the run in `dir` and writes study.json; `held_out` are the templates that no method learnt from.
pub(crate) fn write(question: Question<'_>, dir: &Path, plan: &RunPlan, held_out: Vec<String>) -> Result<()> {
    let results = read(question, dir, plan, held_out)?;
    let text = serde_json::to_string_pretty(&results).map_err(|e| Error::failed(format!("{FILE}: {e}")))?;
    write_atomic(&dir.join(FILE), format!("{text}\n").as_bytes())
}

fn read(question: Question<'_>, dir: &Path, plan: &RunPlan, held_out: Vec<String>) -> Result<StudyResults> {
    let summary = Summary::read(dir)?;
    let judges: Vec<&str> = summary.subjects.iter().flat_map(|s| &s.attacks).map(|a| a.judge.as_str()).collect();
    let judge = judge(&plan.eval.options, &judges);
    let choice = Choice { held_out };
    let row = |name: &str, values: Vec<Option<String>>| {
        let subject = summary.subjects.iter().find(|s| s.name == name);
        let figures = subject.map(|s| Figures::read(dir, s, judge, &choice)).transpose()?.unwrap_or_default();
        let adapter = subject.and_then(|s| s.fingerprint.as_ref()?.adapter.clone());
        Ok::<_, Error>(SubjectRow { subject: name.to_owned(), values, figures, adapter })
    };
    // What else the summary holds was measured for another question.
    let compared = |name: &str| name == "base" || plan.variants.iter().any(|v| v.name == name);
    let mut results = match question {
        Question::Compare => {
            let rows = summary.subjects.iter().filter(|s| compared(&s.name)).map(|s| row(&s.name, Vec::new()));
            let rows: Vec<SubjectRow> = rows.collect::<Result<_>>()?;
            let of = |method: &str| {
                let variant = plan.variants.iter().find(|v| v.train.method.name == method)?;
                rows.iter().find(|r| r.subject == variant.name)
            };
            let base = rows.iter().find(|r| r.subject == "base");
            let methods = Methods { base, eraser: of("eraser"), gam: of("gam"), rsft: of("rsft") };
            let findings = compare::findings(&methods, judge);
            StudyResults { kind: "compare", rows, findings, ..StudyResults::default() }
        }
        Question::Tune { axes, points, bounds } => {
            let mut keys = vec!["steps".to_owned()];
            keys.extend(self::keys(axes));
            let mut scored: Vec<Scored> = Vec::new();
            for subject in summary.subjects.iter().filter(|s| compared(&s.name)) {
                let Some(score) = front::score(subject, bounds) else { continue };
                let point = plan.variants.iter().zip(points).find(|(variant, _)| variant.name == subject.name);
                let values = keys.iter().map(|key| point.and_then(|(_, point)| point.value(key))).collect();
                let steps = point.and_then(|(variant, _)| variant.train.steps);
                scored.push(Scored { row: row(&subject.name, values)?, score, steps });
            }
            front::results(keys, scored, bounds)
        }
        Question::Sweep { axes, points } => {
            let keys = keys(axes);
            let base = row("base", keys.iter().map(|_| None).collect())?;
            let mut rows = Vec::new();
            for (variant, point) in plan.variants.iter().zip(points) {
                let mut row = row(&variant.name, keys.iter().map(|key| point.value(key)).collect())?;
                let steps = metrics::read(&dir.join(&variant.dir).join("train/metrics.jsonl"))?;
                let end = |of: &dyn Fn(&StepMetrics) -> Option<f64>| final_mean(&steps, of);
                let first = [
                    Figure::number(&NLL, end(&|m| m.nll_harm)),
                    Figure::number(&HELP, end(&|m| m.terms.get("l_help").copied())),
                ];
                row.figures = row.figures.after(first);
                rows.push(row);
            }
            let findings = sweep::findings(&base, &rows, &keys, judge);
            let plots = sweep::plots(&rows, &keys, judge);
            rows.insert(0, base);
            StudyResults { kind: "sweep", keys, rows, findings, plots, ..StudyResults::default() }
        }
    };
    if !matches!(question, Question::Tune { .. }) {
        results.held_out = choice.held_out;
    }
    judge.clone_into(&mut results.judge);
    Ok(results)
}

/// The keys of `axes`, each once.
fn keys(axes: &[Axis]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for axis in axes {
        if !keys.contains(&axis.key) {
            keys.push(axis.key.clone());
        }
    }
    keys
}

/// The mean over the last tenth of the steps: one step's value depends on its batch.
fn final_mean(steps: &[StepMetrics], of: &dyn Fn(&StepMetrics) -> Option<f64>) -> Option<f64> {
    let last = &steps[steps.len() - steps.len().div_ceil(10)..];
    let values: Vec<f64> = last.iter().filter_map(of).collect();
    eraser_eval::stats::mean(&values)
}
