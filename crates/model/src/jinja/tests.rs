//! The tests of Jinja2 (`is defined`), with its answers for every kind of value.

use super::bind::{Call, Entry, run};
use super::operators::{compare, contains};
use super::python::{Number, Outcome, fail, integer, iterable, kind, number, text};
use super::strings::cased;
use super::{filters, select};
use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, State, Value};

const NONE: &[&str] = &[];
const ONE: &[&str] = &["other"];

const TESTS: &[Entry] = &[
    ("defined", NONE, |c| yes(!c.value.is_undefined())),
    ("undefined", NONE, |c| yes(c.value.is_undefined())),
    ("none", NONE, |c| yes(c.value.is_none())),
    ("boolean", NONE, |c| yes(kind(c.value) == "bool")),
    ("true", NONE, |c| yes(kind(c.value) == "bool" && c.value.is_true())),
    ("false", NONE, |c| yes(kind(c.value) == "bool" && !c.value.is_true())),
    ("integer", NONE, |c| yes(kind(c.value) == "int")),
    ("float", NONE, |c| yes(kind(c.value) == "float")),
    ("number", NONE, |c| yes(matches!(kind(c.value), "bool" | "int" | "float"))),
    ("string", NONE, |c| yes(kind(c.value) == "str")),
    ("mapping", NONE, |c| yes(kind(c.value) == "dict")),
    ("iterable", NONE, |c| yes(iterable(c.value))),
    ("sequence", NONE, |c| yes(matches!(kind(c.value), "undefined" | "str" | "list" | "tuple" | "dict" | "range"))),
    ("callable", NONE, |c| yes(matches!(kind(c.value), "object" | "undefined"))),
    ("escaped", NONE, |_| yes(false)),
    ("lower", NONE, |c| text(c.value).and_then(|t| yes(cased(&t, char::is_lowercase, char::is_uppercase)))),
    ("upper", NONE, |c| text(c.value).and_then(|t| yes(cased(&t, char::is_uppercase, char::is_lowercase)))),
    ("odd", NONE, |c| rest(c.value, 2).and_then(|r| yes(r == Some(1)))),
    ("even", NONE, |c| rest(c.value, 2).and_then(|r| yes(r == Some(0)))),
    ("divisibleby", &["num"], |c| {
        let by = integer(c.need(0)?)?;
        rest(c.value, by).and_then(|r| yes(r == Some(0)))
    }),
    ("eq", ONE, |c| operator(c, "==")),
    ("equalto", ONE, |c| operator(c, "==")),
    ("==", ONE, |c| operator(c, "==")),
    ("ne", ONE, |c| operator(c, "!=")),
    ("!=", ONE, |c| operator(c, "!=")),
    ("lt", ONE, |c| operator(c, "<")),
    ("lessthan", ONE, |c| operator(c, "<")),
    ("<", ONE, |c| operator(c, "<")),
    ("le", ONE, |c| operator(c, "<=")),
    ("<=", ONE, |c| operator(c, "<=")),
    ("gt", ONE, |c| operator(c, ">")),
    ("greaterthan", ONE, |c| operator(c, ">")),
    (">", ONE, |c| operator(c, ">")),
    ("ge", ONE, |c| operator(c, ">=")),
    (">=", ONE, |c| operator(c, ">=")),
    ("in", &["seq"], |c| contains(c.need(0)?, c.value).and_then(yes)),
    ("sameas", ONE, |c| {
        let other = c.need(0)?;
        // Identity is certain for the singletons only.
        let single = |v: &Value| matches!(kind(v), "None" | "bool");
        if single(c.value) || single(other) {
            yes(kind(c.value) == kind(other) && c.value == other)
        } else {
            same(c.value, other)
        }
    }),
    ("filter", NONE, |c| yes(hashable(c.value)?.as_str().is_some_and(is_filter))),
    ("test", NONE, |c| yes(hashable(c.value)?.as_str().is_some_and(known))),
];

pub(super) fn add(environment: &mut Environment<'static>) {
    for foreign in ["int", "safe", "startingwith", "endingwith"] {
        environment.remove_test(foreign);
    }
    for entry in TESTS {
        let test = move |state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs| {
            run(state, value, entry, &args.0, &named).map(|v| v.is_true())
        };
        environment.add_test(entry.0, test);
    }
}

/// Whether Jinja2 has the test.
pub(super) fn known(name: &str) -> bool {
    TESTS.iter().any(|entry| entry.0 == name)
}

/// Whether Jinja2 has the filter, supported here or not.
fn is_filter(name: &str) -> bool {
    filters::known(name) || select::known(name) || filters::REFUSED.contains(&name)
}

#[allow(clippy::unnecessary_wraps, reason = "the form of the table's functions")]
fn yes(answer: bool) -> Outcome<Value> {
    Ok(Value::from(answer))
}

fn hashable(value: &Value) -> Outcome<&Value> {
    if matches!(kind(value), "list" | "dict") { fail(format!("{} cannot be a key", kind(value))) } else { Ok(value) }
}

fn operator(call: &mut Call, op: &str) -> Outcome<Value> {
    compare(call.value, op, call.need(0)?).and_then(yes)
}

fn same(a: &Value, b: &Value) -> Outcome<Value> {
    // Small integers are one object in CPython; of other values two equal ones may or may not be.
    match (kind(a), kind(b)) {
        (x, y) if x != y => yes(false),
        ("int", _) => yes(a == b),
        _ if a != b => yes(false),
        _ => fail("sameas: whether these are the same object is not known"),
    }
}

/// The rest of a division, Python's; None where it is not whole.
fn rest(value: &Value, by: i64) -> Outcome<Option<i64>> {
    if by == 0 {
        return fail("modulo by zero");
    }
    Ok(match number(value)? {
        Number::Int(n) => Some(n.rem_euclid(i128::from(by.unsigned_abs())) as i64),
        Number::Float(x) => Some(x.rem_euclid(by.unsigned_abs() as f64)).filter(|r| r.fract() == 0.0).map(|r| r as i64),
    })
}
