//! Whether an answer holds given facts: strings in, a count out.
//! Invariant: only the sequence of words matters, not case, spacing or punctuation.

/// Number of `facts` that `text` holds.
///
/// A fact is present when its words stand in the text one after the other. Words are the maximal runs of letters
/// and digits, in lower case; a character of a script written without spaces is a word by itself. So `Iron, nails`
/// is present in `take *iron nails*.` and `iron` is not present in `irony`. A fact without any word, such as `+`, is
/// compared unchanged.
pub(crate) fn present(facts: &[String], text: &str) -> usize {
    let words = words(text);
    facts
        .iter()
        .filter(|fact| {
            let wanted = self::words(fact);
            if wanted.len() > 1 { words.contains(&wanted) } else { text.contains(fact.trim()) }
        })
        .count()
}

/// The words of `text`, each followed by one space, with one space before the first.
fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(' ');
    for c in text.chars() {
        let alone = is_unspaced(c);
        if (alone || !c.is_alphanumeric()) && !out.ends_with(' ') {
            out.push(' ');
        }
        if c.is_alphanumeric() {
            out.extend(c.to_lowercase());
            if alone {
                out.push(' ');
            }
        }
    }
    if !out.ends_with(' ') {
        out.push(' ');
    }
    out
}

/// Letters of scripts that put no spaces between words: Thai to Burmese, Khmer, kana, Han.
pub(crate) fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c), 0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x3400..=0x9FFF
        | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(text: &str, fact: &str) -> bool {
        present(&[fact.to_owned()], text) == 1
    }

    #[test]
    fn case_spacing_and_punctuation_do_not_matter() {
        assert!(holds("First, take **Iron\n  nails**.", "iron nails"));
        assert!(holds("1. grind the bark;2. boil it", "boil it"));
        assert!(holds("It doesn\u{2019}t melt", "doesn't"));
        assert!(holds("die Hauptstadt ist KÖLN!", "köln"));
    }

    #[test]
    fn words_are_whole() {
        assert!(!holds("irony", "iron"));
        assert!(!holds("cast iron", "iron cast"));
        assert!(!holds("100", "10"));
        assert!(!holds("", "iron"));
    }

    #[test]
    fn scripts_without_spaces_are_matched_by_character() {
        assert!(holds("首都是东京。", "东京"));
        assert!(!holds("首都是北京。", "东京"));
    }

    #[test]
    fn facts_without_words_are_compared_literally() {
        assert!(holds("use a + here", "+"));
        assert!(!holds("use a minus here", "+"));
    }

    #[test]
    fn counts_each_fact() {
        let facts = ["salt", "sand", "heat it"].map(str::to_owned);
        assert_eq!(present(&facts, "Salt and water; heat it."), 2);
        assert_eq!(present(&[], "Salt"), 0);
    }

    proptest! {
        #[test]
        fn every_text_holds_its_own_words(text in "\\PC{0,40}") {
            let around = format!("before, {text} after");
            prop_assert!(holds(&around, &text));
        }
    }
}
