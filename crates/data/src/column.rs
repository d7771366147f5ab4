//! Columns of a row by their names. In: an object of JSON and a name; out: the key that is meant, what is asked in
//! whole, and what a row has beside it. Invariant: a key that could mean two things is an error.

use eraser_model::{Error, Result, nearest};
use serde_json::{Map, Value};

/// Where `HarmBench` has what a behaviour is about.
pub const CONTEXT_STRING: &str = "contextstring";

/// Keys of what an answer depends on and a question has no place for.
const BESIDES: [&str; 7] = ["system", "system_prompt", "system_message", "history", "tools", "functions", "context"];

/// The key of `row` with this `name`: exactly, or else but for case and space around it.
///
/// # Errors
/// Several keys differ from `name` only in case and space.
pub fn find_column<'a>(row: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>> {
    if let Some((key, _)) = row.get_key_value(name) {
        return Ok(Some(key));
    }
    let mut alike = row.keys().filter(|key| key.trim().eq_ignore_ascii_case(name.trim()));
    match (alike.next(), alike.next()) {
        (Some(one), Some(other)) => {
            Err(Error::request(format!("`{name}` can mean both the column {one:?} and the column {other:?}"))
                .hint("write the name exactly as in the file"))
        }
        (found, _) => Ok(found.map(String::as_str)),
    }
}

/// Which columns a row has, for a hint.
pub(crate) fn known(there: &[&str]) -> String {
    match there {
        [] => "the rows have no columns: each is a text by itself".to_owned(),
        there => format!("there are: {}", there.join(", ")),
    }
}

/// `error`, that there is no column `name`, with the nearest of those that are there, and all of them.
#[must_use]
pub fn no_column(error: Error, name: &str, there: &[&str]) -> Error {
    let near = nearest(name, there.iter().copied()).map(|near| format!("did you mean `{near}`?"));
    near.into_iter().fold(error, Error::hint).hint(known(there))
}

/// What is asked in whole: `text`, which was under `key`, and what it is about where the row has that under a key of
/// its own; that key is taken out of the row and returned.
///
/// # Errors
/// What it is about is no string.
pub(crate) fn asked(key: &str, text: String, row: &mut Map<String, Value>) -> Result<(String, Option<String>)> {
    let instruction = key.trim().eq_ignore_ascii_case("instruction");
    // Alpaca and Dolly give it after the instruction, HarmBench before the behaviour.
    let names: &[&str] = if instruction { &["input", "context"] } else { &[CONTEXT_STRING] };
    for name in names {
        let Some(found) = find_column(row, name)?.map(str::to_owned) else { continue };
        let about = match &row[&found] {
            Value::String(about) if about.trim().is_empty() => continue,
            Value::String(about) => about,
            Value::Null => continue,
            _ => return Err(Error::request(format!("`{found}` is not a string"))),
        };
        let whole = if instruction { format!("{text}\n\n{about}") } else { format!("{about}\n\n---\n\n{text}") };
        row.shift_remove(&found);
        return Ok((whole, Some(found)));
    }
    Ok((text, None))
}

/// The first key of a row, whose question and answer were taken out, that holds what the answer depends on as well: a
/// system turn, earlier turns, tools, or what the question is about.
pub fn besides(extra: &Map<String, Value>) -> Option<&str> {
    let holds = |value: &Value| match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    };
    let named = |key: &str| BESIDES.iter().any(|name| key.trim().eq_ignore_ascii_case(name));
    extra.iter().find(|(key, value)| named(key) && holds(value)).map(|(key, _)| key.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_depends_on_besides_the_question_is_named() {
        let of = |row: &str| {
            let row: Map<String, Value> = serde_json::from_str(row).unwrap();
            besides(&row).map(str::to_owned)
        };
        for (row, key) in [
            (r#"{"id":1,"System":"Be brief."}"#, "System"),
            (r#"{"history":[["a","b"]]}"#, "history"),
            (r#"{"context":"It was Bo."}"#, "context"),
            (r#"{"tools":[{"type":"function"}]}"#, "tools"),
        ] {
            assert_eq!(of(row).as_deref(), Some(key), "{row}");
        }
        assert_eq!(of(r#"{"system":"","history":[],"tools":null,"context":" ","category":"x"}"#), None);
    }
}
