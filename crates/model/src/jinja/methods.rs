//! The methods of Python's strings, lists and dicts.

use super::bind::{Call, Entry, run};
use super::filters::pairs;
use super::objects::View;
use super::python::{Outcome, charge, defined, fail, integer, items, kind, printable, string};
use super::tests::cased;
use minijinja::value::{Kwargs, Tuple, from_args};
use minijinja::{Error, State, Value};

const NONE: &[&str] = &[];
const RANGE: &[&str] = &["sub", "start", "end"];

const STRING: &[Entry] = &[
    ("upper", NONE, |c| change(c, str::to_uppercase)),
    ("lower", NONE, |c| change(c, str::to_lowercase)),
    ("title", NONE, |c| change(c, title)),
    ("capitalize", NONE, |c| change(c, capitalize)),
    ("swapcase", NONE, |c| change(c, swapcase)),
    ("casefold", NONE, |c| change(c, casefold)),
    ("strip", &["chars"], |c| stripped(c, true, true)),
    ("lstrip", &["chars"], |c| stripped(c, true, false)),
    ("rstrip", &["chars"], |c| stripped(c, false, true)),
    ("split", &["sep", "maxsplit"], |c| split(c, false)),
    ("rsplit", &["sep", "maxsplit"], |c| split(c, true)),
    ("splitlines", &["keepends"], |c| Ok(list(lines(own(c), c.flag(0, false))))),
    ("partition", &["sep"], |c| {
        let (text, sep) = (own(c), nonempty(c.need(0)?)?);
        Ok(three(text.split_once(sep).map_or([text, "", ""], |(a, b)| [a, sep, b])))
    }),
    ("rpartition", &["sep"], |c| {
        let (text, sep) = (own(c), nonempty(c.need(0)?)?);
        Ok(three(text.rsplit_once(sep).map_or(["", "", text], |(a, b)| [a, sep, b])))
    }),
    ("replace", &["old", "new", "count"], |c| {
        let count = c.get(2).map_or(Ok(-1), integer)?;
        let (old, new) = (string(c.need(0)?)?.to_owned(), string(c.need(1)?)?.to_owned());
        let text = own(c).to_owned();
        replace(c.state, &text, &old, &new, count)
    }),
    ("startswith", RANGE, |c| affix(c, |text, part| text.starts_with(part))),
    ("endswith", RANGE, |c| affix(c, |text, part| text.ends_with(part))),
    ("find", RANGE, |c| Ok(Value::from(find(c, false)?.map_or(-1, |at| at as i64)))),
    ("rfind", RANGE, |c| Ok(Value::from(find(c, true)?.map_or(-1, |at| at as i64)))),
    ("index", RANGE, |c| find(c, false)?.map_or_else(|| fail("index: not found"), |at| Ok(Value::from(at)))),
    ("rindex", RANGE, |c| find(c, true)?.map_or_else(|| fail("rindex: not found"), |at| Ok(Value::from(at)))),
    ("count", RANGE, |c| {
        let (window, _) = window(c)?;
        let part = string(c.need(0)?)?;
        Ok(Value::from(if part.is_empty() { window.chars().count() + 1 } else { window.matches(part).count() }))
    }),
    ("isalpha", NONE, |c| all(c, char::is_alphabetic)),
    ("isdigit", NONE, |c| all(c, is_digit)),
    ("isdecimal", NONE, |c| all(c, is_digit)),
    ("isnumeric", NONE, |c| all(c, char::is_numeric)),
    ("isalnum", NONE, |c| all(c, char::is_alphanumeric)),
    ("isspace", NONE, |c| all(c, char::is_whitespace)),
    ("isascii", NONE, |c| Ok(Value::from(own(c).is_ascii()))),
    ("isprintable", NONE, |c| Ok(Value::from(own(c).chars().all(printable)))),
    ("islower", NONE, |c| Ok(Value::from(cased(own(c), char::is_lowercase, char::is_uppercase)))),
    ("isupper", NONE, |c| Ok(Value::from(cased(own(c), char::is_uppercase, char::is_lowercase)))),
    ("istitle", NONE, |c| Ok(Value::from(own(c).chars().any(char::is_alphabetic) && title(own(c)) == own(c)))),
    ("isidentifier", NONE, |c| {
        let text = own(c);
        let first = text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
        Ok(Value::from(first && text.chars().all(|c| c.is_alphanumeric() || c == '_')))
    }),
    ("join", &["iterable"], |c| {
        let (separator, mut out) = (own(c), String::new());
        for (i, part) in items(defined(c.need(0)?)?)?.iter().enumerate() {
            charge(c.state, separator.len() + string(part)?.len())?;
            out.push_str(if i > 0 { separator } else { "" });
            out.push_str(string(part)?);
        }
        Ok(Value::from(out))
    }),
    ("zfill", &["width"], |c| {
        let (sign, digits) = if own(c).starts_with(['+', '-']) { own(c).split_at(1) } else { ("", own(c)) };
        let width = width(c)? - sign.len() as i64;
        Ok(Value::from([sign, &just(digits, width, '0', true)].concat()))
    }),
    ("center", &["width", "fillchar"], |c| Ok(Value::from(center(own(c), width(c)?, fill(c)?)))),
    ("ljust", &["width", "fillchar"], |c| Ok(Value::from(just(own(c), width(c)?, fill(c)?, false)))),
    ("rjust", &["width", "fillchar"], |c| Ok(Value::from(just(own(c), width(c)?, fill(c)?, true)))),
    ("removeprefix", &["prefix"], |c| {
        let text = own(c);
        Ok(Value::from(text.strip_prefix(string(c.need(0)?)?).unwrap_or(text)))
    }),
    ("removesuffix", &["suffix"], |c| {
        let text = own(c);
        Ok(Value::from(text.strip_suffix(string(c.need(0)?)?).unwrap_or(text)))
    }),
    ("expandtabs", &["tabsize"], expandtabs),
];

const DICT: &[Entry] = &[
    ("keys", NONE, |c| Ok(Value::from_object(View { kind: "dict_keys", items: items(c.value)? }))),
    ("values", NONE, |c| {
        let values = items(c.value)?.iter().map(|key| c.value.get_item(key)).collect::<Outcome<_>>()?;
        Ok(Value::from_object(View { kind: "dict_values", items: values }))
    }),
    ("items", NONE, |c| Ok(Value::from_object(View { kind: "dict_items", items: pairs(c.value)? }))),
    ("get", &["key", "default"], |c| {
        if c.get(1).is_some() && c.get(0).is_none() {
            return fail("get: a key is expected");
        }
        let found = c.value.get_item(c.need(0)?)?;
        Ok(if found.is_undefined() { c.get(1).cloned().unwrap_or(Value::from(())) } else { found })
    }),
    ("copy", NONE, |c| Ok(c.value.clone())),
];

const LIST: &[Entry] = &[
    ("count", &["value"], |c| {
        let wanted = c.need(0)?;
        Ok(Value::from(items(c.value)?.iter().filter(|item| *item == wanted).count()))
    }),
    ("index", &["value"], |c| {
        let wanted = c.need(0)?;
        let at = items(c.value)?.iter().position(|item| item == wanted);
        at.map_or_else(|| fail("index: not in the list"), |at| Ok(Value::from(at)))
    }),
    ("copy", NONE, |c| Ok(c.value.clone())),
];

/// Methods that the sandbox keeps from changing what they are called on, and those that make no text.
const REFUSED: [&str; 17] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "fromkeys",
    "encode",
    "translate",
    "maketrans",
    "format_map",
    "format",
];

/// Methods whose arguments may be given by name.
const KEYWORDS: [&str; 6] = ["split", "rsplit", "splitlines", "expandtabs", "replace", "format"];

/// Whether a string, list or dict has a method of this name.
pub(super) fn is_name(name: &str) -> bool {
    [STRING, DICT, LIST].into_iter().flatten().any(|entry| entry.0 == name) || REFUSED.contains(&name)
}

/// Whether `value` has the method `name`.
pub(super) fn has(value: &Value, name: &str) -> bool {
    let more: &[&str] = match kind(value) {
        "str" => &["encode", "translate", "maketrans", "format_map", "format"],
        "dict" => &["clear", "pop", "popitem", "setdefault", "update", "fromkeys"],
        "list" => &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
        _ => &[],
    };
    table(value).iter().any(|entry| entry.0 == name) || more.contains(&name)
}

fn table(value: &Value) -> &'static [Entry] {
    match kind(value) {
        "str" => STRING,
        "dict" => DICT,
        "list" => LIST,
        "tuple" => &LIST[..2],
        _ => &[],
    }
}

/// `value.name(args)`.
pub(super) fn call(state: &mut State, value: &Value, name: &str, args: &[Value], named: &Kwargs) -> Outcome<Value> {
    if let Some(entry) = table(defined(value)?).iter().find(|entry| entry.0 == name) {
        if named.args().next().is_some() && !KEYWORDS.contains(&name) {
            return fail(format!("{name}: takes no keyword arguments"));
        }
        return run(state, value, entry, args, named);
    }
    let keywords = named.args().next().is_some().then(|| Value::from(named.clone()));
    let args: Vec<Value> = args.iter().cloned().chain(keywords).collect();
    match kind(value) {
        // The library's own, which charges for what it makes.
        "str" if name == "format" => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, &args),
        "str" | "dict" | "list" | "tuple" if has(value, name) => {
            fail(format!("{}.{name}: not available in a template", kind(value)))
        }
        "namespace" | "object" => value.call_method(state, name, &args),
        "dict" => value.get_item(&Value::from(name))?.call(state, &args),
        other => fail(format!("{other} has no method {name}")),
    }
}

/// Methods that reach minijinja itself.
pub(super) fn unknown(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (args, named): (&[Value], Kwargs) = from_args(args)?;
    call(state, value, name, args, &named)
}

fn own<'a>(call: &Call<'a, '_, '_>) -> &'a str {
    call.value.as_str().unwrap_or_default()
}

#[allow(clippy::unnecessary_wraps, reason = "the form of the table's functions")]
fn change(call: &mut Call, to: impl Fn(&str) -> String) -> Outcome<Value> {
    Ok(Value::from(to(own(call))))
}

#[allow(clippy::unnecessary_wraps, reason = "the form of the table's functions")]
fn all(call: &mut Call, is: impl Fn(char) -> bool) -> Outcome<Value> {
    let text = own(call);
    Ok(Value::from(!text.is_empty() && text.chars().all(is)))
}

fn list(parts: Vec<&str>) -> Value {
    Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
}

fn three(parts: [&str; 3]) -> Value {
    Value::from(Tuple::new(parts.into_iter().map(Value::from).collect()))
}

fn nonempty(value: &Value) -> Outcome<&str> {
    match string(value)? {
        "" => fail("the separator is empty"),
        text => Ok(text),
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (c.is_numeric() && !c.is_ascii() && unicode_decimal(c))
}

/// Digits of other scripts stand in runs of ten that start at a multiple of 16 or 6 above one; what `char::is_numeric` holds
/// besides (fractions, Roman numerals) is no digit.
fn unicode_decimal(c: char) -> bool {
    let code = u32::from(c);
    matches!(code, 0x660..=0x669 | 0x6f0..=0x6f9 | 0x7c0..=0x7c9 | 0x966..=0x96f | 0x9e6..=0x9ef | 0xe50..=0xe59 | 0xff10..=0xff19)
}

/// A letter that is upper and lower case at once.
pub(super) fn is_title(c: char) -> bool {
    matches!(u32::from(c), 0x1c5 | 0x1c8 | 0x1cb | 0x1f2)
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

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        let cased = c.is_lowercase() || c.is_uppercase() || is_title(c);
        if inside {
            out.extend(c.to_lowercase());
        } else {
            title_case(c, &mut out);
        }
        inside = cased;
    }
    out
}

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = String::with_capacity(text.len());
    if let Some(first) = chars.next() {
        title_case(first, &mut out);
    }
    out + &chars.as_str().to_lowercase()
}

fn swapcase(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
    }
    out
}

fn casefold(text: &str) -> String {
    text.to_lowercase().replace('ß', "ss").replace('ς', "σ")
}

/// Python's `strip`: of white space, or of the characters in `chars`.
pub(super) fn strip(text: &str, chars: Option<&str>, left: bool, right: bool) -> String {
    let gone = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(gone) } else { text };
    if right { text.trim_end_matches(gone) } else { text }.to_owned()
}

/// White space as `str.strip` has it: Unicode's, and four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn stripped(call: &mut Call, left: bool, right: bool) -> Outcome<Value> {
    let chars = call.some(0).map(string).transpose()?;
    Ok(Value::from(strip(own(call), chars, left, right)))
}

fn split(call: &mut Call, from_right: bool) -> Outcome<Value> {
    let text = own(call);
    let most = call.get(1).map_or(Ok(-1), integer)?;
    let most = if most < 0 { usize::MAX } else { most as usize };
    charge(call.state, 8 * text.len())?;
    let Some(separator) = call.some(0) else { return Ok(list(split_space(text, most, from_right))) };
    let separator = nonempty(separator)?;
    let limit = most.saturating_add(1);
    let mut parts: Vec<&str> =
        if from_right { text.rsplitn(limit, separator).collect() } else { text.splitn(limit, separator).collect() };
    if from_right {
        parts.reverse();
    }
    Ok(list(parts))
}

/// Words, at most `most` splits; the rest keeps its inner white space.
fn split_space(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        if out.len() == most {
            // Python keeps the white space at the far end of the last part.
            out.push(rest);
            break;
        }
        let (word, after) = if from_right {
            let at = rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
            (&rest[at..], &rest[..at])
        } else {
            rest.split_at(rest.find(is_space).unwrap_or(rest.len()))
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

/// `text.replace(old, new, count)`, paid for before it is made.
pub(super) fn replace(state: &State, text: &str, old: &str, new: &str, count: i64) -> Outcome<Value> {
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let times = if count < 0 { places } else { places.min(count as usize) };
    charge(state, text.len() + times.saturating_mul(new.len()))?;
    Ok(Value::from(text.replacen(old, new, times)))
}

/// The part of the text between `start` and `end`, and where it starts, in characters. None if the start is beyond the end.
fn window<'a>(call: &Call<'a, '_, '_>) -> Outcome<(&'a str, Option<usize>)> {
    let text = own(call);
    let len = text.chars().count() as i64;
    let bound = |at: Option<&Value>, default: i64| -> Outcome<i64> {
        let at = at.map_or(Ok(default), integer)?;
        Ok(if at < 0 { (at + len).max(0) } else { at })
    };
    let (start, end) = (bound(call.some(1), 0)?, bound(call.some(2), len)?.min(len));
    if start > end {
        return Ok(("", None));
    }
    let byte = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(at, _)| at);
    Ok((&text[byte(start)..byte(end)], Some(start as usize)))
}

fn find(call: &Call, last: bool) -> Outcome<Option<usize>> {
    let part = string(call.need(0)?)?;
    let (window, start) = window(call)?;
    let Some(start) = start else { return Ok(None) };
    let at = if last { window.rfind(part) } else { window.find(part) };
    Ok(at.map(|at| start + window[..at].chars().count()))
}

fn affix(call: &mut Call, is: impl Fn(&str, &str) -> bool) -> Outcome<Value> {
    let part = call.need(0)?;
    let parts = if kind(part) == "tuple" { items(part)? } else { vec![part.clone()] };
    let (window, start) = window(call)?;
    let mut found = false;
    for part in &parts {
        found |= start.is_some() && is(window, string(part)?);
    }
    Ok(Value::from(found))
}

fn width(call: &Call) -> Outcome<i64> {
    let width = integer(call.need(0)?)?;
    charge(call.state, width.max(0) as usize)?;
    Ok(width)
}

fn fill(call: &Call) -> Outcome<char> {
    let mut fill = call.get(1).map_or(Ok(" "), string)?.chars();
    match (fill.next(), fill.next()) {
        (Some(c), None) => Ok(c),
        _ => fail("the fill character is not one character"),
    }
}

fn missing(text: &str, width: i64) -> usize {
    (width - text.chars().count() as i64).max(0) as usize
}

fn just(text: &str, width: i64, fill: char, right: bool) -> String {
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

fn expandtabs(call: &mut Call) -> Outcome<Value> {
    let size = call.get(0).map_or(Ok(8), integer)?.max(0) as usize;
    let text = own(call);
    charge(call.state, text.len() + size.saturating_mul(text.matches('\t').count()))?;
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let pad = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', pad));
                column += pad;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            _ => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(Value::from(out))
}

/// Python's `int(text, base)`.
pub(super) fn parse_int(text: &str, base: i64) -> Option<i128> {
    let text = text.trim();
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
    let text = text.trim();
    without_underscores(text)?.parse().ok()
}

/// Single underscores between digits group them.
fn without_underscores(text: &str) -> Option<String> {
    let bad = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!bad).then(|| text.replace('_', ""))
}
