//! Files of running text. In: rows with a column of text, or plain text; out: the texts, each with the other columns of
//! its row. Invariant: no text is blank.

use crate::column::{find_column, no_column};
use crate::parquet;
use crate::row::Row;
use crate::rows::{parse_csv, parse_rows, read_text};
use eraser_model::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The column where none is named.
const COLUMN: &str = "text";
/// A paragraph with fewer characters is a heading, or part of a list.
const SHORTEST: usize = 80;

/// Reads texts: CSV, TSV, Parquet (by the file's name), JSONL or a JSON list of objects with the column `column`, else
/// `text`; or plain text, whose paragraphs are apart by blank lines. Paragraphs of fewer than 80 characters are left
/// out.
///
/// # Errors
/// A file that cannot be read; a row without the column, or a blank one; a file without texts.
pub fn read_texts(path: &Path, column: Option<&str>) -> Result<Vec<(String, Map<String, Value>)>> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let found = if extension == "parquet" {
        rows(parquet::read(path)?, column)
    } else {
        let text = read_text(path)?;
        let json = matches!(extension.as_str(), "json" | "jsonl" | "ndjson");
        match extension.as_str() {
            "csv" => parse_csv(&text, b',').and_then(|found| rows(found, column)),
            "tsv" => parse_csv(&text, b'\t').and_then(|found| rows(found, column)),
            _ if json => parse_rows(path, &text).and_then(|found| rows(found, column)),
            _ if column.is_some() => Err(Error::request("a plain text file has no columns")),
            _ => Ok(paragraphs(&text)),
        }
    };
    match found.map_err(|e| e.context(path.display()))? {
        texts if texts.is_empty() => Err(Error::request(format!("{}: no text", path.display())).hint(format!(
            "paragraphs of plain text are apart by blank lines; those of fewer than {SHORTEST} characters are left out"
        ))),
        texts => Ok(texts),
    }
}

fn rows(rows: Vec<Row>, column: Option<&str>) -> Result<Vec<(String, Map<String, Value>)>> {
    let name = column.unwrap_or(COLUMN);
    let text = |Row { place, value }: Row| {
        let Value::Object(mut row) = value else { return Err(Error::request(format!("{place}: not an object"))) };
        let key = find_column(&row, name)?.map(ToOwned::to_owned);
        match key.and_then(|key| row.shift_remove(&key)) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok((text, row)),
            Some(Value::String(_)) => Err(Error::request(format!("{place}: `{name}` is blank"))),
            Some(_) => Err(Error::request(format!("{place}: `{name}` is not a string"))),
            None => {
                let error = Error::request(format!("{place}: no `{name}`"));
                let error = error.hint("name the column behind the file, as FILE?column=NAME");
                Err(no_column(error, name, &row.keys().map(String::as_str).collect::<Vec<_>>()))
            }
        }
    };
    rows.into_iter().map(text).collect()
}

/// The paragraphs of a text, each on the lines that it has.
fn paragraphs(text: &str) -> Vec<(String, Map<String, Value>)> {
    let mut found = vec![String::new()];
    for line in text.lines() {
        if line.trim().is_empty() {
            found.push(String::new());
        } else if let Some(last) = found.last_mut() {
            if !last.is_empty() {
                last.push('\n');
            }
            last.push_str(line.trim());
        }
    }
    found.retain(|paragraph| paragraph.chars().count() >= SHORTEST);
    found.into_iter().map(|text| (text, Map::new())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, column: Option<&str>) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Ok(read_texts(&path, column)?.into_iter().map(|(text, _)| text).collect())
    }

    #[test]
    fn paragraphs_and_columns() {
        let long = "word ".repeat(20);
        let text = format!("= Heading =\r\n\r\n {long}\r\n{long}\n \n{long}");
        let (long, found) = (long.trim(), read("a.txt", &text, None).unwrap());
        assert_eq!(found, [format!("{long}\n{long}"), long.to_owned()]);
        assert_eq!(read("a.jsonl", "{\"text\":\"x y\",\"n\":1}", None).unwrap(), ["x y"]);
        assert_eq!(read("a.csv", "Body,n\n\"x, y\",1\n", Some("body")).unwrap(), ["x, y"]);
    }

    #[test]
    fn what_is_no_text_is_named() {
        let message = |name: &str, text: &str, column| read(name, text, column).unwrap_err().to_string();
        assert!(message("a.txt", "short", None).ends_with("a.txt: no text"));
        assert!(message("a.txt", "short", Some("x")).ends_with("a plain text file has no columns"));
        assert!(message("a.jsonl", "{\"text\":\" \"}", None).ends_with("line 1: `text` is blank"));
        assert!(message("a.jsonl", "{\"body\":1}", None).ends_with("line 1: no `text`"));
        assert!(message("a.jsonl", "{\"text\":1}", None).ends_with("line 1: `text` is not a string"));
    }
}
