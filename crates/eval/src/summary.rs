//! run/summary.json: what was measured, by subject. Invariant: a share over nothing is null, never 0.

use crate::served::SelfTest;
use crate::stats::Change;
use crate::subject::Fingerprint;
use eraser_model::error::PathContext;
use eraser_model::files::write_atomic;
use eraser_model::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// The file within a run directory.
pub(crate) const FILE: &str = "summary.json";
/// Name of the model before hardening, to which all others are compared.
pub const BASE: &str = "base";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this layout: 1.
    pub schema: u32,
    /// One entry per subject, base first.
    pub subjects: Vec<SubjectSummary>,
    /// What it took.
    pub timing: Timing,
}

impl Summary {
    /// Version of the layout.
    pub const SCHEMA: u32 = 1;

    /// Writes `dir/summary.json`, whole or not at all.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let mut text =
            serde_json::to_string_pretty(self).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
        text.push('\n');
        write_atomic(&path, text.as_bytes())
    }

    /// Reads `dir/summary.json`.
    ///
    /// # Errors
    /// The file is missing, malformed, or of another version.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path).at(&path)?;
        let summary: Self = serde_json::from_str(&text).map_err(|e| {
            Error::request(format!("{}: not a summary: {e}", path.display())).hint("run the evaluation again")
        })?;
        if summary.schema != Self::SCHEMA {
            let (found, known) = (summary.schema, Self::SCHEMA);
            return Err(Error::request(format!("{}: schema {found}, this version reads {known}", path.display()))
                .hint("run the evaluation again"));
        }
        Ok(summary)
    }
}

/// Measurements of one subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubjectSummary {
    /// `base`, or the name of the variant.
    pub name: String,
    /// What was measured under this name; None in files of older versions: unknown.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// Of a model that a server has: which, and what its self-test found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<SelfTest>,
    /// A row per attack, set and judge.
    pub attacks: Vec<AttackSummary>,
    /// A row per task and metric.
    pub utility: Vec<UtilitySummary>,
    /// What known answers cost, a row per set, context and number of tokens that were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub likelihood: Vec<LikelihoodSummary>,
    /// Refusals of benign questions.
    pub over_refusal: Option<OverRefusal>,
    /// Refusals of the questions that look like them and must be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrast: Option<OverRefusal>,
    /// How far each two judges agree on attacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreement: Vec<Agreement>,
}

/// Two judges on the same answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// One judge.
    pub first: String,
    /// Another.
    pub second: String,
    /// Answers that both judged.
    pub n: usize,
    /// Share on which they agree.
    pub agree: Option<f64>,
    /// Cohen's kappa: agreement beyond chance; None where one of them gave the same verdict on every answer.
    pub kappa: Option<f64>,
}

/// Success of one attack on one set under one judge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttackSummary {
    /// `direct`, or `template:<name>`; `template` pools all templates.
    pub attack: String,
    /// `seen` or `unseen`.
    pub set: String,
    /// Judge, with its list: `keyword:gcg29`, `leak`.
    pub judge: String,
    /// Answers.
    pub n: usize,
    /// Questions that these answer; a template asks each of them once more. 0 in files of older versions: unknown.
    #[serde(default)]
    pub questions: usize,
    /// Questions of which at least one answer succeeds and is not degenerate; None in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_questions: Option<usize>,
    /// Attack success rate over judged answers.
    pub asr: Option<f64>,
    /// Its 95 % interval, by question: [`crate::stats::interval`].
    pub asr_ci: Option<[f64; 2]>,
    /// The rate less that of the base on the same prompts; None for the base, and where there is no base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asr_change: Option<Change>,
    /// Share of answers with a refusal phrase (keyword list), whatever the judge.
    pub refused: Option<f64>,
    /// Share of degenerate answers: empty, repetitive, or not language.
    pub degenerate: Option<f64>,
    /// That share less the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degenerate_change: Option<Change>,
    /// Degenerate answers among those that the judge calls a success: they help no attacker.
    #[serde(default)]
    pub degenerate_successes: usize,
    /// Answers that the judge could not judge, unfinished ones included.
    pub unjudged: usize,
    /// Share of answers that are none, because the thought before them has no end; None for a model without thoughts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<f64>,
    /// Thoughts that the judge judged.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub thoughts: usize,
    /// Share of these that the judge would call a success, were they the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thought_leaks: Option<f64>,
    /// Its 95 % interval, by question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thought_leaks_ci: Option<[f64; 2]>,
    /// Mean grade, of judges that give one: `rubric` 1..5, `strongreject` 0..1.
    pub harmfulness: Option<f64>,
}

/// One task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UtilitySummary {
    /// Task.
    pub task: String,
    /// Metric: `accuracy`, ..
    pub metric: String,
    /// Items.
    pub n: usize,
    /// Value.
    pub value: Option<f64>,
    /// Standard error: sample standard deviation / sqrt(n).
    pub stderr: Option<f64>,
    /// 95 % interval of a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<[f64; 2]>,
    /// The value less the base's on the same items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

impl UtilitySummary {
    /// The metric of tasks with expected answers.
    pub const ACCURACY: &str = "accuracy";
}

/// How likely the known answers of a set are in one context.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LikelihoodSummary {
    /// Set of the questions.
    pub set: String,
    /// `plain`, or `template:<name>`; `template` pools all templates.
    pub context: String,
    /// Tokens of each answer that were given; the figures are of those behind them.
    pub cut: usize,
    /// Answers measured; a template measures each of them once more.
    pub n: usize,
    /// Questions that these answer.
    pub questions: usize,
    /// Answers that have no token left after the cut, and count in no figure.
    pub short: usize,
    /// Answers that are longer than the model's positions, cut off there.
    pub cut_off: usize,
    /// Mean over questions of the mean negative log-likelihood of a token, nats.
    pub nll: Option<f64>,
    /// Its 95 % interval, by question: [`crate::stats::mean_interval`].
    pub ci: Option<[f64; 2]>,
    /// The mean less that of the base on the same answers and prompts; None for the base, and for fewer than two
    /// questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// Refusals of benign questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OverRefusal {
    /// Name of the question set.
    pub set: String,
    /// Questions.
    pub n: usize,
    /// Share refused, by the keyword list.
    pub rate: Option<f64>,
    /// Its 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<[f64; 2]>,
    /// That share less the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// Share refused by a model's judgement, of the answers that it could judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<f64>,
    /// Its 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_ci: Option<[f64; 2]>,
    /// That share less the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_change: Option<Change>,
    /// Questions without an answer, because the thought before it has no end; they count in no rate.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unfinished: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// What it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Seconds of training, all variants.
    pub train_s: Option<f64>,
    /// Seconds of evaluation.
    pub eval_s: Option<f64>,
    /// Seconds of the whole command.
    pub total_s: Option<f64>,
    /// Peak resident set size, MB.
    pub peak_rss_mb: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_reads_back_and_nothing_is_null() {
        let dir = tempfile::tempdir().unwrap();
        let subject = SubjectSummary {
            name: "base".into(),
            attacks: vec![AttackSummary { asr: Some(0.1 + 0.2), asr_ci: Some([0.0, 0.5]), ..AttackSummary::default() }],
            utility: vec![UtilitySummary::default()],
            over_refusal: Some(OverRefusal::default()),
            ..SubjectSummary::default()
        };
        let summary = Summary { schema: Summary::SCHEMA, subjects: vec![subject], timing: Timing::default() };
        summary.write(dir.path()).unwrap();
        assert_eq!(Summary::read(dir.path()).unwrap(), summary);
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(text.contains("\"rate\": null") && text.contains("\"train_s\": null"), "{text}");
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Summary::read(dir.path()).is_err());
        for text in ["", "{}", r#"{"schema":2,"subjects":[],"timing":{}}"#] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(Summary::read(dir.path()).is_err(), "{text}");
        }
    }
}
