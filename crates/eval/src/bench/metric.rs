//! What an item is worth under each metric. In: the tokens of its answers as a model scored them, and the text that it
//! wrote; out: numbers. Invariant: a value depends on the item alone.

use super::{extract, squad};
use crate::rouge::{Rouge, Words};

/// Added to denominators as open-unlearning does, so that no probability divides by nothing.
const TINY: f64 = 1e-10;
/// The share of an answer's tokens that `Min-K%` looks at, the least likely ones, as MUSE and open-unlearning have it.
const MIN_K: f64 = 0.4;

/// A scored token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Token {
    /// Natural log-probability.
    pub(crate) logprob: f32,
    /// No token is likelier. False where that was not asked.
    pub(crate) likeliest: bool,
}

/// How the values of the items become the figure of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregate {
    /// Each is 0 or 1: their share.
    Share,
    /// Their mean.
    Mean,
    /// `exp` of the mean negative log-likelihood of a token.
    PerToken,
    /// `exp` of the mean negative log-likelihood of an item.
    PerItem,
    /// None of its own: other figures are made of it.
    Part,
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
    /// 1 if each token of the answer is the likeliest one, given those before.
    Greedy,
    /// `exp` of the answer's negative log-likelihood.
    AnswerPerplexity,
    /// `exp` of a window's mean negative log-likelihood of a token.
    Perplexity,
    /// 1 if the number behind `####` is that of the answer.
    StrictMatch,
    /// 1 if the last number is that of the answer.
    FlexibleMatch,
    /// 1 if the letter behind "answer is" is the right one.
    LetterMatch,
    /// 1 if the first line of the text is an answer. Of several answers, the mean over them of the best of the others,
    /// as people are compared with each other.
    ExactAnswer,
    /// The words that the first line shares with an answer, as the harmonic mean of their share in both; of several
    /// answers as `ExactAnswer`.
    AnswerF1,
    /// TOFU: `exp` of the mean log-likelihood of the answer's tokens, the end included.
    Probability,
    /// TOFU: that probability among those of answer and wrong answers.
    OptionProbability,
    /// TOFU: the share of the answer's words that the written text has in the same order.
    RougeRecall,
    /// MUSE: that share and the share of the text's words that the answer has, their harmonic mean.
    RougeF1,
    /// TOFU, forget set: `min(R, 1 / R)` of `Ratio`; 1 where wrong answers are as likely as the right one.
    ForgetTruth,
    /// TOFU, other sets: `max(0, 1 - R)` of `Ratio`.
    RetainTruth,
    /// TOFU: the truth ratio `R`: how likely wrong answers are, their geometric mean, against the right one in other
    /// words.
    Ratio,
    /// The longest end of the answer that is predicted token by token, as a share of it.
    ExtractionStrength,
    /// The share of the answer's tokens that are the likeliest ones.
    ExactMemorization,
    /// The mean log-likelihood of the least likely 40 % of the answer's tokens (Shi et al. 2024).
    MinK,
}

/// What a model made of an item.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// The tokens of every answer, in its order.
    pub(crate) tokens: &'a [Vec<Token>],
    /// Log-likelihood of every answer.
    pub(crate) loglikelihoods: &'a [f64],
    /// Characters of every answer.
    pub(crate) characters: &'a [usize],
    /// Which answers are right.
    pub(crate) right: &'a [bool],
    /// Tokens of the first answer, without the end of sequence.
    pub(crate) own: usize,
    /// The answers that are expected of a written text; usually one.
    pub(crate) golds: &'a [String],
    /// What was written.
    pub(crate) text: &'a str,
}

impl Metric {
    /// Its name in every file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Acc | Self::Greedy => "acc",
            Self::AccNorm => "acc_norm",
            Self::Mc1 => "mc1",
            Self::Mc2 => "mc2",
            Self::Perplexity | Self::AnswerPerplexity => "perplexity",
            Self::StrictMatch => "exact_match_strict",
            Self::FlexibleMatch => "exact_match_flexible",
            Self::LetterMatch => "exact_match",
            Self::ExactAnswer => "em",
            Self::AnswerF1 => "f1",
            Self::Probability | Self::OptionProbability => "probability",
            Self::RougeRecall => "rougeL_recall",
            Self::RougeF1 => "rougeL_f1",
            Self::ForgetTruth | Self::RetainTruth => "truth_ratio",
            Self::Ratio => "ratio",
            Self::ExtractionStrength => "extraction_strength",
            Self::ExactMemorization => "exact_memorization",
            Self::MinK => "min_k",
        }
    }

    /// How its values make a figure.
    pub(crate) fn aggregate(self) -> Aggregate {
        match self {
            Self::Acc
            | Self::AccNorm
            | Self::Mc1
            | Self::Greedy
            | Self::StrictMatch
            | Self::FlexibleMatch
            | Self::LetterMatch => Aggregate::Share,
            Self::Perplexity => Aggregate::PerToken,
            Self::AnswerPerplexity => Aggregate::PerItem,
            Self::Ratio | Self::MinK => Aggregate::Part,
            _ => Aggregate::Mean,
        }
    }

    /// Whether it asks for each token whether another is likelier.
    pub(crate) fn needs_likeliest(self) -> bool {
        matches!(self, Self::Greedy | Self::ExtractionStrength | Self::ExactMemorization)
    }

    /// Its value. Of choices, ties go to the first.
    pub(crate) fn value(self, seen: &Seen<'_>) -> f64 {
        let Seen { loglikelihoods, characters, right, .. } = *seen;
        match self {
            Self::Acc | Self::Mc1 => best(loglikelihoods.iter().copied(), right),
            Self::AccNorm => best(loglikelihoods.iter().zip(characters).map(|(l, n)| l / *n as f64), right),
            Self::Mc2 => {
                let most = loglikelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let share = |l: &f64| (l - most).exp();
                let all: f64 = loglikelihoods.iter().map(share).sum();
                let true_ones: f64 = loglikelihoods.iter().zip(right).filter(|(_, r)| **r).map(|(l, _)| share(l)).sum();
                true_ones / all
            }
            Self::Greedy => truth(seen.tokens.first().is_some_and(|all| all.iter().all(|t| t.likeliest))),
            Self::AnswerPerplexity => (-loglikelihoods.first().copied().unwrap_or_default()).exp(),
            Self::Perplexity => {
                let tokens: usize = seen.tokens.iter().map(Vec::len).sum();
                (-loglikelihoods.iter().sum::<f64>() / tokens as f64).exp()
            }
            Self::StrictMatch => truth(extract::same_number(extract::marked_number(seen.text), seen.gold())),
            Self::FlexibleMatch => truth(extract::same_number(extract::last_number(seen.text), seen.gold())),
            Self::LetterMatch => truth(extract::letter(seen.text) == Some(seen.gold())),
            Self::ExactAnswer => squad::among(seen.golds, seen.text, squad::exact),
            Self::AnswerF1 => squad::among(seen.golds, seen.text, squad::f1),
            Self::Probability => seen.probability(0),
            Self::OptionProbability => {
                let own = seen.probability(0);
                let wrong: f64 = seen.wrong().map(|i| seen.probability(i)).sum();
                own / (own + wrong + TINY)
            }
            Self::RougeRecall => Rouge::of(seen.gold(), seen.text, Words::Stems).recall,
            Self::RougeF1 => Rouge::of(seen.gold(), seen.text, Words::Whole).f1(),
            Self::Ratio => seen.ratio(),
            Self::ForgetTruth => {
                let ratio = seen.ratio();
                ratio.min(1.0 / (ratio + TINY))
            }
            Self::RetainTruth => (1.0 - seen.ratio()).max(0.0),
            Self::ExtractionStrength => {
                let answer = seen.answer();
                let predicted = answer.iter().rev().take_while(|t| t.likeliest).count();
                predicted as f64 / answer.len().max(1) as f64
            }
            Self::ExactMemorization => {
                let answer = seen.answer();
                answer.iter().filter(|t| t.likeliest).count() as f64 / answer.len().max(1) as f64
            }
            Self::MinK => {
                let mut logprobs: Vec<f32> = seen.answer().iter().map(|t| t.logprob).collect();
                logprobs.sort_unstable_by(f32::total_cmp);
                // At least one, and rounded down, as open-unlearning counts them.
                logprobs.truncate(((logprobs.len() as f64 * MIN_K) as usize).max(1));
                logprobs.iter().map(|&l| f64::from(l)).sum::<f64>() / logprobs.len().max(1) as f64
            }
        }
    }
}

impl<'a> Seen<'a> {
    /// The answer that is expected, of a task that has one.
    fn gold(&self) -> &str {
        self.golds.first().map_or("", String::as_str)
    }

    /// The tokens of the answer without its end.
    fn answer(&self) -> &'a [Token] {
        let tokens = self.tokens.first().map(Vec::as_slice).unwrap_or_default();
        tokens.get(..self.own).unwrap_or(tokens)
    }

    /// The mean negative log-likelihood of a token of answer `i`, its end included.
    fn nll(&self, i: usize) -> f64 {
        let tokens = self.tokens.get(i).map_or(1, |tokens| tokens.len().max(1));
        -self.loglikelihoods.get(i).copied().unwrap_or_default() / tokens as f64
    }

    fn probability(&self, i: usize) -> f64 {
        (-self.nll(i)).exp()
    }

    fn wrong(&self) -> impl Iterator<Item = usize> {
        self.right.iter().enumerate().filter(|(_, right)| !**right).map(|(i, _)| i)
    }

    /// `P(wrong) / P(right)`, each `exp` of minus a mean NLL: of the wrong answers the mean of theirs; of the right one
    /// the last given, which is the one in other words where there is one.
    fn ratio(&self) -> f64 {
        let wrong: Vec<f64> = self.wrong().map(|i| self.nll(i)).collect();
        let wrong = (-wrong.iter().sum::<f64>() / wrong.len().max(1) as f64).exp();
        let right = self.right.iter().rposition(|right| *right).unwrap_or_default();
        wrong / (self.probability(right) + TINY)
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// 1 if the highest score is that of a right choice.
fn best(scores: impl Iterator<Item = f64>, right: &[bool]) -> f64 {
    let mut best = (f64::NEG_INFINITY, 0);
    for (i, score) in scores.enumerate() {
        if score > best.0 {
            best = (score, i);
        }
    }
    truth(right.get(best.1) == Some(&true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metric: Metric, loglikelihoods: &[f64], characters: &[usize], right: &[bool]) -> f64 {
        let seen = Seen { tokens: &[], loglikelihoods, characters, right, own: 0, golds: &[], text: "" };
        metric.value(&seen)
    }

    #[test]
    #[allow(clippy::float_cmp)] // Exactly 0 or 1.
    fn of_choices() {
        let (scores, lengths) = ([-4.0, -3.0, -3.0], [8, 3, 3]);
        let value_of = |metric: Metric, right: [bool; 3]| value(metric, &scores, &lengths, &right);
        assert_eq!(value_of(Metric::Acc, [false, true, false]), 1.0);
        assert_eq!(value_of(Metric::Mc1, [false, false, true]), 0.0, "a tie goes to the first");
        assert_eq!(value_of(Metric::AccNorm, [true, false, false]), 1.0);
        assert_eq!(
            value(Metric::AccNorm, &[-5.0, -1.0], &[1, 0], &[true, false]),
            1.0,
            "an empty choice is never best"
        );
        let e = 1.0f64.exp();
        assert!((value_of(Metric::Mc2, [true, false, true]) - (1.0 + e) / (1.0 + 2.0 * e)).abs() < 1e-12);
        // Far below what exp can represent.
        assert_eq!(value(Metric::Mc2, &[-2000.0, -2001.0], &[1, 1], &[true, true]), 1.0);
    }

    #[test]
    #[allow(clippy::float_cmp)] // Sums of halves and quarters.
    fn of_the_tokens_of_an_answer() {
        let token = |logprob: f32, likeliest| Token { logprob, likeliest };
        // Five tokens and the end.
        let answer: Vec<Token> = [(-4.0, true), (-1.0, false), (-0.5, true), (-3.0, true), (-2.0, true), (-1.5, false)]
            .map(|(l, g)| token(l, g))
            .into();
        let tokens = [answer, vec![token(-1.0, true); 2], vec![token(-2.0, false); 2], vec![token(-4.0, false)]];
        let sum = |t: &Vec<Token>| t.iter().map(|t| f64::from(t.logprob)).sum();
        let loglikelihoods: Vec<f64> = tokens.iter().map(sum).collect();
        let right = [true, true, false, false];
        let seen = Seen {
            tokens: &tokens,
            loglikelihoods: &loglikelihoods,
            characters: &[],
            right: &right,
            own: 5,
            golds: &[],
            text: "",
        };
        assert_eq!(Metric::ExtractionStrength.value(&seen), 0.6);
        assert_eq!(Metric::ExactMemorization.value(&seen), 0.8);
        assert_eq!(Metric::MinK.value(&seen), -3.5, "the two least likely of five");
        assert_eq!(Metric::Greedy.value(&seen), 0.0);
        let close = |metric: Metric, wanted: f64| {
            let found = metric.value(&seen);
            assert!((found - wanted).abs() < 1e-9, "{metric:?} {found} {wanted}");
        };
        let exp = |x: f64| x.exp();
        close(Metric::Probability, exp(-2.0));
        close(Metric::OptionProbability, exp(-2.0) / (exp(-2.0) + exp(-2.0) + exp(-4.0) + 1e-10));
        let ratio = exp(-3.0) / (exp(-1.0) + 1e-10);
        close(Metric::Ratio, ratio);
        close(Metric::ForgetTruth, ratio);
        close(Metric::RetainTruth, 1.0 - ratio);
        // An answer that the model has not learnt at all.
        let none = [vec![token(-1.0, false); 3]];
        let none = Seen { tokens: &none, own: 2, ..seen };
        assert_eq!((Metric::ExtractionStrength.value(&none), Metric::ExactMemorization.value(&none)), (0.0, 0.0));
    }
}
