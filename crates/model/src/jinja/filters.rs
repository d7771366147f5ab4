//! The filters of Jinja2 that make one value of one value. Lists are in `select.rs`.

use super::bind::{Call, Entry, run};
use super::objects::Generator;
use super::python::{
    self, Number, Outcome, charge, defined, fail, integer, items, iterable, kind, number, pairs, text,
};
use super::{json, methods, percent, strings};
use minijinja::value::{Kwargs, Rest, Tuple};
use minijinja::{Environment, State, Value};

const NONE: &[&str] = &[];

const FILTERS: &[Entry] = &[
    ("abs", NONE, |c| match number(c.value)? {
        Number::Int(n) => Ok(Number::Int(n.saturating_abs()).value()),
        Number::Float(x) => Ok(Value::from(x.abs())),
    }),
    ("attr", &["name"], attr),
    ("capitalize", NONE, |c| on_text(c, strings::capitalize)),
    ("center", &["width"], |c| {
        let text = text(c.value)?;
        let width = c.get(0).map_or(Ok(80), integer)?;
        charge(c.state, width.max(0) as usize)?;
        Ok(Value::from(strings::center(&text, width, ' ')))
    }),
    ("count", NONE, length),
    ("length", NONE, length),
    ("d", &["default_value", "boolean"], default),
    ("default", &["default_value", "boolean"], default),
    ("e", NONE, |c| on_text(c, escape)),
    ("escape", NONE, |c| on_text(c, escape)),
    ("safe", NONE, |c| on_text(c, str::to_owned)),
    ("float", &["default"], |c| {
        let found = match c.value.as_str() {
            Some(text) => strings::parse_float(text),
            None => number(defined(c.value)?).ok().map(Number::real),
        };
        Ok(found.map_or_else(|| c.get(0).cloned().unwrap_or_else(|| Value::from(0.0)), Value::from))
    }),
    ("int", &["default", "base"], int),
    ("indent", &["width", "first", "blank"], indent),
    ("first", NONE, |c| Ok(items_or_fail(c.value)?.try_iter()?.next().unwrap_or(Value::UNDEFINED))),
    ("last", NONE, |c| match kind(c.value) {
        "generator" | "iterator" => fail("a generator cannot be reversed"),
        _ => Ok(items(c.value)?.pop().unwrap_or(Value::UNDEFINED)),
    }),
    ("items", NONE, |c| match kind(c.value) {
        "undefined" => Ok(Generator::of(Vec::new())),
        "dict" => Ok(Generator::of(pairs(c.value)?)),
        other => fail(format!("items: a dict is expected, not {other}")),
    }),
    ("list", NONE, |c| Ok(Value::from(items(c.value)?))),
    ("lower", NONE, |c| on_text(c, str::to_lowercase)),
    ("upper", NONE, |c| on_text(c, str::to_uppercase)),
    ("string", NONE, |c| on_text(c, str::to_owned)),
    ("title", NONE, |c| on_text(c, title)),
    ("trim", &["chars"], |c| {
        let chars = c.some(0).map(python::string).transpose()?;
        Ok(Value::from(strings::strip(&text(c.value)?, chars, true, true)))
    }),
    ("replace", &["s", "new", "count"], |c| {
        let (old, new) = (text(c.need(0)?)?, text(c.need(1)?)?);
        let count = c.some(2).map_or(Ok(-1), integer)?;
        strings::replace(c.state, &text(c.value)?, &old, &new, count).map(Value::from)
    }),
    ("reverse", NONE, |c| {
        let mut all = items(c.value)?;
        all.reverse();
        Ok(match kind(c.value) {
            "str" => Value::from(all.iter().filter_map(Value::as_str).collect::<String>()),
            "generator" | "iterator" => Value::from(all),
            _ => Generator::of(all),
        })
    }),
    ("round", &["precision", "method"], round),
    ("truncate", &["length", "killwords", "end", "leeway"], truncate),
    ("tojson", &["ensure_ascii", "indent", "separators", "sort_keys"], json::tojson),
    ("wordcount", NONE, |c| {
        let text = text(c.value)?;
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        Ok(Value::from(words.count()))
    }),
];

/// Filters of Jinja2 that no chat template has a use for.
pub(super) const REFUSED: [&str; 10] = [
    "filesizeformat",
    "forceescape",
    "pprint",
    "random",
    "striptags",
    "urlencode",
    "urlize",
    "wordwrap",
    "xmlattr",
    "format_map",
];

/// Filters whose result Jinja2 marks as safe, after which `+` and `~` escape what is added.
pub(super) const MARKUP: [&str; 3] = ["e", "escape", "safe"];

pub(super) fn add(environment: &mut Environment<'static>) {
    for foreign in ["bool", "lines", "split", "chain", "zip", "pprint"] {
        environment.remove_filter(foreign);
    }
    for entry in FILTERS {
        let filter = move |state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs| {
            run(state, value, entry, &args.0, &named)
        };
        environment.add_filter(entry.0, filter);
    }
    environment.add_filter("format", |state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs| {
        let names: Vec<&str> = named.args().collect();
        let given = match (args.0.len(), names.len()) {
            (_, 0) => Value::from(Tuple::new(args.0)),
            (0, _) => {
                Value::from_pairs(names.iter().map(|n| Ok((*n, named.peek::<Value>(n)?))).collect::<Outcome<Vec<_>>>()?)
            }
            _ => return fail("format: arguments are given by position or by name, not both"),
        };
        percent::format(state, &text(value)?, &given)
    });
}

/// Whether the filter is supported.
pub(super) fn known(name: &str) -> bool {
    name == "format" || FILTERS.iter().any(|entry| entry.0 == name)
}

fn on_text(call: &mut Call, change: impl Fn(&str) -> String) -> Outcome<Value> {
    Ok(Value::from(change(&text(call.value)?)))
}

fn items_or_fail(value: &Value) -> Outcome<&Value> {
    if iterable(value) { Ok(value) } else { fail(format!("{} cannot be iterated", kind(value))) }
}

fn attr(call: &mut Call) -> Outcome<Value> {
    let name = python::string(call.need(0)?)?.to_owned();
    if name.starts_with('_') {
        return fail(format!("`{name}`: names of Python's own are not accessible"));
    }
    if let Some(method) = methods::bound(defined(call.value)?, &name) {
        return Ok(method);
    }
    match kind(call.value) {
        "namespace" | "object" => call.value.get_attr(&name),
        _ => Ok(Value::UNDEFINED),
    }
}

fn length(call: &mut Call) -> Outcome<Value> {
    match kind(call.value) {
        "undefined" => Ok(Value::from(0)),
        "str" | "list" | "tuple" | "dict" | "range" | "view" => Ok(Value::from(call.value.len().unwrap_or(0))),
        other => fail(format!("{other} has no length")),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the form of the table's functions")]
fn default(call: &mut Call) -> Outcome<Value> {
    let absent = call.value.is_undefined() || (call.flag(1, false) && !call.value.is_true());
    Ok(if absent { call.get(0).cloned().unwrap_or_else(|| Value::from("")) } else { call.value.clone() })
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn int(call: &mut Call) -> Outcome<Value> {
    let base = call.get(1).map_or(Ok(10), integer)?;
    let whole = |x: f64| x.is_finite().then_some(Number::Int(x as i128));
    let found = match call.value.as_str() {
        Some(text) => {
            strings::parse_int(text, base).map(Number::Int).or_else(|| strings::parse_float(text).and_then(whole))
        }
        None => match number(defined(call.value)?) {
            Ok(Number::Float(x)) => whole(x),
            other => other.ok(),
        },
    };
    Ok(found.map_or_else(|| call.get(0).cloned().unwrap_or_else(|| Value::from(0)), Number::value))
}

fn indent(call: &mut Call) -> Outcome<Value> {
    let text = python::string(call.value)?;
    let by = match call.get(0) {
        Some(width) if width.as_str().is_some() => width.as_str().unwrap_or_default().to_owned(),
        width => {
            let width = width.map_or(Ok(4), integer)?.max(0) as usize;
            charge(call.state, width)?;
            " ".repeat(width)
        }
    };
    let (first, blank) = (call.flag(1, false), call.flag(2, false));
    let ended = format!("{text}\n");
    let lines = strings::lines(&ended, false);
    charge(call.state, text.len() + by.len().saturating_mul(lines.len()))?;
    let mut out = if first { by.clone() } else { String::new() };
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
            out.push_str(if blank || !line.is_empty() { &by } else { "" });
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn round(call: &mut Call) -> Outcome<Value> {
    let precision = call.get(0).map_or(Ok(0), integer)?.clamp(-400, 400) as i32;
    let method = call.get(1).map_or(Ok("common"), python::string)?;
    let given = number(call.value)?;
    let power = 10f64.powi(precision);
    Ok(match (method, given) {
        ("floor", x) => Value::from(((x.real() * power).floor() + 0.0) / power),
        ("ceil", x) => Value::from(((x.real() * power).ceil() + 0.0) / power),
        ("common", Number::Int(n)) if precision >= 0 => Number::Int(n).value(),
        ("common", Number::Int(n)) => {
            let Some(unit) = 10i128.checked_pow(precision.unsigned_abs()) else { return Ok(Value::from(0)) };
            let (below, rest) = (n.div_euclid(unit), n.rem_euclid(unit));
            let up = 2 * rest > unit || (2 * rest == unit && below % 2 != 0);
            Number::Int((below + i128::from(up)) * unit).value()
        }
        ("common", Number::Float(x)) if precision < 0 => Value::from((x * power).round_ties_even() / power),
        // Rust writes the exact value rounded half to even, which is what Python rounds to.
        ("common", Number::Float(x)) => Value::from(format!("{x:.*}", precision as usize).parse::<f64>().unwrap_or(x)),
        _ => return fail("round: the method is common, ceil or floor"),
    })
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if c.is_whitespace() || "-({[<".contains(c) {
            out.push(c);
            start = true;
        } else if std::mem::replace(&mut start, false) {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

fn truncate(call: &mut Call) -> Outcome<Value> {
    let length = call.get(0).map_or(Ok(255), integer)?;
    let end = call.get(2).map_or(Ok("..."), python::string)?;
    let leeway = call.some(3).map_or(Ok(5), integer)?;
    let kept = length - end.chars().count() as i64;
    if kept < 0 || leeway < 0 {
        return fail("truncate: the length is less than that of the end, or the leeway is negative");
    }
    let len = if call.value.is_undefined() { Some(0) } else { call.value.len() };
    if len.is_some_and(|len| len as i64 <= length + leeway) && kind(call.value) != "generator" {
        return Ok(call.value.clone());
    }
    let text = python::string(call.value)?.chars();
    let kept: String = text.take(kept as usize).collect();
    let whole =
        if call.flag(1, false) { kept.as_str() } else { kept.rsplit_once(' ').map_or(&*kept, |(words, _)| words) };
    Ok(Value::from([whole, end].concat()))
}
