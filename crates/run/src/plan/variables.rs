//! Variables of a chat template. In: flags `NAME=VALUE`, or a table of a run file; out: JSON values by name. Invariant:
//! what comes from a flag can be written into a run file and read from it again.

use super::section::Section;
use crate::failure::Problems;
use eraser_model::template::TAKEN;
use eraser_model::{Error, Result};
use serde_json::{Map, Value};

/// The key of the table.
const KEY: &str = "template_vars";
/// The flag of one variable.
const FLAG: &str = "--template-var";

/// From flags: a value is JSON where it can be read as that, else a text.
pub fn of_flags(flags: &[String], problems: &mut Problems) -> Map<String, Value> {
    let mut all = Map::new();
    for flag in flags {
        let wrong = |what: &str| Error::request(format!("{FLAG} {flag}: {what}"));
        let Some((name, text)) = flag.split_once('=') else {
            problems.push(wrong("no `=`").hint("write it as NAME=VALUE, for example enable_thinking=false"));
            continue;
        };
        let json = || serde_json::from_str(text).unwrap_or_else(|_| text.into());
        let value = of_python(text).unwrap_or_else(json);
        let taken = check(name).and_then(|()| {
            if is_null(&value) {
                Err(Error::request("null has no place in a run file").hint("leave the variable out"))
            } else if all.contains_key(name) {
                Err(Error::request("the variable is given twice").hint("leave one out"))
            } else {
                Ok(())
            }
        });
        if problems.ok(taken.map_err(|e| e.context(format_args!("{FLAG} {flag}")))).is_some() {
            all.insert(name.to_owned(), value);
        }
    }
    all
}

/// From the table of a run file.
pub(super) fn of_section(section: &Section<'_>, problems: &mut Problems) -> Map<String, Value> {
    let table: toml::Table = section.value(KEY, problems).unwrap_or_default();
    for name in table.keys() {
        problems.ok(check(name).map_err(|e| e.context(section.place(&format!("{KEY}.{name}")))));
    }
    for (name, value) in &table {
        if let Some(word) = value.as_str().filter(|word| of_python(word).is_some()) {
            let place = section.place(&format!("{KEY}.{name}"));
            tracing::warn!(
                "{place} is the text {word:?}, which counts as true in a template; run files have true and false"
            );
        }
    }
    table.into_iter().map(|(name, value)| (name, json(value))).collect()
}

/// A variable as a flag gives it.
pub fn as_flag(name: &str, value: &Value) -> String {
    match value {
        // What would be read as another value stays in quotes.
        Value::String(text) if serde_json::from_str::<Value>(text).is_err() && of_python(text).is_none() => {
            format!("{name}={text}")
        }
        value => format!("{name}={value}"),
    }
}

/// What Python's words mean: a text `False` would count as true in a template.
fn of_python(text: &str) -> Option<Value> {
    match text {
        "True" => Some(true.into()),
        "False" => Some(false.into()),
        "None" => Some(Value::Null),
        _ => None,
    }
}

/// An error for a name that a template cannot read, or that holds something else.
fn check(name: &str) -> Result<()> {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name = name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit());
    if !is_name {
        return Err(Error::request(format!("`{name}` cannot be a variable"))
            .hint("a name has letters, digits and _, as enable_thinking"));
    }
    if TAKEN.contains(&name) {
        return Err(Error::request(format!("`{name}` is no variable that can be given"))
            .hint("what a template is given besides: messages, whether the assistant begins, tools"));
    }
    Ok(())
}

fn is_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(is_null),
        Value::Object(map) => map.values().any(is_null),
        _ => false,
    }
}

/// A date is a text, as templates take it.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(n) => n.into(),
        toml::Value::Float(x) => x.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => Value::Object(table.into_iter().map(|(key, v)| (key, json(v))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn flags(flags: &[&str]) -> (Map<String, Value>, Vec<String>) {
        let mut problems = Problems::default();
        let flags: Vec<String> = flags.iter().map(|&f| f.to_owned()).collect();
        let all = of_flags(&flags, &mut problems);
        (all, problems.messages())
    }

    #[test]
    fn a_value_is_json_where_it_can_be() {
        let (all, errors) =
            flags(&["a=false", "b=2", "c=low", "d=[1, \"x\"]", "e=", "f=\"False\"", "g=a=b", "h={\"k\":1}"]);
        assert_eq!(errors, Vec::<String>::new());
        let expected =
            json!({"a": false, "b": 2, "c": "low", "d": [1, "x"], "e": "", "f": "False", "g": "a=b", "h": {"k": 1}});
        assert_eq!(Value::Object(all.clone()), expected);
        // What is suggested as a command means the same.
        let again: Vec<String> = all.iter().map(|(name, value)| as_flag(name, value)).collect();
        assert_eq!(flags(&again.iter().map(String::as_str).collect::<Vec<_>>()).0, all);
    }

    #[test]
    fn what_is_no_variable_is_told() {
        for (flag, told) in [
            ("enable_thinking", "no `=`"),
            ("=1", "`` cannot be a variable"),
            ("a-b=1", "`a-b` cannot be a variable"),
            ("messages=[]", "`messages` is no variable that can be given"),
            ("add_generation_prompt=false", "`add_generation_prompt` is no variable"),
            ("a=null", "null has no place"),
            ("a=[{\"b\":null}]", "null has no place"),
        ] {
            let (all, errors) = flags(&[flag]);
            assert!(all.is_empty() && errors.len() == 1 && errors[0].contains(told), "{flag}: {errors:?}");
        }
        assert!(flags(&["a=1", "a=2"]).1[0].contains("given twice"));
    }
}
