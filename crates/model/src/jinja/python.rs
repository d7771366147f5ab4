//! Values as Python sees them: types, truth, `str`, `repr`, numbers, order. Invariant: what has no counterpart here is
//! an error, not another text.

use super::objects::{Generator, Group, Range, View};
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::cmp::Ordering;
use std::fmt::Write;

/// Levels that `str`, comparisons and JSON follow.
pub(super) const MAX_DEPTH: usize = 100;

pub(super) type Outcome<T> = Result<T, Error>;

/// The error of a type or value that Python would not take.
pub(super) fn fail<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Error::new(ErrorKind::InvalidOperation, what.into()))
}

/// The name of a value's type.
pub(super) fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "undefined",
        ValueKind::None => "None",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Map => match value.as_object().map(minijinja::value::DynObject::type_name) {
            Some(name) if name.contains("namespace_object") => "namespace",
            // The library's loop, macro and module.
            Some(name) if name.contains("minijinja::vm::") => "object",
            _ => "dict",
        },
        _ if value.is_tuple() || value.downcast_object_ref::<Group>().is_some() => "tuple",
        _ if value.downcast_object_ref::<Range>().is_some() => "range",
        _ if value.downcast_object_ref::<View>().is_some() => "view",
        _ if value.downcast_object_ref::<Generator>().is_some() => "generator",
        ValueKind::Seq => "list",
        ValueKind::Iterable => "iterator",
        _ => "object",
    }
}

/// An error if the value is undefined: Jinja2 lets it be printed and tested, nothing else.
pub(super) fn defined(value: &Value) -> Outcome<&Value> {
    if value.is_undefined() { fail("a value is undefined") } else { Ok(value) }
}

/// The text that `{{ value }}` writes: nothing for an undefined one.
pub(super) fn text(value: &Value) -> Outcome<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => repr(value),
    }
}

/// Python's `repr`.
pub(super) fn repr(value: &Value) -> Outcome<String> {
    let mut out = String::new();
    push_repr(&mut out, value, 0)?;
    Ok(out)
}

fn push_repr(out: &mut String, value: &Value, depth: usize) -> Outcome<()> {
    if depth > MAX_DEPTH {
        return fail("a value is nested too deeply to be written");
    }
    match kind(value) {
        "undefined" => out.push_str("Undefined"),
        "None" => out.push_str("None"),
        "bool" => out.push_str(if value.is_true() { "True" } else { "False" }),
        "int" => out.push_str(&value.to_string()),
        "float" => out.push_str(&float(number(value)?.real())),
        "str" => push_quoted(out, value.as_str().unwrap_or_default()),
        "list" => {
            out.push('[');
            push_items(out, value, depth)?;
            out.push(']');
        }
        "tuple" => {
            out.push('(');
            if push_items(out, value, depth)? == 1 {
                out.push(',');
            }
            out.push(')');
        }
        "dict" => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                push_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                push_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        "range" => {
            let _ = write!(out, "{value}");
        }
        "view" => {
            let view = value.downcast_object_ref::<View>();
            out.push_str(view.map_or("", |v| v.kind));
            out.push_str("([");
            push_items(out, value, depth)?;
            out.push_str("])");
        }
        other => return fail(format!("a value of type {other} has no text of its own")),
    }
    Ok(())
}

fn push_items(out: &mut String, value: &Value, depth: usize) -> Outcome<usize> {
    let mut count = 0;
    for item in value.try_iter()? {
        out.push_str(if count > 0 { ", " } else { "" });
        push_repr(out, &item, depth + 1)?;
        count += 1;
    }
    Ok(count)
}

fn push_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if c == quote => out.extend(['\\', c]),
            _ if printable(c) => out.push(c),
            _ => push_escape(out, c),
        }
    }
    out.push(quote);
}

/// `\x7f`, `\u200b` or `\U0001f642`.
pub(super) fn push_escape(out: &mut String, c: char) {
    let code = u32::from(c);
    let _ = match code {
        0..0x100 => write!(out, "\\x{code:02x}"),
        0x100..0x1_0000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// Python's `str.isprintable` of one character.
pub(super) fn printable(c: char) -> bool {
    // Rust escapes what Unicode calls unprintable; combining marks only at the start, and some ASCII for its own
    // reasons.
    matches!(c, '\'' | '"' | '\\') || !['a', c].iter().collect::<String>().escape_debug().to_string().contains('\\')
}

/// Python's `float.__repr__`.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = x.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// A number; a bool is one too, as in Python.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub(super) fn real(self) -> f64 {
        match self {
            Self::Int(n) => n as f64,
            Self::Float(x) => x,
        }
    }

    pub(super) fn value(self) -> Value {
        match self {
            Self::Int(n) => i64::try_from(n).map_or_else(|_| Value::from(n), Value::from),
            Self::Float(x) => Value::from(x),
        }
    }
}

/// The number that a value is.
pub(super) fn number(value: &Value) -> Outcome<Number> {
    let found = match kind(value) {
        "bool" => Some(Number::Int(i128::from(value.is_true()))),
        "int" => i128::try_from(value.clone()).ok().map(Number::Int),
        "float" => f64::try_from(value.clone()).ok().map(Number::Float),
        "undefined" => return fail("a value is undefined"),
        _ => None,
    };
    found.map_or_else(|| fail(format!("a number is expected, not {}", kind(value))), Ok)
}

/// An integer that fits an index.
pub(super) fn integer(value: &Value) -> Outcome<i64> {
    match number(value)? {
        Number::Int(n) => i64::try_from(n).or_else(|_| fail("a number is too large")),
        Number::Float(_) => fail("an integer is expected, not float"),
    }
}

/// Python's order: between numbers, strings, lists, or tuples; None for a NaN.
pub(super) fn order(a: &Value, b: &Value, depth: usize) -> Outcome<Option<Ordering>> {
    if depth > MAX_DEPTH {
        return fail("values are nested too deeply to be compared");
    }
    match (kind(a), kind(b)) {
        ("undefined", _) | (_, "undefined") => fail("a value is undefined"),
        ("str", "str") => Ok(Some(a.as_str().cmp(&b.as_str()))),
        ("list", "list") | ("tuple", "tuple") => {
            let (mut left, mut right) = (a.try_iter()?, b.try_iter()?);
            loop {
                match (left.next(), right.next()) {
                    (Some(x), Some(y)) if x == y => {}
                    (Some(x), Some(y)) => return order(&x, &y, depth + 1),
                    (x, y) => return Ok(Some(x.is_some().cmp(&y.is_some()))),
                }
            }
        }
        ("bool" | "int" | "float", "bool" | "int" | "float") => Ok(match (number(a)?, number(b)?) {
            (Number::Int(x), Number::Int(y)) => Some(x.cmp(&y)),
            (x, y) => x.real().partial_cmp(&y.real()),
        }),
        (x, y) => fail(format!("{x} and {y} have no order")),
    }
}

/// The items that a `for` goes through; of a generator, those that are left.
pub(super) fn items(value: &Value) -> Outcome<Vec<Value>> {
    match kind(value) {
        "undefined" => Ok(Vec::new()),
        "str" => Ok(value.as_str().unwrap_or_default().chars().map(|c| Value::from(c.to_string())).collect()),
        "list" | "tuple" | "dict" | "range" | "view" | "generator" | "iterator" => Ok(value.try_iter()?.collect()),
        other => fail(format!("{other} cannot be iterated")),
    }
}

/// Key and value of each entry of a dict, as tuples.
pub(super) fn pairs(dict: &Value) -> Outcome<Vec<Value>> {
    let pair = |key: Value| Ok(Value::from(Tuple::from([key.clone(), dict.get_item(&key)?])));
    items(dict)?.into_iter().map(pair).collect()
}

/// Whether a `for` can go through the value.
pub(super) fn iterable(value: &Value) -> bool {
    matches!(kind(value), "undefined" | "str" | "list" | "tuple" | "dict" | "range" | "view" | "generator" | "iterator")
}

/// A text argument.
pub(super) fn string(value: &Value) -> Outcome<&str> {
    value.as_str().map_or_else(|| fail(format!("a string is expected, not {}", kind(value))), Ok)
}

/// Counts `bytes` of output against the fuel before they are made.
pub(super) fn charge(state: &minijinja::State, bytes: usize) -> Outcome<()> {
    state.consume_fuel(1 + (bytes / 64) as u64)
}
