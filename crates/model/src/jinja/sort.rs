//! Sorting whose comparison can fail. Invariant: stable, and no comparison is trusted to be a total order.

use super::python::{Outcome, order};
use minijinja::{State, Value};
use std::cmp::Ordering;

/// Sorts `(key, item)` pairs by key, as Python's `sorted`.
pub(super) fn sorted(state: &State, pairs: Vec<(Value, Value)>, reverse: bool) -> Outcome<Vec<(Value, Value)>> {
    let wrong = if reverse { Ordering::Less } else { Ordering::Greater };
    let len = pairs.len();
    if len < 2 {
        return Ok(pairs);
    }
    let mut left = pairs;
    let right = left.split_off(len / 2);
    let (left, right) = (sorted(state, left, reverse)?, sorted(state, right, reverse)?);
    state.consume_fuel(len as u64)?;
    let mut out = Vec::with_capacity(len);
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        // Equal keys keep their order, in both directions.
        let take_right = order(&a.0, &b.0, 0)? == Some(wrong);
        out.extend(if take_right { right.next() } else { left.next() });
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

/// A key that does not tell upper from lower case.
pub(super) fn fold(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    }
}
