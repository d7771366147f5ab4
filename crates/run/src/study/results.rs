//! What a study finds. In: figures; out: run/study.json (of the durability study run/durability.json), which the report
//! shows. Invariant: a finding is computed from the figures beside it; where it does not hold, it says so.

use eraser_eval::EvalOptions;
use eraser_eval::stats::Change;
use eraser_eval::{Figure, Figures, Measure};
use serde::{Deserialize, Serialize};

/// run/study.json.
#[derive(Debug, Default, Serialize)]
pub struct StudyResults {
    /// `compare`, `sweep`, `tune` or `durability`.
    #[serde(rename = "study")]
    pub kind: &'static str,
    /// Keys that change between rows.
    pub keys: Vec<String>,
    /// Templates that no method learnt from.
    pub held_out: Vec<String>,
    /// The judge that attack success is under.
    pub judge: String,
    /// A row per subject.
    pub rows: Vec<SubjectRow>,
    /// The claims, and whether they hold.
    pub findings: Vec<Finding>,
    /// The plots.
    pub plots: Vec<Plot>,
}

/// A subject.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SubjectRow {
    /// Its name.
    pub subject: String,
    /// Values of the keys, in their order; None where a key is unchanged.
    pub values: Vec<Option<String>>,
    /// Its figures.
    pub figures: Figures,
    /// The fingerprint of the adapter that was measured; of the base there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

/// Whether a claim holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimOutcome {
    /// It holds.
    Holds,
    /// It does not.
    Fails,
    /// A figure that it needs was not measured.
    Unmeasured,
}

/// A claim and what was found about it.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The claim, in words.
    pub claim: String,
    /// Whether it holds.
    pub outcome: ClaimOutcome,
    /// False when the 95 % interval reaches over the claim's bound, so that another sample could say the opposite.
    pub settled: bool,
    /// The figures.
    pub evidence: String,
}

/// A plot: series of points `(x, y)`.
#[derive(Debug, Default, Serialize)]
pub struct Plot {
    /// Its title.
    pub title: String,
    /// The label of the horizontal axis.
    pub x: String,
    /// The label of the vertical axis.
    pub y: String,
    /// The lines.
    pub series: Vec<Series>,
    /// The line y = x is drawn too.
    pub diagonal: bool,
    /// The base model's value, a level line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
}

/// Points of one name, joined by a line.
#[derive(Debug, Default, Serialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// The points.
    pub points: Vec<[f64; 2]>,
    /// By point: the ends of its 95 % interval; empty where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ci: Vec<Option<[f64; 2]>>,
}

/// Of the judges of figures, the one that a study goes by: the first that was asked for; an earlier request may have
/// asked others.
pub(crate) fn judge<'a>(options: &EvalOptions, judges: &[&'a str]) -> &'a str {
    let asked = options.judges.first().map(String::as_str).unwrap_or_default();
    let named = |judge: &&&str| **judge == asked || judge.split(':').next() == Some(asked);
    judges.iter().find(named).or_else(|| judges.first()).copied().unwrap_or_default()
}

impl SubjectRow {
    pub(super) fn get(&self, measure: &Measure) -> Option<&Figure> {
        self.figures.get(measure)
    }
}

impl Finding {
    pub(super) fn unmeasured(claim: String) -> Self {
        Self { claim, outcome: ClaimOutcome::Unmeasured, settled: false, evidence: String::new() }
    }

    /// With a reason, which is shown where the claim does not hold.
    pub(super) fn explained(mut self, why: &str) -> Self {
        if self.outcome == ClaimOutcome::Fails {
            self.evidence.push_str(". Why: ");
            self.evidence.push_str(why);
        }
        self
    }

    /// A claim about `value`, whose interval is `ci`, that `holds` checks.
    pub(super) fn checked(
        claim: String,
        value: f64,
        ci: [f64; 2],
        holds: impl Fn(f64) -> bool,
        evidence: String,
    ) -> Self {
        let outcome = if holds(value) { ClaimOutcome::Holds } else { ClaimOutcome::Fails };
        let settled = ci.into_iter().all(|end| holds(end) == holds(value));
        Self { claim, outcome, settled, evidence }
    }
}

/// Attack success in the words of its judge: only the judge `leak` looks for facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Leak,
    Success,
}

impl Word {
    pub(super) fn of(judge: &str) -> Self {
        if judge == "leak" { Self::Leak } else { Self::Success }
    }

    /// What the figure is called.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Leak => "leak",
            Self::Success => "attack success",
        }
    }

    /// That `who` gives in to at most `bound`.
    pub(super) fn at_most(self, who: &str, bound: f64) -> String {
        match self {
            Self::Leak => format!("{who} leaks at most {:.0} %", 100.0 * bound),
            Self::Success => format!("attack success against {who} is at most {:.0} %", 100.0 * bound),
        }
    }

    /// That `who` gives in less than `other`.
    pub(super) fn less(self, who: &str, other: &str) -> String {
        match self {
            Self::Leak => format!("{who} leaks less than {other}"),
            Self::Success => format!("attack success against {who} is lower than against {other}"),
        }
    }
}

/// A share in per cent with its interval: `12.5 % [8.1, 18.7]`.
pub(super) fn shown(figure: &Figure) -> String {
    let percent = |x: f64| 100.0 * x;
    match (figure.value, figure.ci) {
        (Some(value), Some([low, high])) => {
            format!("{:.1} % [{:.1}, {:.1}]", percent(value), percent(low), percent(high))
        }
        (Some(value), None) => format!("{value:.3}"),
        _ => "not measured".to_owned(),
    }
}

/// A difference in points with its interval: `-2.0 points [-4.8, 0.7]`.
pub(super) fn points(&Change { difference, ci: [low, high], .. }: &Change) -> String {
    // What rounds to zero has no sign.
    let tidy = |x: f64| format!("{:.1}", (1000.0 * x).round() / 10.0 + 0.0);
    format!("{} points [{}, {}]", tidy(difference), tidy(low), tidy(high))
}
