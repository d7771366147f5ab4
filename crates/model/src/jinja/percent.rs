//! `'%s' % value`. In: a format and its arguments; out: what Python's operator gives. minijinja's `format` filter
//! writes the numbers; the texts of values, and how many arguments there must be, are decided here.

use super::python::{Number, Outcome, fail, items, kind, number, printable, push_escape, repr, text};
use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{State, Value};

/// `format % value`.
pub(super) fn format(state: &mut State, format: &str, value: &Value) -> Outcome<Value> {
    let mut args = if kind(value) == "tuple" { items(value)? } else { vec![value.clone()] }.into_iter();
    let mapping = (kind(value) == "dict").then_some(value);
    let mut out = String::with_capacity(format.len());
    let mut given: Vec<Value> = Vec::new();
    let mut rest = format;
    let mut used = false;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let Some((key, after)) = inner.split_once(')') else { return fail("%: a key has no end") };
            let Some(mapping) = mapping else { return fail("%: a dict is expected") };
            let found = mapping.get_item(&Value::from(key))?;
            if found.is_undefined() {
                return fail(format!("%: there is no key {key:?}"));
            }
            (named, rest, used) = (Some(found), after, true);
        }
        let modifiers = rest.find(|c: char| !"-+ #0123456789.*hlL".contains(c)).unwrap_or(rest.len());
        for star in rest[..modifiers].chars().filter(|&c| c == '*') {
            let _ = star;
            given.push(args.next().map_or_else(|| fail("%: too few arguments"), Ok)?);
        }
        out.push_str(&rest[..modifiers]);
        let mut tail = rest[modifiers..].chars();
        let Some(conversion) = tail.next() else { return fail("%: the format is not complete") };
        rest = tail.as_str();
        if conversion == '%' {
            out.push('%');
            continue;
        }
        let argument = match named {
            Some(value) => value,
            None => args.next().map_or_else(|| fail("%: too few arguments"), Ok)?,
        };
        let (conversion, argument) = match conversion {
            's' => ('s', Value::from(text(&argument)?)),
            'r' => ('s', Value::from(repr(&argument)?)),
            'a' => ('s', Value::from(ascii(&repr(&argument)?))),
            'd' | 'i' | 'u' => match number(&argument)? {
                Number::Float(x) if !x.is_finite() => return fail("%d: not a finite number"),
                Number::Float(x) => ('d', Number::Int(x as i128).value()),
                whole @ Number::Int(_) => ('d', whole.value()),
            },
            other => (other, argument),
        };
        out.push(conversion);
        given.push(argument);
    }
    out.push_str(rest);
    if args.len() > 0 && !used && mapping.is_none() && !matches!(kind(value), "list" | "undefined") {
        return fail("%: not all arguments are used");
    }
    let given: Vec<ValueOrKwargs> = given.into_iter().map(ValueOrKwargs::from).collect();
    minijinja::filters::format(state, &Value::from(out), Rest(given))
}

/// Python's `ascii` of what `repr` gave.
fn ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() && (printable(c) || c == '\n') { out.push(c) } else { push_escape(&mut out, c) }
    }
    out
}
