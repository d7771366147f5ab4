//! A row of a file of rows, whatever its format.

use serde_json::Value;

/// A row of a file.
#[derive(Debug)]
pub struct Row {
    /// Where it is in its file: `line 3`, or `item 3` of a list.
    pub place: String,
    /// What it holds; for a CSV file an object of strings.
    pub value: Value,
}
