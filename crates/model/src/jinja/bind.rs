//! Arguments by position or by name, as Python binds them.

use super::python::{Outcome, fail};
use minijinja::value::Kwargs;
use minijinja::{State, Value};

/// A call: what is bound to each parameter.
pub(super) struct Call<'a, 'b, 'c> {
    pub(super) state: &'a mut State<'b, 'c>,
    pub(super) value: &'a Value,
    bound: Vec<Option<Value>>,
}

/// A function of a table: its name, its parameters, what it does.
pub(super) type Entry = (&'static str, &'static [&'static str], fn(&mut Call) -> Outcome<Value>);

impl<'a, 'b, 'c> Call<'a, 'b, 'c> {
    /// Binds `args` to the parameters of `name`.
    pub(super) fn bind(
        state: &'a mut State<'b, 'c>,
        value: &'a Value,
        (name, parameters, _): &Entry,
        positional: &[Value],
        named: &Kwargs,
    ) -> Outcome<Self> {
        if positional.len() > parameters.len() {
            return fail(format!("{name}: too many arguments"));
        }
        let mut bound: Vec<Option<Value>> = positional.iter().cloned().map(Some).collect();
        bound.resize(parameters.len(), None);
        for key in named.args() {
            let slot = parameters.iter().position(|known| *known == key);
            match slot.and_then(|at| bound.get_mut(at)) {
                Some(slot @ None) => *slot = Some(named.peek::<Value>(key)?),
                Some(_) => return fail(format!("{name}: {key} is given twice")),
                None => return fail(format!("{name}: there is no parameter {key}")),
            }
        }
        Ok(Self { state, value, bound })
    }

    /// The argument at `at`, if it was given.
    pub(super) fn get(&self, at: usize) -> Option<&Value> {
        self.bound.get(at)?.as_ref()
    }

    /// The argument at `at`, unless it is absent or none.
    pub(super) fn some(&self, at: usize) -> Option<&Value> {
        self.get(at).filter(|value| !value.is_none())
    }

    /// The argument at `at`; an error if it is absent.
    pub(super) fn need(&self, at: usize) -> Outcome<&Value> {
        self.get(at).map_or_else(|| fail("an argument is missing"), Ok)
    }

    /// Truth of the argument at `at`, else `default`.
    pub(super) fn flag(&self, at: usize, default: bool) -> bool {
        self.get(at).map_or(default, Value::is_true)
    }
}

/// Runs the function of a table on `value`.
pub(super) fn run(
    state: &mut State,
    value: &Value,
    entry: &Entry,
    positional: &[Value],
    named: &Kwargs,
) -> Outcome<Value> {
    let mut call = Call::bind(state, value, entry, positional, named)?;
    (entry.2)(&mut call)
}
