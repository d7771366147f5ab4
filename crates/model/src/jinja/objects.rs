//! Types of values that JSON does not have: ranges, views of dicts, generators, groups. In: items or bounds; out: what
//! minijinja can index and iterate. Invariant: nothing here knows Python's rules; `python.rs` does, and it looks for
//! these types.

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Python's `range`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
    pub(super) len: usize,
}

impl Range {
    /// The number at a position, which must be within the range.
    pub(super) fn at(&self, index: usize) -> i64 {
        self.start + self.step * index as i64
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = key.as_usize().filter(|&i| i < self.len)?;
        Some(Value::from(self.at(index)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, stop, step, .. } = **self;
        if step == 1 { write!(f, "range({start}, {stop})") } else { write!(f, "range({start}, {stop}, {step})") }
    }
}

/// `dict.keys()` and its like.
#[derive(Debug)]
pub(super) struct View {
    /// `dict_keys`, `dict_values` or `dict_items`.
    pub(super) kind: &'static str,
    pub(super) items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.items.is_empty()
    }
}

/// What a filter such as `select` gives: it can be iterated once, has no length and is always true.
#[derive(Debug)]
pub(super) struct Generator(Arc<Mutex<std::vec::IntoIter<Value>>>);

impl Generator {
    pub(super) fn of(items: Vec<Value>) -> Value {
        Value::from_object(Self(Arc::new(Mutex::new(items.into_iter()))))
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let items = Arc::clone(&self.0);
        let next = move || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        Enumerator::Iter(Box::new(std::iter::from_fn(next)))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// A group of `groupby`: a pair whose parts have names.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) grouper: Value,
    pub(super) list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_usize(), key.as_str()) {
            (Some(0), _) | (_, Some("grouper")) => Some(self.grouper.clone()),
            (Some(1), _) | (_, Some("list")) => Some(self.list.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}
