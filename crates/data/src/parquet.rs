//! Rows of a Parquet file, the form of data sets on the hub. In: a file; out: its rows as JSON, nested columns as
//! objects and lists. Invariant: a damaged file is an error, also where the library that reads it would panic.

use crate::row::Row;
use eraser_model::{Error, Result};
use std::path::Path;

#[cfg(feature = "parquet")]
pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    use eraser_model::error::PathContext as _;
    let file = std::fs::File::open(path).at(path)?;
    // Some damage makes the reader panic instead of failing.
    let read = std::panic::catch_unwind(|| read_all(file));
    let rows = read.unwrap_or_else(|_| Err("not a valid Parquet file".into()));
    rows.map_err(|e| Error::request(format!("{}: {e}", path.display())))
}

#[cfg(feature = "parquet")]
fn read_all(file: std::fs::File) -> std::result::Result<Vec<Row>, Box<dyn std::error::Error + Send + Sync>> {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    let reader = SerializedFileReader::new(file)?;
    let rows = reader.get_row_iter(None)?;
    let mut size = 0;
    let row = |(i, row): (usize, std::result::Result<parquet::record::Row, _>)| {
        let value = object(&row?);
        // A dictionary of one long text can be referred to by any number of rows.
        size += bytes(&value);
        if size > MOST {
            return Err(format!("more than {} MB of texts in it", MOST >> 20).into());
        }
        Ok(Row { place: format!("row {}", i + 1), value })
    };
    rows.enumerate().map(row).collect()
}

/// A row as JSON.
#[cfg(feature = "parquet")]
fn object(row: &parquet::record::Row) -> serde_json::Value {
    row.get_column_iter().map(|(name, field)| (name.clone(), json(field))).collect::<serde_json::Map<_, _>>().into()
}

/// A value as JSON. Bytes without a type are text where they are UTF-8, as some programs write it, and else nothing
/// that could be read: base64 would be taken for a text.
#[cfg(feature = "parquet")]
fn json(field: &parquet::record::Field) -> serde_json::Value {
    use parquet::record::Field;
    match field {
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(serde_json::Value::Null, Into::into),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(json).collect(),
        other => other.to_json_value(),
    }
}

/// Most bytes of the rows of a file.
#[cfg(feature = "parquet")]
const MOST: usize = 4 << 30;

/// About how much memory a value takes.
#[cfg(feature = "parquet")]
fn bytes(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(bytes).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + bytes(value)).sum(),
        _ => 0,
    };
    size_of::<Value>() + inner
}

#[cfg(not(feature = "parquet"))]
pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    Err(Error::request(format!("{}: this build does not read Parquet", path.display()))
        .hint("build with the cargo feature `hub`, or save the rows as JSONL"))
}

#[cfg(all(test, feature = "parquet"))]
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Written by tests/fixtures/rows.py with `PyArrow`.
    const ROWS: &[u8] = include_bytes!("../tests/fixtures/rows.parquet");

    fn read_bytes(bytes: &[u8]) -> Result<Vec<Row>> {
        let file = tempfile::Builder::new().suffix(".parquet").tempfile().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        crate::read_rows(file.path())
    }

    #[test]
    fn nested_columns_become_objects_and_lists() {
        let rows = read_bytes(ROWS).unwrap();
        assert_eq!((rows.len(), rows[1].place.as_str()), (40, "row 2"));
        let expected = json!({
            "question": "How many of 2?", "choices": { "text": ["two", "2", "ü"], "label": ["A", "B", "C"] },
            "answerKey": "C", "label": 2, "passage": null,
        });
        assert_eq!(rows[2].value, expected);
    }

    #[test]
    fn every_compression_is_read_for_sets_and_for_questions() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for codec in ["zstd", "gzip", "brotli", "lz4", "snappy", "none"] {
            let path = fixtures.join(format!("pairs-{codec}.parquet"));
            let set = crate::read_set(&path).unwrap();
            assert_eq!((set.len(), set[3].input.as_str()), (20, "What is 3?"), "{codec}");
            assert!(set[3].output.starts_with("A number, 3. "));
            let questions = crate::read_questions(&path, None).unwrap();
            assert_eq!(questions[3].text, "What is 3?", "{codec}");
        }
    }

    /// The same damage each time: most of it where sizes and places are, at the end.
    #[test]
    fn generated_damage_under_every_compression_is_an_error_or_rows() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut state = 5_u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let (mut cases, mut refused) = (0, 0);
        for codec in ["zstd", "gzip", "brotli", "lz4", "snappy", "none"] {
            let whole = std::fs::read(fixtures.join(format!("pairs-{codec}.parquet"))).unwrap();
            for case in 0..25 {
                let mut bytes = whole.clone();
                for _ in 0..=below(4) {
                    let at =
                        if below(3) > 0 { bytes.len() - 1 - below(600.min(bytes.len())) } else { below(bytes.len()) };
                    bytes[at] = [0, 0xff, 0x7f, 0x80, below(256) as u8][below(5)];
                }
                if case % 5 == 0 {
                    bytes.truncate(below(bytes.len()));
                }
                let start = std::time::Instant::now();
                refused += usize::from(read_bytes(&bytes).is_err());
                assert!(start.elapsed().as_secs() < 5, "{codec} {case}: {:?}", start.elapsed());
                cases += 1;
            }
        }
        assert!(cases == 150 && (50..150).contains(&refused), "{refused} of {cases} refused");
    }

    proptest! {
        #[test]
        fn damaged_files_are_errors_or_rows(places in proptest::collection::vec((0usize..ROWS.len(), any::<u8>()), 1..6), cut in 0usize..ROWS.len()) {
            let mut bytes = ROWS.to_vec();
            for (at, byte) in places {
                bytes[at] = byte;
            }
            let _ = read_bytes(&bytes);
            let _ = read_bytes(&bytes[..cut]);
        }
    }
}
