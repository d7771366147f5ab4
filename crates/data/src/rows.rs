//! Text files of JSON rows. In: JSONL, or one JSON list, with or without byte-order mark, with any line ends; out: the
//! rows, each with its place in the file. Invariant: nothing is dropped silently: an object with the same key twice is
//! an error.

use crate::parquet;
use crate::row::Row;
use eraser_model::error::PathContext;
use eraser_model::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;
use std::path::Path;

/// The rows of a file, at least one: by its name CSV or TSV with a header, or Parquet where the build has it; else
/// JSONL or one JSON list.
///
/// # Errors
/// A file that cannot be read, is not of its format, or holds no row.
pub fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let rows = match extension.as_str() {
        "parquet" => parquet::read(path)?,
        "csv" => parse_csv(&read_text(path)?, b',').map_err(|e| e.context(path.display()))?,
        "tsv" => parse_csv(&read_text(path)?, b'\t').map_err(|e| e.context(path.display()))?,
        _ => return parse_rows(path, &read_text(path)?),
    };
    if rows.is_empty() { Err(Error::request(format!("{}: no rows", path.display()))) } else { Ok(rows) }
}

/// The content of a text file in UTF-8, without byte-order mark.
pub fn read_text(path: &Path) -> Result<String> {
    let mut bytes = std::fs::read(path).at(path)?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..valid].split(|&b| b == b'\n').count();
        Error::request(format!("{}: line {line}: not UTF-8", path.display())).hint("save the file as UTF-8")
    })
}

/// The rows of `text`; at least one. `path` is for messages.
pub(crate) fn parse_rows(path: &Path, text: &str) -> Result<Vec<Row>> {
    let rows = if text.trim_start().starts_with('[') { parse_list(path, text)? } else { parse_lines(path, text)? };
    if rows.is_empty() {
        return Err(Error::request(format!("{}: no rows", path.display())));
    }
    Ok(rows)
}

/// An error where a quote of a CSV text is opened and never closed: every row after it would be part of one field.
///
/// # Errors
/// As described; it names the line.
pub fn check_quotes(text: &str, delimiter: u8) -> Result<()> {
    let (mut line, mut opened, mut begins) = (1, None, true);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        line += usize::from(byte == b'\n');
        match opened {
            // Two quotes stand for one.
            Some(_) if byte == b'"' && bytes.next_if_eq(&b'"').is_none() => opened = None,
            Some(_) => {}
            None if byte == b'"' && begins => opened = Some(line),
            None => begins = byte == delimiter || matches!(byte, b'\n' | b'\r'),
        }
    }
    match opened {
        None => Ok(()),
        Some(line) => Err(Error::request(format!("line {line}: a field begins with a quote that is never closed"))
            .hint("a quote that is part of the text is written twice, in a field in quotes: \"say \"\"so\"\"\"")),
    }
}

/// The rows of a CSV text with a header, as objects of strings.
pub(crate) fn parse_csv(text: &str, delimiter: u8) -> Result<Vec<Row>> {
    check_quotes(text, delimiter)?;
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let header = reader.headers().map_err(Error::request)?.clone();
    for (i, name) in header.iter().enumerate() {
        if header.iter().take(i).any(|earlier| earlier == name) {
            return Err(Error::request(format!("column {name:?} appears twice")));
        }
    }
    let (mut rows, bytes) = (Vec::new(), text.as_bytes());
    let (mut line, mut counted) = (1, 0);
    for row in reader.records() {
        let row = row.map_err(Error::request)?;
        // The reader's own lines are one too few where lines end with CR and LF: a row begins between the two for it.
        let at = row.position().map_or(0, csv::Position::byte) as usize;
        let blank = bytes.iter().skip(at).take_while(|b| matches!(b, b'\r' | b'\n')).count();
        let start = (at + blank).min(bytes.len());
        line += text.get(counted..start).map_or(0, |passed| passed.matches('\n').count());
        counted = start;
        let value = header.iter().zip(&row).map(|(key, field)| (key.to_owned(), field.into())).collect();
        rows.push(Row { place: format!("line {line}"), value: Value::Object(value) });
    }
    Ok(rows)
}

fn parse_list(path: &Path, text: &str) -> Result<Vec<Row>> {
    let list: Vec<Strict> =
        serde_json::from_str(text).map_err(|e| Error::request(format!("{}: {e}", path.display())))?;
    let place = |i: usize| format!("item {}", i + 1);
    Ok(list.into_iter().enumerate().map(|(i, Strict(value))| Row { place: place(i), value }).collect())
}

fn parse_lines(path: &Path, text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| match serde_json::from_str(line) {
            Ok(Strict(value)) => Ok(Row { place: format!("line {}", i + 1), value }),
            Err(e) => {
                // serde_json counts lines within the line.
                let what = e.to_string();
                let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
                Err(Error::request(format!("{}: line {}: column {}: {what}", path.display(), i + 1, e.column()))
                    .hint("the file must hold one JSON object a line, or one JSON list"))
            }
        })
        .collect()
}

/// A JSON value whose objects hold every key once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(Value::String(value.into()))
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("key {key:?} appears twice")));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Vec<Row>> {
        parse_rows(Path::new("f"), text)
    }

    fn message(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn lines_and_lists() {
        let rows = parse("{\"a\":1}\r\n\r\n  {\"a\":2}  \n").unwrap();
        assert_eq!((rows[1].place.as_str(), &rows[1].value["a"]), ("line 3", &Value::from(2)));
        let rows = parse(" \n[{\"a\":1},\n{\"a\":2}]\n").unwrap();
        assert_eq!((rows[1].place.as_str(), &rows[1].value["a"]), ("item 2", &Value::from(2)));
    }

    #[test]
    fn rows_of_csv_know_their_line_whatever_ends_it() {
        for end in ["\n", "\r\n"] {
            let text = ["a,b", "1,2", "\"x", "y\",3", "", "4,5"].join(end);
            let places: Vec<String> = parse_csv(&text, b',').unwrap().into_iter().map(|row| row.place).collect();
            assert_eq!(places, ["line 2", "line 3", "line 6"], "{end:?}");
        }
    }

    /// All rows after the quote were read as one question.
    #[test]
    fn a_quote_that_is_never_closed_is_refused() {
        for (text, line) in
            [("goal\nx\n\"How?\nWhat?\n", 3), ("a,b\n1,\"2\n3,4\n", 2), ("\"a\n", 1), ("a\n\"b\"\"\n", 2)]
        {
            let error = parse_csv(text, b',').unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line}: a field begins with a quote")), "{text:?}: {error}");
        }
        for text in
            ["a\n\"b\"\n", "a\n\"b\"\"\"\n", "a,b\n\"x\ny\",\"\"\n", "a\nit is 5\"\n", "a\n\"\"", "a\r\n\"b\"\r\n"]
        {
            assert!(parse_csv(text, b',').is_ok(), "{text:?}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        assert_eq!(message("{}\n{\"a\":1,\"a\":2}"), "f: line 2: column 10: key \"a\" appears twice");
        assert_eq!(message("[{\"a\":{\"b\":1,\"b\":2}}]"), "f: key \"b\" appears twice at line 1 column 16");
        assert_eq!(message(""), "f: no rows");
        assert_eq!(message("[]"), "f: no rows");
        assert!(message(&"[".repeat(100_000)).contains("recursion limit"));
        assert!(message(&format!("{{\"a\":{}", "{\"a\":".repeat(100_000))).contains("line 1: column"));
        assert!(message("{}\n{\"a\":1e999}").starts_with("f: line 2: "));
    }

    #[test]
    fn text_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, "\u{feff}a").unwrap();
        assert_eq!(read_text(&path).unwrap(), "a");
        std::fs::write(&path, b"a\nb\n\xff").unwrap();
        assert!(read_text(&path).unwrap_err().to_string().ends_with("line 3: not UTF-8"));
    }

    #[test]
    fn rows_of_every_format() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a.csv", "q,n\n\"x, y\",1\n"),
            ("a.tsv", "q\tn\n\"x, y\"\t1\n"),
            ("a.jsonl", "{\"q\":\"x, y\",\"n\":\"1\"}\n"),
            ("a.json", "[{\"q\":\"x, y\",\"n\":\"1\"}]"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let rows = read_rows(&path).unwrap();
            assert_eq!((rows.len(), &rows[0].value), (1, &serde_json::json!({"q": "x, y", "n": "1"})), "{name}");
        }
        let path = dir.path().join("b.csv");
        std::fs::write(&path, "q,n\n").unwrap();
        assert!(read_rows(&path).unwrap_err().to_string().ends_with("b.csv: no rows"));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e300..1e300).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_serde_json_writes_is_read_as_it_was(values in prop::collection::vec(json(), 1..5)) {
            let as_list = serde_json::to_string_pretty(&values).unwrap();
            let back: Vec<Value> = parse(&as_list).unwrap().into_iter().map(|r| r.value).collect();
            prop_assert_eq!(&back, &values);
            let as_lines = values.iter().map(|v| format!("{{\"v\":{v}}}")).collect::<Vec<_>>().join("\n");
            let back: Vec<Value> = parse(&as_lines).unwrap().into_iter().map(|r| r.value["v"].clone()).collect();
            prop_assert_eq!(&back, &values);
        }

        #[test]
        fn any_text_is_no_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
