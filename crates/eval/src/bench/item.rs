//! Items of a benchmark: what is asked, which answers are offered, and what their log-likelihoods say. Invariant: an
//! item has at least two choices, at least one of them right.

use eraser_model::{Error, Result};

/// One question with the answers offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Put once, before the examples: MMLU's sentence about the subject. Usually empty.
    pub(crate) head: String,
    /// The answers, in the order of the row.
    pub(crate) choices: Vec<Choice>,
    /// Which of them are right.
    pub(crate) right: Vec<bool>,
}

/// One answer: the continuation of a context, a space between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The text before it.
    pub(crate) context: String,
    /// What is scored.
    pub(crate) continuation: String,
}

impl Item {
    /// A question whose choices continue the same context; `gold` is the right one.
    pub(crate) fn ask(context: &str, choices: Vec<String>, gold: usize) -> Result<Self> {
        let choice = |continuation| Choice { context: context.to_owned(), continuation };
        Self::new(choices.into_iter().map(choice).collect(), |i| i == gold)
    }

    /// An item of these choices.
    pub(crate) fn new(choices: Vec<Choice>, right: impl Fn(usize) -> bool) -> Result<Self> {
        let right: Vec<bool> = (0..choices.len()).map(right).collect();
        if choices.len() < 2 {
            return Err(Error::request(format!("{} choices: a question has at least two", choices.len())));
        }
        if !right.contains(&true) {
            return Err(Error::request("no choice is right"));
        }
        // One may be empty, as some of HellaSwag's endings are: the harness scores the space before it.
        if choices.iter().all(|c| c.continuation.trim().is_empty()) {
            return Err(Error::request("every choice is empty"));
        }
        Ok(Self { head: String::new(), choices, right })
    }

    /// The item as an example: the question with its right answer.
    pub(crate) fn example(&self) -> String {
        let found = self.choices.iter().zip(&self.right).find(|(_, right)| **right);
        found.map(|(c, _)| format!("{} {}", c.context, c.continuation)).unwrap_or_default()
    }
}

/// A figure of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// 1 if the likeliest choice is right.
    Acc,
    /// As `Acc`, with the log-likelihood divided by the number of characters of the choice.
    AccNorm,
    /// As `Acc`, under the name that `TruthfulQA` gives it.
    Mc1,
    /// The share of probability that the right choices have among all.
    Mc2,
}

impl Metric {
    /// Its name in every file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::Mc1 => "mc1",
            Self::Mc2 => "mc2",
        }
    }

    /// Its value, given the log-likelihood and the number of characters of every choice. Ties go to the first.
    pub(crate) fn value(self, loglikelihoods: &[f64], lengths: &[usize], right: &[bool]) -> f64 {
        let best = |scores: &mut dyn Iterator<Item = f64>| {
            let mut best = (f64::NEG_INFINITY, 0);
            for (i, score) in scores.enumerate() {
                if score > best.0 {
                    best = (score, i);
                }
            }
            f64::from(u8::from(right.get(best.1) == Some(&true)))
        };
        match self {
            Self::Acc | Self::Mc1 => best(&mut loglikelihoods.iter().copied()),
            Self::AccNorm => best(&mut loglikelihoods.iter().zip(lengths).map(|(l, n)| l / *n as f64)),
            Self::Mc2 => {
                let most = loglikelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let share = |l: &f64| (l - most).exp();
                let all: f64 = loglikelihoods.iter().map(share).sum();
                let true_ones: f64 = loglikelihoods.iter().zip(right).filter(|(_, r)| **r).map(|(l, _)| share(l)).sum();
                true_ones / all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp)] // Exactly 0 or 1.
    fn metrics() {
        let (scores, lengths) = ([-4.0, -3.0, -3.0], [8, 3, 3]);
        let value = |metric: Metric, right: [bool; 3]| metric.value(&scores, &lengths, &right);
        assert_eq!(value(Metric::Acc, [false, true, false]), 1.0);
        assert_eq!(value(Metric::Mc1, [false, false, true]), 0.0, "a tie goes to the first");
        assert_eq!(value(Metric::AccNorm, [true, false, false]), 1.0);
        let e = 1.0f64.exp();
        assert!((value(Metric::Mc2, [true, false, true]) - (1.0 + e) / (1.0 + 2.0 * e)).abs() < 1e-12);
        // Far below what exp can represent.
        assert_eq!(Metric::Mc2.value(&[-2000.0, -2001.0], &[1, 1], &[true, true]), 1.0);
    }

    #[test]
    fn an_item_needs_choices_and_a_right_one() {
        let ask = |choices: &[&str], gold| Item::ask("q", choices.iter().map(|c| (*c).to_owned()).collect(), gold);
        assert_eq!(ask(&["a", "b"], 1).unwrap().example(), "q b");
        assert!(ask(&["a"], 0).is_err() && ask(&["a", "b"], 2).is_err() && ask(&["", " "], 0).is_err());
        // One empty ending is a choice like another; by its length it is never the best.
        let empty = ask(&["a", ""], 0).unwrap();
        assert!((Metric::AccNorm.value(&[-5.0, -1.0], &[1, 0], &empty.right) - 1.0).abs() < f64::EPSILON);
    }
}
