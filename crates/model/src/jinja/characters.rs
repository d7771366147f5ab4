//! Python's tests of one character (`str.isdigit` and its like). In: a character; out: what Python says of it.
//! Invariant: the same as Python for every character that its version of Unicode has (`tests/fixtures/str_methods.py`).

use super::unicode::{ALPHA, BEGINS, CONTINUES, DECIMAL, DIGIT, NO_BEGIN, NUMERIC, TITLE};

/// Whether a character is within ranges, which are given as where each begins and ends.
fn within(ranges: &[u32], c: char) -> bool {
    ranges.partition_point(|&at| at <= u32::from(c)) % 2 == 1
}

/// A letter: `str.isalpha`.
pub(super) fn alpha(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { within(ALPHA, c) }
}

/// A digit of a decimal number: `str.isdecimal`.
pub(super) fn decimal(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { within(DECIMAL, c) }
}

/// The value of such a digit. The digits of a script stand in a row from 0 on, and where rows follow each other, each
/// has ten.
pub(super) fn value(c: char) -> Option<u32> {
    let place = DECIMAL.partition_point(|&at| at <= u32::from(c));
    let start = DECIMAL.get(place.checked_sub(1)?).filter(|_| place % 2 == 1)?;
    Some((u32::from(c) - start) % 10)
}

/// Those, and superscripts and the like: `str.isdigit`.
pub(super) fn digit(c: char) -> bool {
    decimal(c) || within(DIGIT, c)
}

/// Those, and fractions, Roman numerals, numbers of Chinese: `str.isnumeric`.
pub(super) fn numeric(c: char) -> bool {
    digit(c) || within(NUMERIC, c)
}

/// `str.isalnum`.
pub(super) fn alphanumeric(c: char) -> bool {
    alpha(c) || numeric(c)
}

/// `str.isspace`: what Unicode calls white space, and the four separators of ASCII.
pub(super) fn space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// A letter in title case: one of the digraphs whose first half alone is upper case.
pub(super) fn title(c: char) -> bool {
    within(TITLE, c)
}

/// What can begin an identifier: `str.isidentifier` of one character.
pub(super) fn begins(c: char) -> bool {
    (alpha(c) && !within(NO_BEGIN, c)) || within(BEGINS, c)
}

/// What can stand in an identifier.
pub(super) fn continues(c: char) -> bool {
    begins(c) || within(CONTINUES, c)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
mod tests {
    use super::super::{python, strings};
    use super::*;
    use std::collections::BTreeMap;

    /// Letters that Unicode 15 and later say to be of lower case, and Python's version does not, or the reverse.
    const CHANGED: [char; 6] = ['ʕ', 'ჼ', 'ꟲ', 'ꟳ', 'ꟴ', 'ꭩ'];

    #[test]
    fn every_character_is_what_python_says() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/str_methods.json");
        let recorded: BTreeMap<String, Vec<u32>> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let methods: [(&str, &dyn Fn(char) -> bool); 12] = [
            ("isalpha", &alpha),
            ("isdecimal", &decimal),
            ("isdigit", &digit),
            ("isnumeric", &numeric),
            ("isalnum", &alphanumeric),
            ("isspace", &space),
            ("islower", &|c| strings::cased(&c.to_string(), char::is_lowercase, char::is_uppercase)),
            ("isupper", &|c| strings::cased(&c.to_string(), char::is_uppercase, char::is_lowercase)),
            ("istitle", &|c| strings::titled(&c.to_string())),
            ("isidentifier", &begins),
            ("continues", &continues),
            ("isprintable", &python::printable),
        ];
        assert_eq!(recorded.len(), methods.len() + 1);
        assert_eq!(['7', '٧', '７', '𝟟', '²', 'x'].map(value), [Some(7), Some(7), Some(7), Some(7), None, None]);
        assert_eq!((strings::parse_int("\u{1c}-٤２ ", 10), strings::parse_int("²", 10)), (Some(-42), None));
        for (name, method) in methods {
            // Characters that newer versions of Unicode have added are left to whoever knows them.
            let of_python = |c: &char| within(&recorded["assigned"], *c);
            let all = (0..0x11_0000).filter_map(char::from_u32).filter(of_python);
            let differ: Vec<char> = all.filter(|&c| method(c) != within(&recorded[name], c)).collect();
            let differ: Vec<char> = differ.into_iter().filter(|c| name != "islower" || !CHANGED.contains(c)).collect();
            assert!(differ.is_empty(), "{name}: {} differ: {:?}", differ.len(), &differ[..differ.len().min(20)]);
        }
    }
}
