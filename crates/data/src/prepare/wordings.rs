//! A few refusals in the place of many. In: texts, and how many of them may be left; out: for each text the one that
//! stands for it. Invariant: what stands for a text is one of the texts, and the same texts give the same choice.

use super::duplicates::normal;
use std::collections::BTreeSet;

/// Which of `texts` stands for each: of those that are left, the most similar one. Those that are left are taken one by
/// one, each the text that makes all of them most similar to what stands for them (a greedy facility location). Texts are
/// similar by the share of their words that they have in common (Jaccard). Of equals the first counts.
pub(super) fn standing_for(texts: &[&str], left: usize) -> Vec<usize> {
    let words = |text: &&str| normal(text).split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let words: Vec<BTreeSet<String>> = texts.iter().map(words).collect();
    // How similar each text is to what stands for it so far, and that.
    let mut best: Vec<(f64, usize)> = vec![(-1.0, 0); texts.len()];
    for _ in 0..left.min(texts.len()) {
        let gain = |candidate: usize| -> f64 {
            let pairs = words.iter().zip(&best);
            pairs.map(|(own, (now, _))| (similar(own, &words[candidate]) - now).max(0.0)).sum()
        };
        // One that is left already gains nothing.
        let all = (0..texts.len()).map(|i| (gain(i), i));
        let Some((_, next)) = all.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { break };
        for (own, now) in words.iter().zip(&mut best) {
            let similarity = similar(own, &words[next]);
            if similarity > now.0 {
                *now = (similarity, next);
            }
        }
    }
    best.into_iter().map(|(_, stands)| stands).collect()
}

fn similar(a: &BTreeSet<String>, b: &BTreeSet<String>) -> f64 {
    let common = a.intersection(b).count();
    let all = a.len() + b.len() - common;
    if all == 0 { 1.0 } else { common as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REFUSALS: [&str; 6] = [
        "I cannot help with this.",
        "I cannot help with this, as it is harmful.",
        "I can't do that, Ida.",
        "I cannot help with this, sorry.",
        "I can't do that, Bo.",
        "I can't do that.",
    ];

    #[test]
    fn what_is_left_is_in_the_middle_of_what_it_stands_for() {
        assert_eq!(standing_for(&REFUSALS, 1), [5; 6]);
        assert_eq!(standing_for(&REFUSALS, 2), [0, 0, 5, 0, 5, 5]);
        assert_eq!(standing_for(&REFUSALS, 9), [0, 1, 2, 3, 4, 5]);
        assert_eq!(standing_for(&["", "!", "no"], 2), [0, 0, 2]);
        assert!(standing_for(&[], 3).is_empty());
    }

    proptest! {
        #[test]
        fn every_text_has_one_of_the_texts_that_are_left(texts in proptest::collection::vec("[ab ]{0,6}", 1..12), left in 1usize..5) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let stands = standing_for(&texts, left);
            prop_assert_eq!(stands.len(), texts.len());
            let used: BTreeSet<usize> = stands.iter().copied().collect();
            prop_assert!(used.len() <= left && used.iter().all(|&i| i < texts.len()));
        }
    }
}
