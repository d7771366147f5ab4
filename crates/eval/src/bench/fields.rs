//! The columns of a row, under whatever of their usual names the file uses. Invariant: a column that is missing or of
//! another type is an error that names it, never a default.

use eraser_model::{Error, Result};
use serde_json::{Map, Value};

/// One row. In CSV files, lists and numbers are written as JSON text in their cells.
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl Fields<'_> {
    /// True if the row has this column.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The value of the first of `keys` that the row has.
    fn any(&self, keys: &[&str]) -> Result<(&str, &Value)> {
        keys.iter().find_map(|key| self.0.get_key_value(*key)).map(|(key, value)| (key.as_str(), value)).ok_or_else(
            || {
                let there: Vec<&str> = self.0.keys().map(String::as_str).collect();
                Error::request(format!("no column {}", keys.join(" or ")))
                    .hint(format!("there are: {}", there.join(", ")))
            },
        )
    }

    /// A text.
    pub(crate) fn text(&self, keys: &[&str]) -> Result<String> {
        let (key, value) = self.any(keys)?;
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(Error::request(format!("`{key}` is not a string"))),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, keys: &[&str]) -> Result<Vec<String>> {
        let (key, value) = self.any(keys)?;
        strings(key, &parsed(value))
    }

    /// The texts and labels of `choices` as the Hub has them, `{"text": [..], "label": [..]}`, or a plain list with the
    /// labels `A`, `B`, ..
    pub(crate) fn choices(&self) -> Result<(Vec<String>, Vec<String>)> {
        let (key, value) = self.any(&["choices"])?;
        let value = parsed(value);
        let Value::Object(map) = &value else {
            let texts = strings(key, &value)?;
            let labels = (0..texts.len()).map(letter).collect();
            return Ok((texts, labels));
        };
        let part = |name: &str| strings(&format!("choices.{name}"), map.get(name).unwrap_or(&Value::Null));
        let (texts, labels) = (part("text")?, part("label")?);
        if texts.len() != labels.len() {
            return Err(Error::request(format!("`choices` has {} texts, {} labels", texts.len(), labels.len())));
        }
        Ok((texts, labels))
    }

    /// The choices and labels of `{"key": {"choices": [..], "labels": [0, 1, ..]}}`.
    pub(crate) fn targets(&self, key: &str) -> Result<(Vec<String>, Vec<bool>)> {
        let (_, value) = self.any(&[key])?;
        let value = parsed(value);
        let choices = strings(&format!("{key}.choices"), &value["choices"])?;
        let labels = value["labels"].as_array().map(Vec::as_slice).unwrap_or_default();
        let labels: Vec<bool> = labels.iter().map(|label| label.as_i64() == Some(1)).collect();
        if choices.len() != labels.len() {
            return Err(Error::request(format!("`{key}` has {} choices, {} labels", choices.len(), labels.len())));
        }
        Ok((choices, labels))
    }

    /// The number of the right choice, counted from 0: a number, or one of `labels`.
    pub(crate) fn gold(&self, keys: &[&str], labels: &[String]) -> Result<usize> {
        let (key, value) = self.any(keys)?;
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return Err(Error::request(format!("`{key}` is neither a string nor a number"))),
        };
        let label = labels.iter().position(|label| *label == text);
        let found = match key {
            // ARC's: one of the labels, and nothing else.
            "answerKey" => {
                return label.ok_or_else(|| {
                    Error::request(format!("`{key}` is {text}: the choices are {}", labels.join(", ")))
                });
            }
            // Prepared rows: the number of the choice, also where the labels are numbers.
            "gold" => text.parse().ok().or(label),
            _ => label.or_else(|| text.parse().ok()),
        };
        found.filter(|&i| i < labels.len()).ok_or_else(|| {
            Error::request(format!(
                "`{key}` is {text}: the choices are {}, or 0 to {}",
                labels.join(", "),
                labels.len() - 1
            ))
        })
    }
}

/// The name of choice `i`: `A`, `B`, ..
pub(crate) fn letter(i: usize) -> String {
    u8::try_from(i).ok().filter(|&i| i < 26).map_or_else(|| i.to_string(), |i| char::from(b'A' + i).to_string())
}

/// A cell of a CSV file that holds JSON, read as such.
pub(super) fn parsed(value: &Value) -> Value {
    let text = value.as_str().filter(|t| t.trim_start().starts_with(['[', '{']));
    text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_else(|| value.clone())
}

pub(super) fn strings(key: &str, value: &Value) -> Result<Vec<String>> {
    let list = value.as_array().and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    list.ok_or_else(|| Error::request(format!("`{key}` is not a list of strings")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn both_forms_of_choices_and_both_of_the_right_one() {
        let hub = map(&json!({"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}));
        let (texts, labels) = Fields(&hub).choices().unwrap();
        assert_eq!(
            (texts.as_slice(), Fields(&hub).gold(&["answerKey"], &labels).unwrap()),
            (&["x".to_owned(), "y".into()][..], 1)
        );
        for gold in [json!(1), json!("1"), json!("B")] {
            let plain = map(&json!({"choices": "[\"x\",\"y\"]", "gold": gold}));
            let (_, labels) = Fields(&plain).choices().unwrap();
            assert_eq!(Fields(&plain).gold(&["answer", "gold"], &labels).unwrap(), 1);
        }
    }

    #[test]
    fn an_answer_key_is_a_label_and_gold_is_a_number() {
        let gold =
            |row: Value| Fields(&map(&row)).gold(&["answerKey", "gold"], &["1", "2", "3"].map(str::to_owned)).ok();
        assert_eq!(gold(json!({"gold": 1})), Some(1), "an index, though `1` is the first label");
        assert_eq!(gold(json!({"answerKey": "1"})), Some(0));
        let letters = ["A", "B", "C", "D"].map(str::to_owned);
        let row = map(&json!({"answerKey": "1"}));
        let error = Fields(&row).gold(&["answerKey"], &letters).unwrap_err().to_string();
        assert_eq!(error, "`answerKey` is 1: the choices are A, B, C, D");
    }

    #[test]
    fn errors_name_the_column() {
        let row = map(&json!({"choices": ["x", 1], "gold": 2}));
        let fields = Fields(&row);
        assert!(fields.text(&["a", "b"]).unwrap_err().to_string().contains("a or b"));
        assert!(fields.choices().unwrap_err().to_string().contains("`choices`"));
        let error = fields.gold(&["gold"], &["A".into(), "B".into()]).unwrap_err().to_string();
        assert_eq!(error, "`gold` is 2: the choices are A, B, or 0 to 1");
        assert!(fields.targets("gold").is_err() && fields.texts(&["gold"]).is_err());
    }
}
