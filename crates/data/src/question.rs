//! Question files. In: CSV, JSONL, a JSON list, or plain text with one question a line; out: questions with stable ids.
//! Invariant: ids are unique within a file, and depend on nothing but the rows up to their own.

use crate::column::{asked, find_column, known, no_column};
use crate::files::hex;
use crate::parquet;
use crate::row::Row;
use crate::rows::{parse_csv, parse_rows, read_text};
use eraser_model::{Error, Result};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// The keys that may hold the text, in order of preference.
const TEXT_KEYS: [&str; 8] =
    ["goal", "question", "prompt", "instruction", "input", "text", "behavior", "forbidden_prompt"];

/// The keys whose strings go into [`Question::facts`].
const FACT_KEYS: [&str; 3] = ["facts", "expect", "answer"];

/// A question to ask, with what a judge needs to know about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// Stable id: the file's `id`, else the hash of the text.
    pub id: String,
    /// The text.
    pub text: String,
    /// Strings whose presence in an answer is a leak (`facts`), or that a right answer holds (`expect`, `answer`); may
    /// be empty.
    pub facts: Vec<String>,
    /// Other keys, kept as they are.
    pub extra: Map<String, Value>,
    /// Where it was read in its file, for errors: `line 9`.
    pub place: String,
    /// Column (or key) that the text was read from; empty where the file has none.
    pub column: String,
}

impl Question {
    /// The opening of an answer: the question's own, from the column `target` (as `AdvBench` has it), else `default`.
    pub fn opening<'a>(&'a self, default: &'a str) -> &'a str {
        let key = find_column(&self.extra, "target").ok().flatten();
        let own = key.and_then(|key| self.extra[key].as_str()).map(str::trim);
        own.filter(|own| !own.is_empty()).unwrap_or(default)
    }
}

/// Reads questions: CSV or TSV (by the file's name), JSONL or a JSON list of objects or strings, or plain text, one a
/// line; or Parquet. The text is in `column`, or in the first there is of goal, question, prompt, instruction (with the
/// input or context that it is about), input, text, behavior (`HarmBench`, with its `ContextString`),
/// `forbidden_prompt` (`StrongREJECT`); names are matched as [`find_column`] does.
pub fn read_questions(path: &Path, column: Option<&str>) -> Result<Vec<Question>> {
    if path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("parquet")) {
        return questions(parquet::read(path)?, column).map_err(|e| e.context(path.display()));
    }
    let text = read_text(path)?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let json = matches!(extension.as_str(), "json" | "jsonl" | "ndjson") || text.trim_start().starts_with(['[', '{']);
    let questions = match extension.as_str() {
        "csv" => parse_csv(&text, b',').and_then(|rows| questions(rows, column)),
        "tsv" => parse_csv(&text, b'\t').and_then(|rows| questions(rows, column)),
        _ if json => {
            return parse_rows(path, &text)
                .and_then(|rows| questions(rows, column).map_err(|e| e.context(path.display())));
        }
        _ if column.is_some() => Err(Error::request("a plain text file has no columns")),
        _ => {
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            let row = |(i, line): (usize, &str)| Row { place: format!("line {}", i + 1), value: line.trim().into() };
            questions(lines.map(row).collect(), None)
        }
    };
    questions.map_err(|e| e.context(path.display()))
}

fn questions(rows: Vec<Row>, column: Option<&str>) -> Result<Vec<Question>> {
    if rows.is_empty() {
        return Err(Error::request("no questions"));
    }
    told(&rows, column)?;
    // How often an id was used.
    let mut used: HashMap<String, usize> = HashMap::new();
    let mut questions = Vec::with_capacity(rows.len());
    for row in rows {
        let place = row.place.clone();
        let (given, mut question) = question(row, column).map_err(|e| e.context(&place))?;
        let count = used.entry(question.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            if given {
                return Err(Error::request(format!("{place}: id {:?} appears twice", question.id)));
            }
            question.id = format!("{}-{count}", question.id);
        }
        questions.push(question);
    }
    Ok(questions)
}

/// Logs which column is read, where its name is not exactly the one that was asked for.
fn told(rows: &[Row], column: Option<&str>) -> Result<()> {
    let Some(Value::Object(first)) = rows.first().map(|row| &row.value) else { return Ok(()) };
    let wanted = column.map_or_else(|| TEXT_KEYS.to_vec(), |name| vec![name]);
    for name in wanted {
        if let Some(key) = find_column(first, name)? {
            if key != name {
                tracing::info!("questions are read from the column {key:?}");
            }
            break;
        }
    }
    Ok(())
}

/// The question of a row, and whether its id was given.
fn question(row: Row, column: Option<&str>) -> Result<(bool, Question)> {
    let mut named = true;
    let mut extra = match row.value {
        Value::Object(map) => map,
        Value::String(text) if column.is_none() => {
            named = false;
            Map::from_iter([("text".to_owned(), text.into())])
        }
        _ => return Err(Error::request("neither an object nor a string")),
    };
    let key = if let Some(name) = column {
        find_column(&extra, name)?
    } else {
        let found = TEXT_KEYS.iter().map(|name| find_column(&extra, name)).find(|found| !matches!(found, Ok(None)));
        found.transpose()?.flatten()
    };
    let Some(key) = key.map(str::to_owned) else {
        let there: Vec<&str> = extra.keys().map(String::as_str).collect();
        return Err(match column {
            Some(name) => no_column(Error::request(format!("no column {name}")), name, &there),
            None => Error::request(format!("no column {}", TEXT_KEYS.join(", "))).hint(known(&there)),
        });
    };
    let text = match extra.shift_remove(&key) {
        Some(Value::String(text)) if !text.trim().is_empty() => text,
        Some(Value::String(_)) => return Err(Error::request(format!("`{key}` is empty"))),
        _ => return Err(Error::request(format!("`{key}` is not a string"))),
    };
    // A column that was named is what is meant, without others.
    let (text, about) = if column.is_none() { asked(&key, text, &mut extra)? } else { (text, None) };
    let mut facts = Vec::new();
    for key in FACT_KEYS {
        match extra.get(key).map(strings) {
            Some(Some(found)) => {
                facts.extend(found);
                extra.shift_remove(key);
            }
            // An answer may be a number or an index, which cannot be looked for in a text.
            Some(None) if key != "answer" => {
                return Err(Error::request(format!("`{key}` is neither a string nor a list of strings")));
            }
            _ => {}
        }
    }
    let id = match extra.get("id") {
        Some(Value::String(id)) if !id.trim().is_empty() => Some(id.clone()),
        Some(Value::Number(id)) => Some(id.to_string()),
        None | Some(Value::Null | Value::String(_)) => None,
        Some(_) => return Err(Error::request("`id` is neither a string nor a number")),
    };
    extra.shift_remove("id");
    let given = id.is_some();
    let id = id.unwrap_or_else(|| hex(&Sha256::digest(text.as_bytes())[..8]));
    let column = match about {
        Some(about) => format!("{key}, {about}"),
        None if named => key,
        None => String::new(),
    };
    Ok((given, Question { id, text, facts, extra, place: row.place, column }))
}

/// The columns that questions were read from, in the order in which they come.
pub fn columns(questions: &[Question]) -> Vec<&str> {
    let mut columns: Vec<&str> = Vec::new();
    for question in questions.iter().filter(|q| !q.column.is_empty()) {
        if !columns.contains(&question.column.as_str()) {
            columns.push(&question.column);
        }
    }
    columns
}

/// A string, or a list of strings; empty ones left out.
fn strings(value: &Value) -> Option<Vec<String>> {
    let all: Vec<&str> = match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    Some(all.into_iter().filter(|s| !s.trim().is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_are_found_whatever_their_case_and_the_space_around_them() {
        let text = |header: &str, column: Option<&str>| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("q.csv");
            std::fs::write(&path, format!("{header}\na,b\n")).unwrap();
            read_questions(&path, column).map(|questions| questions[0].text.clone()).map_err(|e| e.to_string())
        };
        // JailbreakBench, HarmBench, StrongREJECT, AdvBench.
        for (header, column) in [
            ("Goal,Target", None),
            ("Goal,Behavior", None),
            ("Behavior,BehaviorID", None),
            ("forbidden_prompt,category", None),
            ("goal,target", None),
            ("Goal,Target", Some("goal")),
            (" goal ,target", Some("goal")),
            ("GOAL,goals", Some("Goal")),
        ] {
            assert_eq!(text(header, column).as_deref(), Ok("a"), "{header} {column:?}");
        }
        assert_eq!(text("goal,Goal", Some("Goal")).as_deref(), Ok("b"), "by the letter");
        assert!(text("GOAL,Goal", Some("goal")).unwrap_err().contains("can mean both"));
        assert!(text("Goal,Target", Some("prompt")).unwrap_err().contains("no column prompt"));
        let row = serde_json::from_str(r#"{"goal":"a","target":"b"}"#).unwrap();
        let error = question(Row { place: String::new(), value: Value::Object(row) }, Some("gaol")).unwrap_err();
        assert_eq!(error.hints(), ["did you mean `goal`?", "there are: goal, target"]);
    }

    #[test]
    fn the_columns_that_were_read_are_told() {
        let of = |name: &str, text: &str, column: Option<&str>| -> Vec<String> {
            columns(&read(name, text, column).unwrap()).into_iter().map(str::to_owned).collect()
        };
        assert_eq!(of("a.csv", " Goal ,b\nx,y\n", None), [" Goal "], "as it is in the file");
        assert_eq!(of("a.csv", "Goal,b\nx,y\nz,y\n", Some("goal")), ["Goal"]);
        assert_eq!(of("a.jsonl", "{\"question\":\"x\"}\n{\"prompt\":\"y\"}\n\"z\"", None), ["question", "prompt"]);
        assert!(of("a.txt", "x\ny\n", None).is_empty());
    }

    fn read(name: &str, text: impl AsRef<[u8]>, column: Option<&str>) -> Result<Vec<Question>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_questions(&path, column)
    }

    fn texts(name: &str, text: &str, column: Option<&str>) -> Vec<String> {
        read(name, text, column).unwrap().into_iter().map(|q| q.text).collect()
    }

    fn message(name: &str, text: &str, column: Option<&str>) -> String {
        let message = read(name, text, column).unwrap_err().to_string();
        message.split_once(&format!("/{name}: ")).map(|(_, rest)| rest.to_owned()).unwrap_or(message)
    }

    #[test]
    fn csv_columns() {
        let text = "\u{feff}goal,target\r\n\"Where, then?\",\"Sure, \"\"here\"\"\"\r\n\"two\nlines\",b\r\n";
        let questions = read("a.csv", text, None).unwrap();
        assert_eq!(questions[0].text, "Where, then?");
        assert_eq!(questions[0].extra["target"], "Sure, \"here\"");
        assert_eq!(questions[1].text, "two\nlines");
        assert_eq!(texts("a.csv", text, Some("target")), ["Sure, \"here\"", "b"]);
        assert_eq!(read("a.csv", "id,prompt,label\nv2-1,why?,safe\n", None).unwrap()[0].id, "v2-1");
        assert_eq!(texts("a.tsv", "Prompt\tx\nwhy\ty\n", None), ["why"]);
    }

    #[test]
    fn json_forms() {
        let text = "{\"id\":3,\"question\":\"q\",\"facts\":[\"f\",\"g\"],\"k\":1}\n\"plain\"\n{\"text\":\"t\",\"expect\":\"e\",\"answer\":2}";
        let questions = read("a.jsonl", text, None).unwrap();
        assert_eq!((questions[0].id.as_str(), questions[0].facts.len()), ("3", 2));
        assert_eq!(questions[0].extra, Map::from_iter([("k".to_owned(), 1.into())]));
        assert_eq!(questions[1].text, "plain");
        assert_eq!((questions[2].facts.as_slice(), &questions[2].extra["answer"]), (&["e".to_owned()][..], &2.into()));
        assert_eq!(texts("a.json", "[\"one\", {\"goal\":\"two\",\"text\":\"x\"}]", None), ["one", "two"]);
        assert_eq!(texts("a", "[{\"x\":\"one\",\"text\":\"y\"}]", Some("x")), ["one"]);
    }

    /// Rows of Alpaca gave their `input` alone, those of Dolly and `HarmBench` the question without what it is about.
    #[test]
    fn a_question_is_read_with_what_it_is_about() {
        let alpaca =
            r#"[{"instruction":"Sort these.","input":"b, a","output":"a, b"},{"instruction":"Hi","input":""}]"#;
        assert_eq!(texts("a.json", alpaca, None), ["Sort these.\n\nb, a", "Hi"]);
        let told = read("a.json", alpaca, None).unwrap();
        assert_eq!(columns(&told), ["instruction, input", "instruction"]);
        let dolly = r#"{"instruction":"Who?","context":"It was Bo.","response":"Bo"}"#;
        assert_eq!(texts("d.jsonl", dolly, None), ["Who?\n\nIt was Bo."]);
        let harmbench = "Behavior,ContextString,BehaviorID\nBake,,a\nSum it up,The tide.,b\n";
        assert_eq!(texts("h.csv", harmbench, None), ["Bake", "The tide.\n\n---\n\nSum it up"]);
        assert_eq!(texts("h.csv", harmbench, Some("behavior")), ["Bake", "Sum it up"], "the column that is named");
        assert_eq!(
            message("d.jsonl", r#"{"instruction":"Who?","context":[1]}"#, None),
            "line 1: `context` is not a string"
        );
    }

    #[test]
    fn plain_text_and_ids() {
        let questions = read("a.txt", "one\r\n\r\n two \none\n", None).unwrap();
        assert_eq!(questions.iter().map(|q| q.text.as_str()).collect::<Vec<_>>(), ["one", "two", "one"]);
        assert_eq!(questions[0].id, "7692c3ad3540bb80");
        assert_eq!(questions[2].id, "7692c3ad3540bb80-2");
    }

    #[test]
    fn errors_name_line_and_key() {
        assert_eq!(message("a.csv", "goal\nx\n\"\"\n", None), "line 3: `goal` is empty");
        assert_eq!(
            message("a.csv", "a,b\n1,2\n", None),
            "line 2: no column goal, question, prompt, instruction, input, text, behavior, forbidden_prompt"
        );
        assert_eq!(message("a.csv", "goal,b\n1,2\n", Some("c")), "line 2: no column c");
        assert_eq!(message("a.csv", "a,a\n1,2\n", None), "column \"a\" appears twice");
        assert!(message("a.csv", "goal,b\n1,2\n3\n", None).contains("line: 3"));
        assert_eq!(message("a.csv", "goal\n", None), "no questions");
        assert_eq!(message("a.txt", "\n\n", None), "no questions");
        assert_eq!(message("a.txt", "x", Some("goal")), "a plain text file has no columns");
        assert_eq!(message("a.jsonl", "{\"goal\":1}", None), "line 1: `goal` is not a string");
        assert_eq!(
            message("a.jsonl", "{\"goal\":\"q\",\"facts\":[1]}", None),
            "line 1: `facts` is neither a string nor a list of strings"
        );
        assert_eq!(
            message("a.jsonl", "{\"goal\":\"q\",\"id\":1}\n{\"goal\":\"r\",\"id\":1}", None),
            "line 2: id \"1\" appears twice"
        );
        assert_eq!(
            message("a.jsonl", "{\"goal\":\"q\",\"id\":[]}", None),
            "line 1: `id` is neither a string nor a number"
        );
        assert_eq!(message("a.jsonl", "[1]", None), "item 1: neither an object nor a string");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn fields_come_through_csv(fields in prop::collection::vec(".*\\S.*", 1..5)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["prompt", "n"]).unwrap();
            for (i, field) in fields.iter().enumerate() {
                writer.write_record([field, &i.to_string()]).unwrap();
            }
            let questions = read("a.csv", writer.into_inner().unwrap(), None).unwrap();
            prop_assert_eq!(questions.into_iter().map(|q| q.text).collect::<Vec<_>>(), fields);
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), kind in 0usize..4) {
            let _ = read(["a.csv", "a.json", "a.jsonl", "a"][kind], bytes, None);
        }

        #[test]
        fn ids_are_unique(lines in prop::collection::vec("[ab]{1,2}", 1..20)) {
            let questions = read("a", lines.join("\n"), None).unwrap();
            let ids: std::collections::HashSet<_> = questions.iter().map(|q| &q.id).collect();
            prop_assert_eq!(ids.len(), lines.len());
        }
    }
}
