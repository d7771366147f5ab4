//! Python's functions of text: case, white space, lines, padding, numbers in text. In: a text; out: what Python's
//! `str`, `int` or `float` makes of it. Invariant: these know texts only, not the values of a template, so methods,
//! filters and tests can share them.

use super::characters;
use super::python::{Outcome, charge};
use minijinja::State;

/// Whether a text has letters of the case that `wanted` tells, and none of the other case.
pub(super) fn cased(text: &str, wanted: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    text.chars().any(wanted) && !text.chars().any(|c| other(c) || characters::title(c))
}

/// `str.istitle`: letters of upper or title case begin words only, those of lower case continue them only, and there
/// are some.
pub(super) fn titled(text: &str) -> bool {
    let (mut any, mut inside) = (false, false);
    for c in text.chars() {
        let (begins, continues) = (c.is_uppercase() || characters::title(c), c.is_lowercase());
        if (begins && inside) || (continues && !inside) {
            return false;
        }
        inside = begins || continues;
        any |= inside;
    }
    any
}

/// The title case of a letter: upper case, but for the digraphs that have a form of their own.
fn title_case(c: char, out: &mut String) {
    let special = match u32::from(c) {
        0x1c4..=0x1c6 => Some('\u{1c5}'),
        0x1c7..=0x1c9 => Some('\u{1c8}'),
        0x1ca..=0x1cc => Some('\u{1cb}'),
        0x1f1..=0x1f3 => Some('\u{1f2}'),
        0xdf => {
            out.push_str("Ss");
            return;
        }
        _ => None,
    };
    match special {
        Some(c) => out.push(c),
        None => out.extend(c.to_uppercase()),
    }
}

/// Python's `str.title`.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        let cased = c.is_lowercase() || c.is_uppercase() || characters::title(c);
        if inside {
            out.extend(c.to_lowercase());
        } else {
            title_case(c, &mut out);
        }
        inside = cased;
    }
    out
}

/// Python's `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = String::with_capacity(text.len());
    if let Some(first) = chars.next() {
        title_case(first, &mut out);
    }
    out + &chars.as_str().to_lowercase()
}

/// Python's `str.swapcase`.
pub(super) fn swapcase(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
    }
    out
}

/// Python's `str.casefold`, for the letters that differ from lower case most often.
pub(super) fn casefold(text: &str) -> String {
    text.to_lowercase().replace('ß', "ss").replace('ς', "σ")
}

/// Python's `strip`: of white space, or of the characters in `chars`.
pub(super) fn strip(text: &str, chars: Option<&str>, left: bool, right: bool) -> String {
    let gone = |c: char| chars.map_or_else(|| characters::space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(gone) } else { text };
    if right { text.trim_end_matches(gone) } else { text }.to_owned()
}

/// Python's `split` and `rsplit` at white space: at most `most` splits; what is left is one part, with its inner white
/// space.
pub(super) fn split_space(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right {
            rest.trim_end_matches(characters::space)
        } else {
            rest.trim_start_matches(characters::space)
        };
        if rest.is_empty() {
            break;
        }
        if out.len() == most {
            // Python keeps the white space at the far end of the last part.
            out.push(rest);
            break;
        }
        let (word, after) = if from_right {
            let at =
                rest.char_indices().rev().find(|(_, c)| characters::space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
            (&rest[at..], &rest[..at])
        } else {
            rest.split_at(rest.find(characters::space).unwrap_or(rest.len()))
        };
        out.push(word);
        rest = after;
    }
    if from_right {
        out.reverse();
    }
    out
}

/// Python's `splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    let ends = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    while let Some(at) = rest.find(ends) {
        let width =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        out.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// `text.replace(old, new, count)`; its size is counted before it is made.
pub(super) fn replace(state: &State, text: &str, old: &str, new: &str, count: i64) -> Outcome<String> {
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let times = if count < 0 { places } else { places.min(count as usize) };
    charge(state, text.len() + times.saturating_mul(new.len()))?;
    Ok(text.replacen(old, new, times))
}

/// Characters that a text lacks to be `width` wide.
fn missing(text: &str, width: i64) -> usize {
    (width - text.chars().count() as i64).max(0) as usize
}

/// Python's `ljust`, or `rjust` where `right` is set.
pub(super) fn just(text: &str, width: i64, fill: char, right: bool) -> String {
    let pad: String = std::iter::repeat_n(fill, missing(text, width)).collect();
    if right { pad + text } else { [text, &pad].concat() }
}

/// Python's `center`: where the space is odd, the wider side depends on the width.
pub(super) fn center(text: &str, width: i64, fill: char) -> String {
    let pad = missing(text, width);
    let left = pad / 2 + (pad & width.max(0) as usize & 1);
    let side = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    [side(left), text.to_owned(), side(pad - left)].concat()
}

/// Python's `int(text, base)`.
pub(super) fn parse_int(text: &str, base: i64) -> Option<i128> {
    let text = &*latin(text);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match (base, prefix.as_deref()) {
        (16 | 0, Some("0x")) => (16, &digits[2..]),
        (8 | 0, Some("0o")) => (8, &digits[2..]),
        (2 | 0, Some("0b")) => (2, &digits[2..]),
        (0, _) if digits.len() > 1 && digits.starts_with('0') && !digits.trim_matches(['0', '_']).is_empty() => {
            return None;
        }
        (0, _) => (10, digits),
        (2..=36, _) => (base as u32, digits),
        _ => return None,
    };
    let value =
        i128::from_str_radix(&without_underscores(digits)?, radix).ok().filter(|_| !digits.starts_with(['+', '-']))?;
    Some(if negative { -value } else { value })
}

/// Python's `float(text)`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    without_underscores(&latin(text))?.parse().ok()
}

/// A number without the white space around it, and with the decimal digits of every script as those of ASCII.
fn latin(text: &str) -> String {
    let digit = |c: char| characters::value(c).and_then(|value| char::from_digit(value, 10)).unwrap_or(c);
    text.trim_matches(characters::space).chars().map(digit).collect()
}

/// Single underscores between digits group them.
fn without_underscores(text: &str) -> Option<String> {
    let bad = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!bad).then(|| text.replace('_', ""))
}
