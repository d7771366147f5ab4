//! Porter's stem of an English word (Porter, An algorithm for suffix stripping, 1980), in the variant of NLTK, which
//! `rouge_score` uses. In: a word of a to z and digits, in lower case; out: its stem. Invariant: as NLTK's
//! `PorterStemmer` in its default mode. The Snowball project's English stemmer, also called Porter2, gives others.
//!
//! A stem is seen as runs of consonants and vowels, `[C](VC)^m[V]`; rules look at `m`. What NLTK adds to the paper:
//! words that are looked up, four-letter words in -ies and -ied, `y` after a consonant only, -alli before other rules,
//! -bli, -fulli, -logi, and a vowel with a consonant as a short stem.

/// Words that are looked up, with their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// A suffix and what replaces it, after a stem with `m > 0`. The first that the word ends with is the only one tried.
type Rules = [(&'static str, &'static str)];

const DOUBLE_SUFFIXES: &Rules = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const FULL_SUFFIXES: &Rules =
    &[("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

/// Removed after a stem with `m > 1`; `ion` after `s` or `t` only.
const LAST_SUFFIXES: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a word in lower case.
pub(crate) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 || !word.is_ascii() {
        return word.to_owned();
    }
    let word = without_plural(word);
    let word = without_past(&word);
    let word = match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonants(stem).last() == Some(&true) => format!("{stem}i"),
        _ => word,
    };
    let word = shorter_double_suffix(&word);
    let word = replaced(&word, FULL_SUFFIXES);
    let word = without_last_suffix(&word);
    without_final_letter(&word)
}

/// -sses to -ss, -ies to -i, no -s.
fn without_plural(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ies") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if word.ends_with("sses") {
        return word[..word.len() - 2].to_owned();
    }
    let plain = if word.ends_with("ss") { word } else { word.strip_suffix('s').unwrap_or(word) };
    plain.to_owned()
}

/// No -ed, -ing; -eed to -ee; and what that leaves made a word again.
fn without_past(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word.to_owned() };
    }
    let with_vowel = |stem: &&str| consonants(stem).contains(&false);
    let stem = word.strip_suffix("ed").filter(with_vowel).or_else(|| word.strip_suffix("ing").filter(with_vowel));
    let Some(stem) = stem else { return word.to_owned() };
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return format!("{stem}e");
    }
    if ends_double(stem) {
        let single = &stem[..stem.len() - 1];
        return if stem.ends_with(['l', 's', 'z']) { stem } else { single }.to_owned();
    }
    if measure(stem) == 1 && is_short(stem) { format!("{stem}e") } else { stem.to_owned() }
}

/// -ational to -ate and the like.
fn shorter_double_suffix(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return shorter_double_suffix(&format!("{stem}al"));
    }
    match word.strip_suffix("logi") {
        // The l belongs to what is measured, so that geologi is like archaeologi.
        Some(stem) if measure(&word[..word.len() - 3]) > 0 => format!("{stem}log"),
        Some(_) => word.to_owned(),
        None => replaced(word, DOUBLE_SUFFIXES),
    }
}

fn replaced(word: &str, rules: &Rules) -> String {
    let found = rules.iter().find_map(|(suffix, other)| Some((word.strip_suffix(suffix)?, other)));
    found
        .filter(|(stem, _)| measure(stem) > 0)
        .map_or_else(|| word.to_owned(), |(stem, other)| format!("{stem}{other}"))
}

fn without_last_suffix(word: &str) -> String {
    let found = LAST_SUFFIXES.iter().find_map(|suffix| Some((word.strip_suffix(suffix)?, *suffix)));
    let goes = |(stem, suffix): &(&str, &str)| measure(stem) > 1 && (*suffix != "ion" || stem.ends_with(['s', 't']));
    found.filter(goes).map_or(word, |(stem, _)| stem).to_owned()
}

/// No -e at the end of a long stem, no second l.
fn without_final_letter(word: &str) -> String {
    let goes = |stem: &&str| measure(stem) > 1 || measure(stem) == 1 && !is_short(stem);
    let word = word.strip_suffix('e').filter(goes).unwrap_or(word);
    let single = word.ends_with("ll").then(|| &word[..word.len() - 1]).filter(|single| measure(single) > 1);
    single.unwrap_or(word).to_owned()
}

/// Of each letter whether it is a consonant: all but a, e, i, o, u, and a y that follows a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut all: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        let is_consonant = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => all.last().is_none_or(|before| !before),
            _ => true,
        };
        all.push(is_consonant);
    }
    all
}

/// `m`: how often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

/// Ends with the same consonant twice.
fn ends_double(stem: &str) -> bool {
    let letters = stem.as_bytes();
    let twice = letters.len() >= 2 && letters[letters.len() - 1] == letters[letters.len() - 2];
    twice && consonants(stem).last() == Some(&true)
}

/// Ends with consonant, vowel, and a consonant other than w, x, y; or is a vowel and a consonant.
fn is_short(stem: &str) -> bool {
    match consonants(stem).as_slice() {
        [false, true] => true,
        [.., true, false, true] => !stem.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_nltk_gives_it() {
        let words: Vec<(String, String)> = serde_json::from_str(include_str!("../tests/fixtures/stems.json")).unwrap();
        let wrong: Vec<_> = words.iter().filter(|(word, wanted)| stem(word) != *wanted).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(words.len() > 1000);
    }

    proptest! {
        #[test]
        fn any_word_has_a_stem(word in "[a-z0-9]{0,12}|[aeiouy]{0,6}(ed|ing|ies|logi|alli|e|ll)") {
            // -bled and the like get an e again.
            prop_assert!(stem(&word).len() <= word.len() + 1);
        }
    }
}
