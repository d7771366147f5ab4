//! The `tojson` filter of chat templates. In: a value of the template; out: JSON as transformers' filter writes it, that is
//! Python's `json.dumps` without escapes for HTML. Invariant: the work is paid for from the render's fuel.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt::Write;

/// JSON as Python's `json.dumps` writes it: `", "` and `": "` between items unless `indent` is given, no HTML escapes.
// The engine hands keyword arguments over by value.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn tojson(state: &State, value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        None => options.get::<Option<usize>>("indent")?,
        given => given,
    };
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Json { state, out: String::new(), indent, ascii, sort };
    writer.value(value, 0)?;
    Ok(Value::from_safe_string(writer.out))
}

/// Levels of nesting that `tojson` follows, and columns it indents by per level.
const MAX_DEPTH: usize = 64;

struct Json<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    indent: Option<usize>,
    ascii: bool,
    sort: bool,
}

type Written = Result<(), Error>;

impl Json<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Written {
        if depth > MAX_DEPTH || self.indent.is_some_and(|n| n > MAX_DEPTH) {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested or indented too deeply"));
        }
        // A value may stand in itself many times over, so its size is paid for while it is written.
        self.state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / 64)?;
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool | ValueKind::Number => self.out.push_str(&value.to_string().to_lowercase()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.separate(i, depth + 1);
                    self.value(item, depth + 1)?;
                }
                self.close(items.is_empty(), depth, ']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.separate(i, depth + 1);
                    self.string(&key.to_string());
                    self.out.push_str(": ");
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.close(keys.is_empty(), depth, '}');
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            kind => {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} has no JSON form")));
            }
        }
        Ok(())
    }

    fn separate(&mut self, i: usize, depth: usize) {
        match (self.indent, i) {
            (None, 0) => {}
            (None, _) => self.out.push_str(", "),
            (Some(_), 0) => self.new_line(depth),
            (Some(_), _) => {
                self.out.push(',');
                self.new_line(depth);
            }
        }
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty && self.indent.is_some() {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', depth * self.indent.unwrap_or(0)));
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
                c if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
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
