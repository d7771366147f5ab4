//! The filters of Jinja2 that choose among the items of a list, order them or put them together.

use super::bind::{Call, Entry, run};
use super::filters;
use super::objects::{Generator, Group};
use super::operators::item;
use super::python::{Number, Outcome, charge, fail, integer, items, kind, number, order, pairs, string, text};
use super::sort::{fold, sorted};
use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, State, Value};
use std::cmp::Ordering;

const FILTERS: &[Entry] = &[
    ("batch", &["linecount", "fill_with"], batch),
    ("slice", &["slices", "fill_with"], slice),
    ("dictsort", &["case_sensitive", "by", "reverse"], dictsort),
    ("groupby", &["attribute", "default", "case_sensitive"], groupby),
    ("join", &["d", "attribute"], join),
    ("max", &["case_sensitive", "attribute"], |c| extreme(c, Ordering::Greater)),
    ("min", &["case_sensitive", "attribute"], |c| extreme(c, Ordering::Less)),
    ("sort", &["reverse", "case_sensitive", "attribute"], sort),
    ("sum", &["attribute", "start"], sum),
    ("unique", &["case_sensitive", "attribute"], unique),
];

/// Filters that pass their arguments on to another one, or to a test.
const PASSING: [&str; 5] = ["map", "select", "reject", "selectattr", "rejectattr"];

pub(super) fn add(environment: &mut Environment<'static>) {
    for entry in FILTERS {
        let filter = move |state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs| {
            run(state, value, entry, &args.0, &named)
        };
        environment.add_filter(entry.0, filter);
    }
    environment.add_filter("map", map);
    for (name, wanted, attribute) in
        [("select", true, false), ("reject", false, false), ("selectattr", true, true), ("rejectattr", false, true)]
    {
        let filter =
            move |state: &mut State, value: &Value, args: Rest<Value>| choose(state, value, &args.0, wanted, attribute);
        environment.add_filter(name, filter);
    }
}

/// Whether the filter is supported.
pub(super) fn known(name: &str) -> bool {
    PASSING.contains(&name) || FILTERS.iter().any(|entry| entry.0 == name)
}

/// `a.b.0` of a value; an undefined part is `default`, if there is one.
fn attribute(value: &Value, path: &Value, default: Option<&Value>) -> Outcome<Value> {
    if path.as_str().is_none() {
        return item(value, path);
    }
    let mut found = value.clone();
    for part in string(path)?.split('.') {
        let key = part.parse::<i64>().map_or_else(|_| Value::from(part), Value::from);
        found = item(&found, &key)?;
        if let (true, Some(default)) = (found.is_undefined(), default) {
            found = default.clone();
        }
    }
    Ok(found)
}

/// What an item is sorted or compared by.
fn key(value: &Value, path: Option<&Value>, case_sensitive: bool) -> Outcome<Value> {
    let found = path.map_or_else(|| Ok(value.clone()), |path| attribute(value, path, None))?;
    Ok(fold(found, case_sensitive))
}

fn batch(call: &mut Call) -> Outcome<Value> {
    let size = integer(call.need(0)?)?.max(1) as usize;
    let mut rows: Vec<Vec<Value>> = items(call.value)?.chunks(size).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (call.some(1), rows.last_mut()) {
        charge(call.state, 32 * size)?;
        last.resize(size, fill.clone());
    }
    Ok(Generator::of(rows.into_iter().map(Value::from).collect()))
}

fn slice(call: &mut Call) -> Outcome<Value> {
    let count = integer(call.need(0)?)?;
    if count < 1 {
        return fail("slice: at least one slice is needed");
    }
    charge(call.state, 64 * count as usize)?;
    let all = items(call.value)?;
    let (per, longer) = (all.len() / count as usize, all.len() % count as usize);
    let mut all = all.into_iter();
    let mut out = Vec::new();
    for i in 0..count as usize {
        let mut row: Vec<Value> = all.by_ref().take(per + usize::from(i < longer)).collect();
        if let (Some(fill), true) = (call.some(1), i >= longer) {
            row.push(fill.clone());
        }
        out.push(Value::from(row));
    }
    Ok(Generator::of(out))
}

fn dictsort(call: &mut Call) -> Outcome<Value> {
    if kind(call.value) != "dict" {
        return fail(format!("dictsort: a dict is expected, not {}", kind(call.value)));
    }
    let at = match call.get(1).map_or(Ok("key"), string)? {
        "key" => 0,
        "value" => 1,
        _ => return fail("dictsort: by is key or value"),
    };
    let sensitive = call.flag(0, false);
    let keyed = pairs(call.value)?.into_iter().map(|pair| Ok((fold(pair.get_item_by_index(at)?, sensitive), pair)));
    let keyed = keyed.collect::<Outcome<_>>()?;
    let sorted = sorted(call.state, keyed, call.flag(2, false))?;
    Ok(Value::from(sorted.into_iter().map(|(_, pair)| pair).collect::<Vec<_>>()))
}

fn groupby(call: &mut Call) -> Outcome<Value> {
    let (path, default) = (call.need(0)?.clone(), call.some(1).cloned());
    let sensitive = call.flag(2, false);
    let by = |value: &Value| attribute(value, &path, default.as_ref());
    let keyed = items(call.value)?.into_iter().map(|item| Ok((fold(by(&item)?, sensitive), item)));
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted(call.state, keyed.collect::<Outcome<_>>()?, false)? {
        match groups.last_mut() {
            Some((last, members)) if *last == key => members.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let group = |(_, members): (Value, Vec<Value>)| {
        let grouper = by(&members[0])?;
        Ok(Value::from_object(Group { grouper, list: Value::from(members) }))
    };
    Ok(Value::from(groups.into_iter().map(group).collect::<Outcome<Vec<_>>>()?))
}

fn join(call: &mut Call) -> Outcome<Value> {
    let separator = call.get(0).map_or_else(|| Ok(String::new()), text)?;
    let mut out = String::new();
    for (i, item) in items(call.value)?.iter().enumerate() {
        let item = call.some(1).map_or_else(|| Ok(item.clone()), |path| attribute(item, path, None))?;
        let part = text(&item)?;
        charge(call.state, separator.len() + part.len())?;
        out.push_str(if i > 0 { &separator } else { "" });
        out.push_str(&part);
    }
    Ok(Value::from(out))
}

fn extreme(call: &mut Call, wanted: Ordering) -> Outcome<Value> {
    let mut best: Option<(Value, Value)> = None;
    for item in items(call.value)? {
        let key = key(&item, call.some(1), call.flag(0, false))?;
        let better = match &best {
            Some((other, _)) => order(&key, other, 0)? == Some(wanted),
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

fn sort(call: &mut Call) -> Outcome<Value> {
    let (sensitive, path) = (call.flag(1, false), call.some(2).cloned());
    let paths: Vec<Value> = match path.as_ref().and_then(Value::as_str) {
        Some(text) => text.split(',').map(Value::from).collect(),
        None => path.into_iter().collect(),
    };
    let keyed = items(call.value)?.into_iter().map(|item| {
        let keys = paths.iter().map(|path| key(&item, Some(path), sensitive)).collect::<Outcome<Vec<_>>>()?;
        let key = if keys.is_empty() { fold(item.clone(), sensitive) } else { Value::from(keys) };
        Ok((key, item))
    });
    let keyed = keyed.collect::<Outcome<_>>()?;
    let sorted = sorted(call.state, keyed, call.flag(0, false))?;
    Ok(Value::from(sorted.into_iter().map(|(_, item)| item).collect::<Vec<_>>()))
}

fn sum(call: &mut Call) -> Outcome<Value> {
    let mut total = call.get(1).map_or(Ok(Number::Int(0)), number)?;
    for item in items(call.value)? {
        let item = call.some(0).map_or_else(|| Ok(item.clone()), |path| attribute(&item, path, None))?;
        total = match (total, number(&item)?) {
            (Number::Int(a), Number::Int(b)) => Number::Int(a.saturating_add(b)),
            (a, b) => Number::Float(a.real() + b.real()),
        };
    }
    Ok(total.value())
}

fn unique(call: &mut Call) -> Outcome<Value> {
    let mut seen: Vec<Value> = Vec::new();
    let mut out = Vec::new();
    for item in items(call.value)? {
        let key = key(&item, call.some(1), call.flag(0, false))?;
        if matches!(kind(&key), "list" | "dict") {
            return fail(format!("unique: {} has no hash", kind(&key)));
        }
        call.state.consume_fuel(1 + seen.len() as u64 / 4)?;
        if !seen.contains(&key) {
            seen.push(key);
            out.push(item);
        }
    }
    Ok(Generator::of(out))
}

#[allow(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
fn map(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Outcome<Value> {
    if !value.is_true() {
        return Ok(Generator::of(Vec::new()));
    }
    let mut out = Vec::new();
    if args.0.is_empty() && named.has("attribute") {
        let path: Value = named.get("attribute")?;
        let default: Option<Value> = named.get("default")?;
        named.assert_all_used()?;
        for item in items(value)? {
            state.consume_fuel(1)?;
            out.push(attribute(&item, &path, default.as_ref())?);
        }
    } else {
        let Some(name) = args.0.first().and_then(Value::as_str) else {
            return fail("map: a filter or attribute is expected");
        };
        check_filter(name)?;
        let keywords = named.args().next().is_some().then(|| Value::from(named.clone()));
        for item in items(value)? {
            state.consume_fuel(1)?;
            let args: Vec<Value> =
                std::iter::once(item).chain(args.0[1..].iter().cloned()).chain(keywords.clone()).collect();
            out.push(state.apply_filter(name, &args)?);
        }
    }
    Ok(Generator::of(out))
}

fn check_filter(name: &str) -> Outcome<()> {
    if known(name) || filters::known(name) { Ok(()) } else { fail(format!("filter `{name}` is not supported")) }
}

fn choose(state: &mut State, value: &Value, args: &[Value], wanted: bool, by_attribute: bool) -> Outcome<Value> {
    if !value.is_true() {
        return Ok(Generator::of(Vec::new()));
    }
    let (path, args) = match args {
        [path, rest @ ..] if by_attribute => (Some(path), rest),
        [] if by_attribute => return fail("selectattr: an attribute is expected"),
        rest => (None, rest),
    };
    let mut out = Vec::new();
    for item in items(value)? {
        state.consume_fuel(1)?;
        let tested = path.map_or_else(|| Ok(item.clone()), |path| attribute(&item, path, None))?;
        let chosen = match args {
            [] => tested.is_true(),
            [name, more @ ..] => {
                let args: Vec<Value> = std::iter::once(tested).chain(more.iter().cloned()).collect();
                state.perform_test(string(name)?, &args)?
            }
        };
        if chosen == wanted {
            out.push(item);
        }
    }
    Ok(Generator::of(out))
}
