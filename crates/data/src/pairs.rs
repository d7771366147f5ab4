//! Questions with or without answers, in the forms that public files have. In: CSV, TSV, JSON, JSONL, Parquet, or
//! plain text with one question a line; out: pairs. Invariant: what is asked is whole: what an instruction is about
//! is part of it.

use crate::column::{asked, find_column};
use crate::record::record;
use crate::row::Row;
use crate::rows::{parse_rows, read_rows, read_text};
use eraser_model::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The keys that may hold what is asked, in order of preference.
const QUESTION_KEYS: [&str; 8] =
    ["instruction", "goal", "question", "prompt", "input", "text", "behavior", "forbidden_prompt"];
/// The keys that may hold the answer. `target` is none of them: it is the beginning of a harmful answer (`AdvBench`).
const ANSWER_KEYS: [&str; 6] = ["output", "response", "answer", "completion", "safe_response", "refusal"];

/// A question, and an answer where the file has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// What is asked.
    pub input: String,
    /// The answer; None where there is none or it is empty.
    pub output: Option<String>,
    /// Other keys, kept as they are.
    pub extra: Map<String, Value>,
}

/// Reads pairs: rows of `messages`, or with what is asked in the first column there is of instruction (with input or
/// context), goal, question, prompt, input, text, behavior, `forbidden_prompt`, and the answer in the first of
/// output, response, answer, completion, `safe_response`, refusal; or plain text, one question a line.
///
/// # Errors
/// A file that cannot be read or holds no row; a row of which it is not clear what is asked.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    rows(path)?.into_iter().map(|row| pair(row).map_err(|e| e.context(path.display()))).collect()
}

fn rows(path: &Path) -> Result<Vec<Row>> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if matches!(extension.as_str(), "csv" | "tsv" | "parquet" | "json" | "jsonl" | "ndjson") {
        return read_rows(path);
    }
    let text = read_text(path)?;
    if text.trim_start().starts_with(['[', '{']) {
        return parse_rows(path, &text);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let rows: Vec<Row> =
        lines.map(|(i, line)| Row { place: format!("line {}", i + 1), value: line.trim().into() }).collect();
    if rows.is_empty() { Err(Error::request(format!("{}: no rows", path.display()))) } else { Ok(rows) }
}

fn pair(row: Row) -> Result<Pair> {
    let place = row.place.clone();
    let mut map = match row.value {
        Value::Object(map) if map.contains_key("messages") => {
            let record = record(Row { place: row.place, value: Value::Object(map) })?;
            return Ok(Pair { input: record.input, output: some(record.output), extra: record.extra });
        }
        Value::Object(map) => map,
        Value::String(text) => Map::from_iter([("text".to_owned(), text.into())]),
        _ => return Err(Error::request(format!("{place}: neither an object nor a string"))),
    };
    let there = map.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let found = take(&mut map, &QUESTION_KEYS).map_err(|e| e.context(&place))?;
    let Some((key, input)) = found.filter(|(_, text)| !text.trim().is_empty()) else {
        let wanted = QUESTION_KEYS.join(", ");
        return Err(
            Error::request(format!("{place}: no text in any column {wanted}")).hint(format!("there are: {there}"))
        );
    };
    let (input, _) = asked(key, input, &mut map).map_err(|e| e.context(&place))?;
    let answer = take(&mut map, &ANSWER_KEYS).map_err(|e| e.context(&place))?;
    Ok(Pair { input, output: answer.and_then(|(_, text)| some(text)), extra: map })
}

/// Takes the first of `keys` that `map` has.
fn take(map: &mut Map<String, Value>, keys: &[&'static str]) -> Result<Option<(&'static str, String)>> {
    for &key in keys {
        let Some(found) = find_column(map, key)?.map(str::to_owned) else { continue };
        return match map.shift_remove(&found) {
            Some(Value::String(text)) => Ok(Some((key, text))),
            Some(Value::Null) | None => Ok(Some((key, String::new()))),
            Some(_) => Err(Error::request(format!("`{found}` is not a string"))),
        };
    }
    Ok(None)
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(name: &str, text: impl AsRef<[u8]>) -> Result<Vec<Pair>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_pairs(&path)
    }

    fn first(name: &str, text: &str) -> (String, Option<String>) {
        let pair = read(name, text).unwrap().remove(0);
        (pair.input, pair.output)
    }

    fn told(input: &str, output: &str) -> (String, Option<String>) {
        (input.to_owned(), Some(output.to_owned()))
    }

    #[test]
    fn the_forms_of_public_files_are_read() {
        let alpaca = r#"[{"instruction":"Sort these.","input":"b, a","output":"a, b"},{"instruction":"Hi","input":"","output":"Ho"}]"#;
        assert_eq!(first("a.json", alpaca), told("Sort these.\n\nb, a", "a, b"));
        assert_eq!(read("a.json", alpaca).unwrap()[1].input, "Hi");
        let dolly = r#"{"instruction":"Who?","context":"It was Bo.","response":"Bo","category":"qa"}"#;
        assert_eq!(first("d.jsonl", dolly), told("Who?\n\nIt was Bo.", "Bo"));
        assert_eq!(read("d.jsonl", dolly).unwrap()[0].extra["category"], "qa");
        assert_eq!(first("p.jsonl", r#"{"prompt":"Who?","response":"Bo"}"#), told("Who?", "Bo"));
        assert_eq!(first("s.jsonl", r#"{"input":"Who?","output":"Bo"}"#), told("Who?", "Bo"));
        let turns = r#"{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Bo"}]}"#;
        assert_eq!(first("m.jsonl", turns), told("Who?", "Bo"));
        assert_eq!(first("b.csv", "Behavior,Safe_Response\nDo it,\"Sorry, no.\"\n"), told("Do it", "Sorry, no."));
        assert_eq!(first("q.tsv", "Question\tAnswer\nWho?\tBo\n"), told("Who?", "Bo"));
    }

    #[test]
    fn a_question_may_have_no_answer() {
        for (name, text) in [
            ("a.csv", "goal,target\nDo it,\"Sure, here\"\n"),
            ("a.txt", "\n Do it \n"),
            ("a.json", "[\"Do it\"]"),
            ("a", "{\"question\":\"Do it\",\"answer\":null}"),
            ("a.jsonl", "{\"question\":\"Do it\",\"answer\":\" \"}"),
        ] {
            assert_eq!(first(name, text), ("Do it".to_owned(), None), "{name}");
        }
    }

    #[test]
    fn errors_name_the_row_and_the_key() {
        let message = |name: &str, text: &str| {
            let message = read(name, text).unwrap_err().to_string();
            message.split_once(&format!("/{name}: ")).map(|(_, rest)| rest.to_owned()).unwrap_or(message)
        };
        assert!(message("a.csv", "a,b\n1,2\n").starts_with("line 2: no text in any column instruction, goal"));
        assert!(message("a.jsonl", "{\"prompt\":\"\"}").starts_with("line 1: no text in any column"));
        assert_eq!(message("a.jsonl", "{\"prompt\":1}"), "line 1: `prompt` is not a string");
        assert_eq!(message("a.jsonl", "{\"prompt\":\"q\",\"answer\":[\"a\"]}"), "line 1: `answer` is not a string");
        assert_eq!(message("a.json", "[1]"), "item 1: neither an object nor a string");
        assert_eq!(message("a.txt", "\n"), "no rows");
        assert!(message("a.jsonl", "{\"messages\":[]}").starts_with("line 1: `messages` needs"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_files_never_panic(at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..4),
                                     kind in 0usize..3) {
            let mut text = b"[{\"instruction\":\"q\",\"input\":\"x\",\"output\":\"a\"},{\"prompt\":\"q\",\"response\":\"a\"}]".to_vec();
            let at = at.index(text.len() - bytes.len());
            text.splice(at..at + bytes.len(), bytes);
            let _ = read(["a.json", "a.csv", "a.txt"][kind], text);
        }
    }
}
