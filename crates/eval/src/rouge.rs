//! ROUGE-L of a written text. In: the text that is expected and the one that was written; out: precision and recall of
//! their longest common subsequence of words (Lin 2004). Invariant: words are cut and stemmed as `rouge_score` 0.1.2
//! does: lower case, letters a to z and digits; with `use_stemmer`, Porter's stem of what is longer than three.

use crate::porter::stem;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// Words as they are.
    Whole,
    /// Their stems.
    Stems,
}

/// Shares of words that two texts have in common, in the same order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rouge {
    /// Of the written text.
    pub(crate) precision: f64,
    /// Of the expected text.
    pub(crate) recall: f64,
}

impl Rouge {
    /// Of `expected` and `written`; 0 where either has no words.
    pub(crate) fn of(expected: &str, written: &str, of: Words) -> Self {
        let (expected, written) = (words(expected, of), words(written, of));
        if expected.is_empty() || written.is_empty() {
            return Self::default();
        }
        let common = longest_common(&expected, &written) as f64;
        Self { precision: common / written.len() as f64, recall: common / expected.len() as f64 }
    }

    /// The harmonic mean of both; 0 where they are.
    pub(crate) fn f1(self) -> f64 {
        let sum = self.precision + self.recall;
        if sum > 0.0 { 2.0 * self.precision * self.recall / sum } else { 0.0 }
    }
}

/// The words of a text.
fn words(text: &str, of: Words) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| if of == Words::Stems && word.len() > 3 { stem(word) } else { word.to_owned() }).collect()
}

/// Words of the longest list that both hold in this order, not necessarily side by side.
fn longest_common(a: &[String], b: &[String]) -> usize {
    // One row of the table: the length for all of `a` so far and the first j words of `b`.
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// Recorded by tests/fixtures/unlearning.py.
    #[derive(Deserialize)]
    struct Case {
        expected: String,
        written: String,
        stems: bool,
        precision: f64,
        recall: f64,
        f1: f64,
    }

    #[test]
    fn as_rouge_score_gives_it() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../tests/fixtures/rouge.json")).unwrap();
        for case in &cases {
            let words = if case.stems { Words::Stems } else { Words::Whole };
            let found = Rouge::of(&case.expected, &case.written, words);
            let pairs = [(found.precision, case.precision), (found.recall, case.recall), (found.f1(), case.f1)];
            assert!(pairs.iter().all(|(a, b)| (a - b).abs() < 1e-12), "{}\n{}\n{found:?}", case.expected, case.written);
        }
        assert!(cases.len() > 10);
    }
}
