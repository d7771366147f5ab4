//! Operators that differ from Python's in minijinja, as filters whose names no template can write: [`super::lower`]
//! puts them in.

use super::objects::Range;
use super::percent;
use super::python::{Number, Outcome, charge, defined, fail, integer, items, kind, number, order, string};
use super::{methods, python};
use minijinja::value::{Kwargs, Rest, Tuple};
use minijinja::{Environment, State, Value};
use std::cmp::Ordering;

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("__lt", |a: &Value, b: &Value| compare(a, "<", b));
    environment.add_filter("__le", |a: &Value, b: &Value| compare(a, "<=", b));
    environment.add_filter("__gt", |a: &Value, b: &Value| compare(a, ">", b));
    environment.add_filter("__ge", |a: &Value, b: &Value| compare(a, ">=", b));
    environment.add_filter("__in", |item: &Value, container: &Value| contains(container, item));
    environment.add_filter("__chain", chain);
    environment.add_filter("__percent", percent_or_rest);
    environment.add_filter("__add", add_values);
    environment.add_filter("__mul", multiply);
    environment.add_filter("__concat", concat);
    environment.add_filter("__neg", negate);
    environment.add_filter("__real", real);
    environment.add_filter("__slice", slice);
    environment.add_filter("__attr", |value: &Value, name: &str| item_or_method(value, name));
    environment.add_filter("__item", |value: &Value, key: &Value| item(value, key));
    environment.add_filter(
        "__call",
        |state: &mut State, value: &Value, name: &str, args: Rest<Value>, named: Kwargs| {
            methods::call(state, value, name, &args.0, &named)
        },
    );
    environment.add_filter("__iter", |state: &State, value: &Value| iterate(state, value));
    environment.add_filter("__given", |value: &Value, name: &str| -> Outcome<Value> {
        let hint = || format!("{name}: an undefined value is passed for a parameter that has a default");
        if value.is_undefined() { fail(hint()) } else { Ok(value.clone()) }
    });
}

/// `a op b`, one of the order and membership operators.
pub(super) fn compare(a: &Value, op: &str, b: &Value) -> Outcome<bool> {
    Ok(match op {
        "==" => a == b,
        "!=" => a != b,
        "in" => contains(b, a)?,
        "not in" => !contains(b, a)?,
        _ => {
            let found = order(a, b, 0)?;
            match op {
                "<" => found == Some(Ordering::Less),
                "<=" => matches!(found, Some(Ordering::Less | Ordering::Equal)),
                ">" => found == Some(Ordering::Greater),
                _ => matches!(found, Some(Ordering::Greater | Ordering::Equal)),
            }
        }
    })
}

/// `a < b < c`: operators and operands in turn.
#[allow(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
fn chain(first: &Value, rest: Rest<Value>) -> Outcome<bool> {
    let mut left = first.clone();
    for pair in rest.0.chunks_exact(2) {
        if !compare(&left, pair[0].as_str().unwrap_or_default(), &pair[1])? {
            return Ok(false);
        }
        left = pair[1].clone();
    }
    Ok(true)
}

/// `item in container`.
pub(super) fn contains(container: &Value, item: &Value) -> Outcome<bool> {
    match kind(container) {
        "str" => Ok(container.as_str().unwrap_or_default().contains(string(item)?)),
        "dict" if matches!(kind(item), "list" | "dict") => fail(format!("{} cannot be a key", kind(item))),
        _ => Ok(items(container)?.contains(item)),
    }
}

/// `%`: a text with places, or the rest of a division with the divisor's sign.
fn percent_or_rest(state: &mut State, a: &Value, b: &Value) -> Outcome<Value> {
    if let Some(format) = a.as_str() {
        return percent::format(state, format, b);
    }
    Ok(match (number(a)?, number(b)?) {
        (_, Number::Int(0) | Number::Float(0.0)) => return fail("modulo by zero"),
        (Number::Int(x), Number::Int(y)) => {
            let rest = x.checked_rem(y).unwrap_or(0);
            Number::Int(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }).value()
        }
        (x, y) => {
            let (x, y) = (x.real(), y.real());
            let rest = x % y;
            Value::from(if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest })
        }
    })
}

fn add_values(state: &State, a: &Value, b: &Value) -> Outcome<Value> {
    match (kind(a), kind(b)) {
        ("str", "str") => {
            let (left, right) = (string(a)?, string(b)?);
            charge(state, left.len() + right.len())?;
            Ok(Value::from([left, right].concat()))
        }
        (kind @ ("list" | "tuple"), other) if kind == other => {
            let all: Vec<Value> = items(a)?.into_iter().chain(items(b)?).collect();
            charge(state, 32 * all.len())?;
            Ok(sequence(kind, all))
        }
        (left @ ("str" | "list" | "tuple" | "dict" | "None"), right) => fail(format!("{left} and {right} have no sum")),
        _ => Ok(match (number(a)?, number(b)?) {
            (Number::Int(x), Number::Int(y)) => checked(x.checked_add(y))?,
            (x, y) => Value::from(x.real() + y.real()),
        }),
    }
}

fn multiply(state: &State, a: &Value, b: &Value) -> Outcome<Value> {
    match (kind(a), kind(b)) {
        ("int" | "bool", "str" | "list" | "tuple") => multiply(state, b, a),
        (kind @ ("str" | "list" | "tuple"), _) => {
            let times = integer(b)?.max(0) as usize;
            let size = if kind == "str" { string(a)?.len() } else { 32 * a.len().unwrap_or(0) };
            charge(state, size.saturating_mul(times))?;
            if kind == "str" {
                return Ok(Value::from(string(a)?.repeat(times)));
            }
            let one = items(a)?;
            Ok(sequence(kind, std::iter::repeat_n(one, times).flatten().collect()))
        }
        _ => Ok(match (number(a)?, number(b)?) {
            (Number::Int(x), Number::Int(y)) => checked(x.checked_mul(y))?,
            (x, y) => Value::from(x.real() * y.real()),
        }),
    }
}

fn sequence(kind: &str, items: Vec<Value>) -> Value {
    if kind == "tuple" { Value::from(Tuple::new(items)) } else { Value::from(items) }
}

fn checked(n: Option<i128>) -> Outcome<Value> {
    n.map_or_else(|| fail("a number is too large"), |n| Ok(Number::Int(n).value()))
}

fn concat(state: &State, a: &Value, b: &Value) -> Outcome<Value> {
    let (left, right) = (python::text(a)?, python::text(b)?);
    charge(state, left.len() + right.len())?;
    Ok(Value::from(left + &right))
}

fn negate(value: &Value) -> Outcome<Value> {
    Ok(match number(value)? {
        Number::Int(n) => checked(n.checked_neg())?,
        Number::Float(x) => Value::from(-x),
    })
}

/// The result of a power: Python's is complex where there is no real one.
fn real(value: &Value) -> Outcome<Value> {
    if matches!(number(value)?, Number::Float(x) if x.is_nan()) {
        fail("a power is no real number")
    } else {
        Ok(value.clone())
    }
}

/// `value[start:stop:step]`.
fn slice(state: &State, value: &Value, start: &Value, stop: &Value, step: &Value) -> Outcome<Value> {
    let bound = |v: &Value| if v.is_none() { Ok(None) } else { integer(v).map(Some) };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return fail("the step of a slice is 0");
    }
    let all = match kind(defined(value)?) {
        "range" => return range_slice(value, start, stop, step),
        "str" | "list" | "tuple" => items(value)?,
        other => return fail(format!("{other} cannot be sliced")),
    };
    let picked: Vec<Value> = indices(all.len(), start, stop, step).filter_map(|i| all.get(i).cloned()).collect();
    charge(state, 32 * picked.len())?;
    Ok(match kind(value) {
        "str" => Value::from(picked.iter().filter_map(Value::as_str).collect::<String>()),
        kind => sequence(kind, picked),
    })
}

/// Start, stop and step as Python clamps them.
fn clamp(len: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> (i64, i64) {
    let len = len as i64;
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |at: i64| if at < 0 { (at + len).max(low) } else { at.min(high) };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    (start.map_or(first, clamp), stop.map_or(last, clamp))
}

fn indices(len: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let (start, stop) = clamp(len, start, stop, step);
    let next = move |at: &i64| at.checked_add(step);
    let inside = move |at: &i64| if step > 0 { *at < stop } else { *at > stop };
    std::iter::successors(Some(start), next).take_while(inside).map(|at| at as usize)
}

fn range_slice(value: &Value, start: Option<i64>, stop: Option<i64>, step: i64) -> Outcome<Value> {
    let Some(range) = value.downcast_object_ref::<Range>() else { return fail("not a range") };
    let count = indices(range.len, start, stop, step).count();
    let (first, last) = clamp(range.len, start, stop, step);
    let first = range.start + range.step * first;
    let stop = range.start + range.step * last;
    Ok(Value::from_object(Range { start: first, stop, step: range.step * step, len: count }))
}

/// `value[key]` where the key is not known when the template is read: what is stored under the key, else the method of
/// that name.
pub(super) fn item(value: &Value, key: &Value) -> Outcome<Value> {
    let found = match kind(defined(value)?) {
        "str" => index(value, key).and_then(|i| items(value).ok()?.get(i).cloned()),
        "list" | "tuple" | "range" => index(value, key).and_then(|i| value.get_item_by_index(i).ok()),
        "None" | "int" | "float" | "bool" | "view" | "generator" => None,
        "dict" if matches!(kind(key), "list" | "dict") => return fail(format!("{} cannot be a key", kind(key))),
        _ => Some(value.get_item(key)?).filter(|found| !found.is_undefined()),
    };
    let method = || methods::bound(value, key.as_str()?);
    Ok(found.or_else(method).unwrap_or(Value::UNDEFINED))
}

/// The position that an integer key means.
fn index(value: &Value, key: &Value) -> Option<usize> {
    if !matches!(kind(key), "int" | "bool") {
        return None;
    }
    let at = integer(key).ok()?;
    let len = value.len()?;
    if at < 0 { len.checked_sub(at.unsigned_abs() as usize) } else { Some(at as usize).filter(|&at| at < len) }
}

/// What a `for` goes through.
fn iterate(state: &State, value: &Value) -> Outcome<Value> {
    match kind(value) {
        "list" | "tuple" | "range" | "dict" | "str" | "undefined" => Ok(value.clone()),
        _ => {
            let items = items(value)?;
            charge(state, 32 * items.len())?;
            Ok(Value::from(items))
        }
    }
}

/// `value.name` where the name is that of a method: the method, or what is stored under the name.
fn item_or_method(value: &Value, name: &str) -> Outcome<Value> {
    methods::bound(defined(value)?, name).map_or_else(|| value.get_attr(name), Ok)
}
