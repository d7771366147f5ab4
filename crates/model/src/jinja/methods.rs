//! The methods of Python's strings, lists and dicts. In: a value, a method's name, arguments; out: what Python gives,
//! or the method as a value. Invariant: no method changes the value it is called on.

use super::bind::{Call, Entry, run};
use super::characters;
use super::objects::View;
use super::python::{Outcome, charge, defined, fail, integer, items, kind, pairs, printable, string};
use super::strings::{
    capitalize, cased, casefold, center, just, lines, replace, split_space, strip, swapcase, title, titled,
};
use minijinja::value::{Kwargs, Object, ObjectRepr, Tuple, from_args};
use minijinja::{Error, State, Value};
use std::sync::Arc;

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
        replace(c.state, &text, &old, &new, count).map(Value::from)
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
    ("isalpha", NONE, |c| all(c, characters::alpha)),
    ("isdigit", NONE, |c| all(c, characters::digit)),
    ("isdecimal", NONE, |c| all(c, characters::decimal)),
    ("isnumeric", NONE, |c| all(c, characters::numeric)),
    ("isalnum", NONE, |c| all(c, characters::alphanumeric)),
    ("isspace", NONE, |c| all(c, characters::space)),
    ("isascii", NONE, |c| Ok(Value::from(own(c).is_ascii()))),
    ("isprintable", NONE, |c| Ok(Value::from(own(c).chars().all(printable)))),
    ("islower", NONE, |c| Ok(Value::from(cased(own(c), char::is_lowercase, char::is_uppercase)))),
    ("isupper", NONE, |c| Ok(Value::from(cased(own(c), char::is_uppercase, char::is_lowercase)))),
    ("istitle", NONE, |c| Ok(Value::from(titled(own(c))))),
    ("isidentifier", NONE, |c| {
        let text = own(c);
        Ok(Value::from(text.chars().next().is_some_and(characters::begins) && text.chars().all(characters::continues)))
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

/// Methods that are in no table: those that change the value they are called on, which Jinja2's sandbox forbids, those
/// that are not supported, and `format`, which minijinja's own library does.
const UNLISTED: [&str; 17] = [
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
    [STRING, DICT, LIST].into_iter().flatten().any(|entry| entry.0 == name) || UNLISTED.contains(&name)
}

/// Whether `value` has the method `name`.
fn has(value: &Value, name: &str) -> bool {
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
        // The library's own method, which counts what it makes.
        "str" if name == "format" => {
            charge(state, widths(value.as_str().unwrap_or_default()))?;
            minijinja_contrib::pycompat::unknown_method_callback(state, value, name, &args)
        }
        "str" | "dict" | "list" | "tuple" if has(value, name) => {
            fail(format!("{}.{name}: not available in a template", kind(value)))
        }
        "namespace" | "object" => value.call_method(state, name, &args),
        "dict" => value.get_item(&Value::from(name))?.call(state, &args),
        other => fail(format!("{other} has no method {name}")),
    }
}

/// A method of a string, list or dict that is not called yet.
#[derive(Debug)]
struct Method {
    receiver: Value,
    name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        unknown(state, &self.receiver, &self.name, args)
    }
}

/// `value.name` not called, if `value` has a method of that name.
pub(super) fn bound(value: &Value, name: &str) -> Option<Value> {
    has(value, name).then(|| Value::from_object(Method { receiver: value.clone(), name: name.to_owned() }))
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

/// The part of the text between `start` and `end`, and where it starts, in characters. None if the start is beyond the
/// end.
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

/// The sum of the numbers in a format: no width or precision in it is larger.
fn widths(format: &str) -> usize {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.fold(0, |sum: usize, digits| sum.saturating_add(digits.parse().unwrap_or(usize::MAX)))
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
