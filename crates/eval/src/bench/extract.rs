//! Answers in written text. In: what a model wrote; out: the number or letter that it gives as its answer. Invariant:
//! what is found is what the patterns of lm-evaluation-harness 0.4.13 find (GSM8K's `strict-match` and
//! `flexible-extract`, MMLU-Pro's `custom-extract`).

/// What stands before the answer of GSM8K.
const MARK: &str = "#### ";

/// The number behind the first `#### ` that a number follows: digits, points and commas, with a minus before them.
pub(crate) fn marked_number(text: &str) -> Option<&str> {
    text.match_indices(MARK).find_map(|(at, _)| {
        let rest = &text[at + MARK.len()..];
        let sign = usize::from(rest.starts_with('-'));
        let digits = run(&rest[sign..], |c| c.is_ascii_digit() || ".,".contains(c));
        (digits > 0).then(|| &rest[..sign + digits])
    })
}

/// The last number: two or more digits, points, commas and dollar signs, or digits alone; with a minus before them.
pub(crate) fn last_number(text: &str) -> Option<&str> {
    let (mut at, mut last) = (0, None);
    while let Some(next) = text[at..].chars().next() {
        let rest = &text[at..];
        let sign = usize::from(next == '-');
        let wide = run(&rest[sign..], |c| c.is_ascii_digit() || "$.,".contains(c));
        let digits = run(&rest[sign..], |c| c.is_ascii_digit());
        let found = if wide >= 2 { wide } else { digits };
        if found > 0 {
            last = Some(&rest[..sign + found]);
            at += sign + found;
        } else {
            at += next.len_utf8();
        }
    }
    last
}

/// The letter from A to J behind the first `answer is `, with or without a parenthesis before it.
pub(crate) fn letter(text: &str) -> Option<&str> {
    const BEFORE: &str = "answer is ";
    text.match_indices(BEFORE).find_map(|(at, _)| {
        let rest = &text[at + BEFORE.len()..];
        let rest = rest.strip_prefix('(').unwrap_or(rest);
        rest.starts_with(|c| ('A'..='J').contains(&c)).then(|| &rest[..1])
    })
}

/// Whether what was found is the number of the answer: without commas, dollar signs, what stands before `#### `, and a
/// point at the end.
pub(crate) fn same_number(found: Option<&str>, answer: &str) -> bool {
    found.is_some_and(|found| bare(found) == bare(answer))
}

fn bare(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    let text = text.rsplit_once(MARK).map_or(text.as_str(), |(_, behind)| behind);
    text.strip_suffix('.').unwrap_or(text).to_lowercase()
}

/// Bytes at the start of `text` that are of one kind, all of it ASCII.
fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.chars().take_while(|c| of(*c)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_that_the_patterns_find() {
        assert_eq!(marked_number("so 3\n#### x\n#### -1,200.\nand #### 4"), Some("-1,200."));
        assert_eq!(marked_number("####4 and #### -"), None);
        assert_eq!(last_number("She has $18.50, or 7"), Some("7"));
        assert_eq!(last_number("It costs $1,200."), Some("$1,200."));
        assert_eq!(last_number("a-5b"), Some("-5"));
        assert_eq!(last_number("Well ... then"), Some("..."), "two points are a number to the pattern");
        assert_eq!(last_number("no. $ - ,"), None);
        assert!(same_number(Some("$1,200."), "6 x 200 = 1200\n#### 1,200"));
        assert!(!same_number(None, "#### 1") && !same_number(Some("..."), "#### 1"));
    }

    #[test]
    fn a_letter_is_behind_its_words() {
        assert_eq!(letter("The answer is K. Or the answer is (C)."), Some("C"));
        assert_eq!(letter("the answer is B"), Some("B"));
        assert_eq!(letter("answer: B"), None);
    }

    proptest! {
        #[test]
        fn any_text_has_a_number_or_none(text in "\\PC{0,40}|[#$0-9., -]{0,30}") {
            for found in [marked_number(&text), last_number(&text), letter(&text)].into_iter().flatten() {
                prop_assert!(text.contains(found));
            }
        }
    }
}
