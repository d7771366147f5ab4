//! The `tojson` filter of chat templates. In: a value of the template; out: JSON as transformers' filter writes it,
//! that is Python's `json.dumps` without escapes for HTML. Invariant: the work counts against the render's fuel.

use super::bind::Call;
use super::python::{MAX_DEPTH, Outcome, charge, fail, float, integer, items, kind, number, string};
use super::sort::sorted;
use minijinja::{State, Value};
use std::fmt::Write;

/// Columns that a level may be indented by.
const MAX_INDENT: i64 = 64;

/// JSON as Python's `json.dumps` writes it: `", "` and `": "` between items unless told otherwise, no HTML escapes.
pub(super) fn tojson(call: &mut Call) -> Outcome<Value> {
    let indent = match call.some(1) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(width) => Some(integer(width)?).map(|n| n.clamp(0, MAX_INDENT + 1)).map(|n| " ".repeat(n as usize)),
    };
    if indent.as_ref().is_some_and(|indent| indent.len() as i64 > MAX_INDENT) {
        return fail("tojson: indented too deeply");
    }
    let separators = match call.some(2) {
        Some(pair) => match items(pair)?.as_slice() {
            [item, key] => [string(item)?.to_owned(), string(key)?.to_owned()],
            _ => return fail("tojson: separators are a pair"),
        },
        None if indent.is_some() => [",".into(), ": ".into()],
        None => [", ".into(), ": ".into()],
    };
    let (ascii, sort) = (call.flag(0, false), call.flag(3, false));
    let mut writer = Json { state: call.state, out: String::new(), indent, separators, ascii, sort };
    writer.value(call.value, 0)?;
    Ok(Value::from(writer.out))
}

struct Json<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    indent: Option<String>,
    separators: [String; 2],
    ascii: bool,
    sort: bool,
}

impl Json<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Outcome<()> {
        if depth > MAX_DEPTH {
            return fail("tojson: nested too deeply");
        }
        // A value may hold another many times, so its size is counted while it is written.
        charge(self.state, value.as_str().map_or(0, str::len))?;
        match kind(value) {
            "None" => self.out.push_str("null"),
            "bool" => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            "int" => self.out.push_str(&value.to_string()),
            "float" => self.out.push_str(&json_float(number(value)?.real())),
            "str" => self.string(value.as_str().unwrap_or_default()),
            "list" | "tuple" => {
                let items = items(value)?;
                self.out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.separate(i, depth + 1);
                    self.value(item, depth + 1)?;
                }
                self.close(items.is_empty(), depth, ']');
            }
            "dict" => {
                let mut entries = Vec::new();
                for key in items(value)? {
                    entries.push((key.clone(), value.get_item(&key)?));
                }
                if self.sort {
                    entries = sorted(self.state, entries, false)?;
                }
                self.out.push('{');
                for (i, (key, value)) in entries.iter().enumerate() {
                    self.separate(i, depth + 1);
                    self.key(key)?;
                    self.out.push_str(&self.separators[1]);
                    self.value(value, depth + 1)?;
                }
                self.close(entries.is_empty(), depth, '}');
            }
            other => return fail(format!("tojson: {other} has no JSON form")),
        }
        Ok(())
    }

    fn key(&mut self, key: &Value) -> Outcome<()> {
        let text = match kind(key) {
            "str" => key.as_str().unwrap_or_default().to_owned(),
            "None" => "null".into(),
            "bool" => key.to_string().to_lowercase(),
            "int" => key.to_string(),
            "float" => json_float(number(key)?.real()),
            other => return fail(format!("tojson: {other} cannot be a key")),
        };
        self.string(&text);
        Ok(())
    }

    fn separate(&mut self, i: usize, depth: usize) {
        if i > 0 {
            self.out.push_str(&self.separators[0]);
        }
        self.new_line(depth);
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// As `json.dumps` writes it: what JSON has no form for, in its own.
fn json_float(x: f64) -> String {
    match float(x).as_str() {
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        "nan" => "NaN".into(),
        other => other.into(),
    }
}
