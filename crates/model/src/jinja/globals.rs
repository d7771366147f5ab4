//! The global functions of a template. In: an environment; out: the same with Jinja2's functions and those that
//! transformers adds. Invariant: what Jinja2's sandbox refuses is refused.

use super::objects::Range;
use super::python::{Outcome, defined, fail, integer, items, kind, text};
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::sync::{Arc, Mutex, PoisonError};

/// Most items of a range, as in Jinja2's sandbox.
const MAX_RANGE: u64 = 100_000;

/// Jinja2's `cycler`.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: Mutex<usize>,
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        (key.as_str() == Some("current")).then(|| self.items[at].clone())
    }

    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, name: &str, _: &[Value]) -> Result<Value, Error> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        match name {
            "next" => {
                let now = self.items[*at].clone();
                *at = (*at + 1) % self.items.len();
                Ok(now)
            }
            "reset" => {
                *at = 0;
                Ok(Value::from(()))
            }
            _ => fail(format!("a cycler has no method {name}")),
        }
    }
}

/// Jinja2's `joiner`.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: Mutex<bool>,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, Error> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(if std::mem::replace(&mut *used, true) { self.separator.clone() } else { Value::from("") })
    }
}

/// The names of the global functions, and of what a template can read inside a loop, a block or a macro.
pub(super) const NAMES: [&str; 10] =
    ["caller", "cycler", "dict", "joiner", "loop", "namespace", "raise_exception", "range", "self", "strftime_now"];

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.remove_global("debug");
    environment.add_function("range", range);
    environment.add_function("dict", dict);
    environment.add_function("namespace", namespace);
    environment.add_function("cycler", |items: Rest<Value>| {
        if items.0.is_empty() {
            return fail("cycler: at least one item is expected");
        }
        Ok(Value::from_object(Cycler { items: items.0, at: Mutex::new(0) }))
    });
    environment.add_function("joiner", |separator: Option<Value>| {
        Value::from_object(Joiner {
            separator: separator.unwrap_or_else(|| Value::from(", ")),
            used: Mutex::new(false),
        })
    });
    environment.add_function("raise_exception", |message: Value| -> Outcome<Value> { fail(text(&message)?) });
    environment.add_function("strftime_now", strftime_now);
}

/// Python's `range(start, stop, step)`, within the sandbox's limit.
fn bounded(start: i64, stop: i64, step: i64) -> Outcome<Range> {
    if step == 0 {
        return fail("range: the step is 0");
    }
    let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let len = u64::try_from(span).unwrap_or(0).div_ceil(step.unsigned_abs());
    if len > MAX_RANGE {
        return fail(format!("range: more than {MAX_RANGE} items"));
    }
    Ok(Range { start, stop, step, len: len as usize })
}

#[allow(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
fn range(args: Rest<Value>) -> Outcome<Value> {
    let numbers: Vec<i64> = args.0.iter().map(integer).collect::<Outcome<_>>()?;
    Ok(Value::from_object(match *numbers {
        [stop] => bounded(0, stop, 1)?,
        [start, stop] => bounded(start, stop, 1)?,
        [start, stop, step] => bounded(start, stop, step)?,
        _ => return fail("range: one to three numbers are expected"),
    }))
}

/// Key and value of each entry of a dict, or of each pair of an iterable.
fn entries(value: &Value) -> Outcome<Vec<(Value, Value)>> {
    if kind(value) == "dict" {
        return items(value)?.into_iter().map(|key| Ok((key.clone(), value.get_item(&key)?))).collect();
    }
    let pair = |item: Value| match items(&item)?.as_slice() {
        [key, value] => Ok((key.clone(), value.clone())),
        _ => fail("dict: pairs are expected"),
    };
    items(defined(value)?)?.into_iter().map(pair).collect()
}

#[allow(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
fn dict(base: Rest<Value>, more: Kwargs) -> Outcome<Value> {
    let mut pairs = match base.0.as_slice() {
        [] => Vec::new(),
        [base] => entries(base)?,
        _ => return fail("dict: too many arguments"),
    };
    for name in more.args() {
        pairs.push((Value::from(name), more.peek::<Value>(name)?));
    }
    Ok(Value::from_pairs(pairs))
}

fn namespace(base: Rest<Value>, more: Kwargs) -> Outcome<Value> {
    let filled = dict(base, more)?;
    if let Some(name) = items(&filled)?.iter().filter_map(Value::as_str).find(|name| name.starts_with('_')) {
        return fail(format!("namespace: {name:?}: names do not start with `_`"));
    }
    minijinja::functions::namespace(Some(minijinja::value::ValueOrKwargs::from(filled)))
}

/// The local time now, in C's format.
fn strftime_now(format: &str) -> Outcome<String> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
}
