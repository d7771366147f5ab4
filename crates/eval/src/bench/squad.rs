//! Answers compared as `SQuAD` compares them. In: a written text and the answers of people; out: a share. Invariant: what
//! is compared is what `squad_metrics` of transformers 4 compares, in the way of lm-evaluation-harness 0.4.13's `coqa`.

use std::collections::HashMap;

/// How the first line of a text agrees with `answers` by `agrees`: with one answer, or the mean, over leaving out each,
/// of the best among the rest.
pub(super) fn among(answers: &[String], text: &str, agrees: fn(&[String], &[String]) -> f64) -> f64 {
    let said = words(text.trim().split_once('\n').map_or(text.trim(), |(line, _)| line));
    let found: Vec<f64> = answers.iter().map(|answer| agrees(&words(answer), &said)).collect();
    let best = |left_out: Option<usize>| {
        let others = found.iter().enumerate().filter(|(i, _)| Some(*i) != left_out);
        others.fold(0.0, |best, (_, value)| value.max(best))
    };
    match found.len() {
        0 | 1 => best(None),
        n => (0..n).map(|i| best(Some(i))).sum::<f64>() / n as f64,
    }
}

/// 1 if the words are the same.
pub(super) fn exact(answer: &[String], said: &[String]) -> f64 {
    f64::from(u8::from(answer == said))
}

/// The harmonic mean of the shares that the common words have in both.
pub(super) fn f1(answer: &[String], said: &[String]) -> f64 {
    if answer.is_empty() || said.is_empty() {
        return exact(answer, said);
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in answer {
        *left.entry(word).or_default() += 1;
    }
    let common = said.iter().filter(|word| {
        left.get_mut(word.as_str()).filter(|n| **n > 0).is_some_and(|n| {
            *n -= 1;
            true
        })
    });
    let common = common.count() as f64;
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (common / said.len() as f64, common / answer.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// The words of a text in lower case, without punctuation (that of ASCII) and articles.
fn words(text: &str) -> Vec<String> {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    // An article is one where no letter or digit stands beside it, whatever else does.
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric();
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        plain.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = after;
    }
    plain.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "shares of small counts")]
mod tests {
    use super::*;

    fn figures(answers: &[&str], text: &str) -> (f64, f64) {
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        (among(&answers, text, exact), among(&answers, text, f1))
    }

    /// Each run with `compute_exact` and `compute_f1` of transformers 4.57.6, the last that has them.
    #[test]
    fn words_are_compared_as_squad_compares_them() {
        assert_eq!(figures(&["The lamp."], " a Lamp\nQ: more"), (1.0, 1.0));
        assert_eq!(figures(&["two red lamps"], "red lamps, red"), (0.0, 2.0 / 3.0));
        assert_eq!(figures(&["the"], ""), (1.0, 1.0));
        assert_eq!(figures(&["lamp"], "hat"), (0.0, 0.0));
        assert_eq!(words("The-end: an\u{e9}, a\u{201c}the\u{201d}"), ["theend", "an\u{e9}", "\u{201c}", "\u{201d}"]);
        // Of three answers each is left out once.
        assert_eq!(figures(&["yes", "no", "Yes!"], "yes"), (1.0, 1.0));
        let (em, f1) = figures(&["yes", "no"], "yes");
        assert_eq!((em, f1), (0.5, 0.5));
    }
}
