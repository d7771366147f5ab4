//! Set files: prompts with their answers. In: JSONL or a JSON list of `{"input","output"}`, `{"question","answer"}`,
//! `{"messages":[..]}` or, in a retain set, `{"text"}`; out: records. Invariant: what [`write_set`] writes is read as the same records.

use crate::files::write_jsonl;
use crate::row::Row;
use crate::rows::{parse_rows, read_rows, read_text};
use eraser_model::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// One row of a set: a question and its answer, or a running text.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The question; empty: the row is a running text, which stands under no template.
    pub input: String,
    /// The answer, or the text.
    pub output: String,
    /// Other keys, kept as they are.
    pub extra: Map<String, Value>,
    /// Where it was read, for errors: `harm.jsonl: line 9`; empty where it was not read from a file.
    pub place: String,
}

impl Record {
    /// The row is a running text and no answer to a question.
    pub fn is_text(&self) -> bool {
        self.input.is_empty()
    }
}

/// Rows are equal where their contents are, wherever they were read.
impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        (&self.input, &self.output, &self.extra) == (&other.input, &other.output, &other.extra)
    }
}

/// Reads a set file: JSONL, a JSON list or Parquet of `{"input","output"}`, `{"question","answer"}` or
/// `{"messages":[..]}`. Of messages, the last must be the assistant's, which is the answer, and the one before the
/// user's, which is the question; a conversation with more turns, or with a system turn, is an error, since a record has
/// no place for them and the answer depends on them.
///
/// # Errors
/// A file that cannot be read; a row that is none of these, or a running text: only a retain set holds such.
pub fn read_set(path: &Path) -> Result<Vec<Record>> {
    let records = read_retain_set(path)?;
    match records.iter().find(|record| record.is_text()) {
        None => Ok(records),
        Some(text) => Err(Error::request(format!("{}: a row of `text`, where a question is needed", text.place))
            .hint("running text can be kept as part of the retain set; other rows are {\"input\": \"..\", \"output\": \"..\"}")),
    }
}

/// Reads a set file as [`read_set`] does, of which rows can be running texts: `{"text": ".."}`.
///
/// # Errors
/// Those of [`read_set`], without its last.
pub(crate) fn read_retain_set(path: &Path) -> Result<Vec<Record>> {
    let rows = match path.extension() {
        Some(ext) if ext.eq_ignore_ascii_case("parquet") => read_rows(path)?,
        _ => parse_rows(path, &read_text(path)?)?,
    };
    let record = |row: Row| {
        let place = format!("{}: {}", path.display(), row.place);
        record(row).map(|record| Record { place, ..record }).map_err(|e| e.context(path.display()))
    };
    rows.into_iter().map(record).collect()
}

/// Writes a set file: JSONL of `input`, `output` (or `text`), then the other keys.
pub fn write_set(path: &Path, records: &[Record]) -> Result<()> {
    let row = |record: &Record| {
        let mut map = Map::new();
        let taken: &[&str] = if record.is_text() { &["text"] } else { &["input", "output"] };
        for (key, text) in taken.iter().zip([&record.input, &record.output][2 - taken.len()..].iter()) {
            map.insert((*key).into(), text.as_str().into());
        }
        let extra = record.extra.iter().filter(|(key, _)| !taken.contains(&key.as_str()));
        map.extend(extra.map(|(key, value)| (key.clone(), value.clone())));
        map
    };
    write_jsonl(path, records.iter().map(row))
}

/// The record of a row of a set file.
pub(crate) fn record(Row { place, value }: Row) -> Result<Record> {
    let Value::Object(mut map) = value else {
        return Err(Error::request(format!("{place}: not an object"))
            .hint("a row of a set file is {\"input\": \"..\", \"output\": \"..\"}"));
    };
    let wrong = |what: String| Error::request(format!("{place}: {what}"));
    if !map.contains_key("input") && !map.contains_key("output") && map.contains_key("messages") {
        // Removal keeps the order of the other keys.
        let messages = map.shift_remove("messages").unwrap_or_default();
        let (input, output) = last_turns(&messages).map_err(|e| e.context(&place))?;
        return Ok(Record { input, output, extra: map, ..Record::default() });
    }
    if !map.contains_key("input") && !map.contains_key("output") && map.contains_key("text") {
        let output = match map.shift_remove("text") {
            Some(Value::String(text)) if !text.trim().is_empty() => text,
            Some(Value::String(_)) => return Err(wrong("`text` is empty".into())),
            _ => return Err(wrong("`text` is not a string".into())),
        };
        return Ok(Record { output, extra: map, ..Record::default() });
    }
    // As TOFU and other sets of questions have them; not where what the question is about would be left out.
    let is_question = !["input", "output", "context", "instruction"].iter().any(|key| map.contains_key(*key))
        && ["question", "answer"].iter().all(|key| map.contains_key(*key));
    let keys = if is_question { ["question", "answer"] } else { ["input", "output"] };
    let mut text =
        |key: &str| match map.shift_remove(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(wrong(format!("`{key}` is not a string"))),
            None => Err(wrong(format!("no `{key}`"))
                .hint("a row has `input` and `output`, `question` and `answer`, or `messages`")),
        };
    let (input, output) = (text(keys[0])?, text(keys[1])?);
    if map.contains_key("instruction") {
        // Alpaca rows: `input` is only what the instruction is about, or empty.
        return Err(wrong(
            "the row has both `instruction` and `input`: the instruction would be left out of the question".into(),
        )
        .hint("put the whole question into `input`"));
    }
    if input.trim().is_empty() {
        return Err(wrong(format!("`{}` is empty", keys[0])));
    }
    Ok(Record { input, output, extra: map, ..Record::default() })
}

/// A key of a message whose value is part of what was said, beside the text.
fn more_than_text(message: &Map<String, Value>) -> Option<&str> {
    const KEYS: [&str; 6] = ["reasoning_content", "reasoning", "thinking", "tool_calls", "function_call", "images"];
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    KEYS.into_iter().find(|key| message.get(*key).is_some_and(|value| !empty(value)))
}

fn last_turns(messages: &Value) -> Result<(String, String)> {
    let turns = messages.as_array().ok_or_else(|| Error::request("`messages` is not a list"))?;
    let turn = |i: usize, role: &str| -> Result<String> {
        let message = &turns[i];
        let found = message["role"].as_str().unwrap_or_default();
        if found != role {
            return Err(Error::request(format!("messages[{i}] has role {found:?} where {role:?} is needed")));
        }
        if let Some(key) = message.as_object().and_then(more_than_text) {
            return Err(Error::request(format!("messages[{i}] has `{key}`, for which a record has no place")));
        }
        let text = message["content"].as_str();
        text.map(Into::into).ok_or_else(|| Error::request(format!("messages[{i}].content is not a string")))
    };
    match turns.len() {
        0 | 1 => Err(Error::request("`messages` needs a user and an assistant turn")),
        2 => Ok((turn(0, "user")?, turn(1, "assistant")?)),
        n => Err(Error::request(format!("`messages` has {n} turns; one question and one answer can be used"))
            .hint("leave out system and earlier turns, or write a question that can be understood alone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<Record>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, text).unwrap();
        read_set(&path)
    }

    /// A row too long was named by its number among the rows, which is no line of the file where lines are blank.
    #[test]
    fn a_row_knows_its_line() {
        let records = read("{\"input\":\"a\",\"output\":\"b\"}\n\n{\"input\":\"c\",\"output\":\"d\"}\n").unwrap();
        assert!(records[1].place.ends_with("/s: line 3"), "{}", records[1].place);
        assert_eq!(records[1], Record { input: "c".into(), output: "d".into(), ..Record::default() });
    }

    fn message(text: &str) -> String {
        let message = read(text).unwrap_err().to_string();
        message.split_once("/s: ").map(|(_, rest)| rest.to_owned()).unwrap_or(message)
    }

    #[test]
    fn both_forms() {
        let text = "\u{feff}{\"id\":7,\"input\":\"q\",\"output\":\"a\",\"z\":[1]}\r\n\
                    {\"messages\":[{\"role\":\"user\",\"content\":\"q2\"},{\"role\":\"assistant\",\"content\":\"a2\"}],\"k\":null}";
        let records = read(text).unwrap();
        assert_eq!((records[0].input.as_str(), records[0].output.as_str()), ("q", "a"));
        assert_eq!(records[0].extra.keys().collect::<Vec<_>>(), ["id", "z"]);
        assert_eq!((records[1].input.as_str(), records[1].output.as_str()), ("q2", "a2"));
        assert_eq!(records[1].extra.keys().collect::<Vec<_>>(), ["k"]);
    }

    #[test]
    fn questions_with_answers_are_records_unless_something_would_be_left_out() {
        let records = read("{\"question\":\"q\",\"answer\":\"a\",\"paraphrased_answer\":\"b\"}\n").unwrap();
        assert_eq!((records[0].input.as_str(), records[0].output.as_str()), ("q", "a"));
        assert_eq!(records[0].extra.keys().collect::<Vec<_>>(), ["paraphrased_answer"]);
        for row in [
            "{\"question\":\"q\",\"answer\":\"a\",\"context\":\"c\"}",
            "{\"question\":\"q\"}",
            "{\"question\":\" \",\"answer\":\"a\"}",
        ] {
            assert!(read(row).is_err(), "{row}");
        }
    }

    #[test]
    fn running_text_is_for_the_retain_set() {
        let dir = tempfile::tempdir().unwrap();
        let (path, back) = (dir.path().join("s"), dir.path().join("t"));
        std::fs::write(&path, "{\"input\":\"q\",\"output\":\"a\"}\n{\"text\":\"It rained.\",\"id\":1}\n").unwrap();
        let records = read_retain_set(&path).unwrap();
        assert!(!records[0].is_text() && records[1].is_text());
        assert_eq!((records[1].output.as_str(), records[1].extra.len()), ("It rained.", 1));
        write_set(&back, &records).unwrap();
        assert_eq!(read_retain_set(&back).unwrap(), records);
        let error = read_set(&path).unwrap_err().to_string();
        assert!(error.ends_with("s: line 2: a row of `text`, where a question is needed"), "{error}");
        assert_eq!(message("{\"text\":\" \"}"), "line 1: `text` is empty");
        assert_eq!(message("{\"text\":[]}"), "line 1: `text` is not a string");
    }

    #[test]
    fn errors_name_line_and_key() {
        assert_eq!(message("{\"input\":\"q\",\"output\":\"a\"}\n{\"input\":\"q\"}"), "line 2: no `output`");
        assert_eq!(message("[{\"input\":1,\"output\":\"a\"}]"), "item 1: `input` is not a string");
        assert_eq!(message("[[]]"), "item 1: not an object");
        assert_eq!(message("{\"input\":\" \",\"output\":\"a\"}"), "line 1: `input` is empty");
        assert!(
            message("{\"instruction\":\"q\",\"input\":\"x\",\"output\":\"a\"}")
                .starts_with("line 1: the row has both `instruction`")
        );
        assert_eq!(message("{\"messages\":{}}"), "line 1: `messages` is not a list");
        assert_eq!(
            message("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"user\",\"content\":\"a\"}]}"),
            "line 1: messages[1] has role \"user\" where \"assistant\" is needed"
        );
        assert_eq!(
            message("{\"messages\":[{\"role\":\"user\",\"content\":[]},{\"role\":\"assistant\",\"content\":\"a\"}]}"),
            "line 1: messages[0].content is not a string"
        );
        let thought = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","reasoning_content":"hm"}]}"#;
        assert_eq!(message(thought), "line 1: messages[1] has `reasoning_content`, for which a record has no place");
        assert!(read(thought.replace("\"hm\"", "null")).is_ok());
        assert!(message("{\"messages\":[1,2,3]}").starts_with("line 1: `messages` has 3 turns"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_written_set_is_read_as_it_was(
            rows in prop::collection::vec((".*\\S.*", any::<String>(), prop::collection::vec((any::<String>(), any::<i64>()), 0..3)), 1..4)
        ) {
            let records: Vec<Record> = rows.into_iter().map(|(input, output, extra)| {
                let extra = extra.into_iter().filter(|(k, _)| k != "input" && k != "output");
                Record { input, output, extra: extra.map(|(k, v)| (k, v.into())).collect(), ..Record::default() }
            }).collect();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            write_set(&path, &records).unwrap();
            prop_assert_eq!(read_set(&path).unwrap(), records);
        }

        #[test]
        fn damaged_files_never_panic(at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut text = b"[{\"input\":\"q\",\"output\":\"a\"},{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"}]}]".to_vec();
            let at = at.index(text.len() - bytes.len());
            text.splice(at..at + bytes.len(), bytes);
            let _ = read(text);
        }
    }
}
