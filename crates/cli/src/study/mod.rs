//! What a study finds, and its file. In: the summary of a run, what its variants changed; out: run/study.json (of the
//! durability study run/durability.json), which the report shows. Invariant: a finding is computed from the figures beside it; where it does not hold, it says so.

pub(crate) mod compare;
pub(crate) mod durability;
pub(crate) mod sweep;

use eraser_eval::{Figure, Figures};
use serde::Serialize;

/// run/study.json.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Study {
    /// `compare`, `sweep` or `durability`.
    #[serde(rename = "study")]
    pub(crate) kind: &'static str,
    /// Keys that change between rows.
    pub(crate) keys: Vec<String>,
    /// Templates that no method learnt from.
    pub(crate) held_out: Vec<String>,
    pub(crate) rows: Vec<Row>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) plots: Vec<Plot>,
}

/// A subject.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) subject: String,
    /// Values of the keys, in their order; None where a key is unchanged.
    pub(crate) values: Vec<Option<String>>,
    pub(crate) figures: Figures,
}

/// Whether a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Holds,
    Fails,
    /// A figure that it needs was not measured.
    Unmeasured,
}

/// A claim and what was found about it.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) claim: String,
    pub(crate) outcome: Outcome,
    /// False when the 95 % interval reaches over the claim's bound, so that another sample could say the opposite.
    pub(crate) settled: bool,
    /// The figures.
    pub(crate) evidence: String,
}

/// A plot: series of points `(x, y)`.
#[derive(Debug, Serialize)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) series: Vec<Series>,
    /// The line y = x is drawn too.
    pub(crate) diagonal: bool,
}

/// Points of one name, joined by a line.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<[f64; 2]>,
}

impl Row {
    fn get(&self, name: &str) -> Option<&Figure> {
        self.figures.get(name)
    }
}

impl Finding {
    fn unmeasured(claim: String) -> Self {
        Self { claim, outcome: Outcome::Unmeasured, settled: false, evidence: String::new() }
    }

    /// With a reason, which is told where the claim does not hold.
    fn explained(mut self, why: &str) -> Self {
        if self.outcome == Outcome::Fails {
            self.evidence.push_str(". Why: ");
            self.evidence.push_str(why);
        }
        self
    }

    /// A claim about `value`, whose interval is `ci`, that `holds` checks.
    fn checked(claim: String, value: f64, ci: [f64; 2], holds: impl Fn(f64) -> bool, evidence: String) -> Self {
        let outcome = if holds(value) { Outcome::Holds } else { Outcome::Fails };
        let settled = ci.into_iter().all(|end| holds(end) == holds(value));
        Self { claim, outcome, settled, evidence }
    }
}

/// A share in per cent with its interval: `12.5 % [8.1, 18.7]`.
fn shown(figure: &Figure) -> String {
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
fn points(difference: f64, [low, high]: [f64; 2]) -> String {
    // What rounds to zero has no sign.
    let tidy = |x: f64| format!("{:.1}", (1000.0 * x).round() / 10.0 + 0.0);
    format!("{} points [{}, {}]", tidy(difference), tidy(low), tidy(high))
}
