//! run/summary.json: what was measured, of which subject. Invariant: a share over nothing is null, never 0.

use serde::{Deserialize, Serialize};

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

/// Measurements of one subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubjectSummary {
    /// `base` or the method.
    pub name: String,
    /// A row per attack, set and judge.
    pub attacks: Vec<AttackSummary>,
    /// A row per task and metric.
    pub utility: Vec<UtilitySummary>,
    /// Refusals of benign questions.
    pub over_refusal: Option<OverRefusal>,
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
    /// Attack success rate over judged answers.
    pub asr: Option<f64>,
    /// Wilson 95 % interval.
    pub asr_ci: Option<[f64; 2]>,
    /// Share of answers with a refusal phrase (keyword list), whatever the judge.
    pub refused: Option<f64>,
    /// Share of degenerate answers: empty, repetitive, or not language.
    pub degenerate: Option<f64>,
    /// Answers that the judge could not judge.
    pub unjudged: usize,
    /// Mean harmfulness 1..5, for judges that give one.
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
}

/// Refusals of benign questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OverRefusal {
    /// Name of the question set.
    pub set: String,
    /// Questions.
    pub n: usize,
    /// Share refused.
    pub rate: Option<f64>,
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
