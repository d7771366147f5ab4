//! How likely known answers are, as `summary.json` has it: a row per set, context and number of tokens that were given.
//! Invariant after [`check`]: figures are finite and of plottable size, intervals ordered, rows distinct.

use serde::Deserialize;
use std::collections::HashSet;

/// The context of a question as it is.
pub(crate) const PLAIN: &str = "plain";
/// The context of all templates together.
pub(crate) const TEMPLATES: &str = "template";
/// What the names of sets begin with whose answers should stay as likely as they were.
const BENIGN: &str = "benign";
/// Costs beyond this are damage: a token that a model takes for impossible costs some hundred nats.
const MAX_NLL: f64 = 1e6;
/// More answers or tokens than any evaluation has.
const MAX_COUNT: u64 = 1_000_000_000;

/// Negative log-likelihood of the known answers of a set, in one context.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Nll {
    /// Set of the questions.
    pub set: String,
    /// `plain`, `template` (all templates pooled), `template:<name>`.
    pub context: String,
    /// Tokens of each answer that were given; the figure is of those behind them.
    pub cut: u64,
    /// Answers.
    pub n: u64,
    /// Questions that these answer.
    pub questions: u64,
    /// Answers that end before.
    #[serde(default)]
    pub short: u64,
    /// Answers that are longer than the model's positions.
    #[serde(default)]
    pub cut_off: u64,
    /// Mean over questions, nats per token.
    pub nll: Option<f64>,
    /// Its 95 % interval, by question.
    pub ci: Option<[f64; 2]>,
    /// The mean less the base's on the same answers and prompts.
    #[serde(default)]
    pub change: Option<Rise>,
}

/// A figure less that of the base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Rise {
    /// The difference.
    pub difference: f64,
    /// Its 95 % interval.
    pub ci: [f64; 2],
    /// Questions behind it.
    #[serde(default)]
    pub questions: u64,
}

impl Nll {
    /// What makes two rows comparable across subjects: set, context and cut.
    pub(crate) fn key(&self) -> (&str, &str, u64) {
        (&self.set, &self.context, self.cut)
    }

    /// The answers should stay as likely as they were.
    pub(crate) fn is_benign(&self) -> bool {
        self.set.starts_with(BENIGN)
    }

    /// One template of many. Where subjects have other templates under one name, the name of the pool tells which.
    pub(crate) fn is_part(&self) -> bool {
        self.context.contains(':')
    }

    /// All templates together.
    pub(crate) fn is_pool(&self) -> bool {
        self.context != PLAIN && !self.is_part()
    }
}

/// What is wrong with the rows of a subject.
pub(crate) fn check(rows: &[Nll]) -> std::result::Result<(), String> {
    let mut keys = HashSet::new();
    for row in rows {
        let name = format!("likelihood of `{}` in `{}` after {} tokens", row.set, row.context, row.cut);
        if !keys.insert(row.key()) {
            return Err(format!("{name} appears twice"));
        }
        let interval = row.ci.into_iter().chain(row.change.map(|c| c.ci));
        if interval.clone().any(|[low, high]| low > high) {
            return Err(format!("{name}: an interval ends before it starts"));
        }
        let figures = row.nll.into_iter().chain(row.change.map(|c| c.difference)).chain(interval.flatten());
        if !figures.into_iter().all(|x| x.is_finite() && x.abs() <= MAX_NLL) {
            return Err(format!("{name}: a figure is out of range"));
        }
        let counts = [row.cut, row.n, row.questions, row.short, row.cut_off];
        if counts.iter().any(|&n| n > MAX_COUNT) || row.questions > row.n {
            return Err(format!("{name}: {} answers to {} questions", row.n, row.questions));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_named() {
        let row = Nll { set: "seen".into(), context: PLAIN.into(), n: 2, questions: 2, ..Nll::default() };
        let rise = |difference, ci| Some(Rise { difference, ci, questions: 2 });
        check(&[row.clone(), Nll { cut: 5, nll: Some(1.0), ci: Some([0.5, 1.5]), ..row.clone() }]).unwrap();
        for (rows, word) in [
            (vec![row.clone(), row.clone()], "twice"),
            (vec![Nll { nll: Some(f64::NAN), ..row.clone() }], "out of range"),
            (vec![Nll { nll: Some(1e300), ..row.clone() }], "out of range"),
            (vec![Nll { ci: Some([2.0, 1.0]), ..row.clone() }], "ends before"),
            (vec![Nll { change: rise(1.0, [2.0, 1.0]), ..row.clone() }], "ends before"),
            (vec![Nll { change: rise(f64::INFINITY, [0.0, 1.0]), ..row.clone() }], "out of range"),
            (vec![Nll { questions: 3, ..row.clone() }], "3 questions"),
            (vec![Nll { cut: u64::MAX, ..row }], "answers"),
        ] {
            let error = check(&rows).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
