//! stub
use eraser_model::Result;
use std::path::Path;

/// One line of a set file: a prompt and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The question.
    pub input: String,
    /// The answer.
    pub output: String,
    /// Other keys, kept as they are.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A question to ask, with what a judge needs to know about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Stable id: the file's `id`, else the hash of the text.
    pub id: String,
    /// The text.
    pub text: String,
    /// Strings whose presence in an answer is a leak (`facts`), or that a right answer holds (`expect`); may be empty.
    pub facts: Vec<String>,
    /// Other keys, kept as they are.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// Reads a set file: JSONL or a JSON list of `{"input","output"}` or `{"messages":[..]}`.
pub fn read_set(_path: &Path) -> Result<Vec<Record>> {
    todo!()
}

/// Reads questions: CSV (named column, default the first of goal, question, prompt, input, text), JSONL or JSON list,
/// or plain text, one a line.
pub fn read_questions(_path: &Path, _column: Option<&str>) -> Result<Vec<Question>> {
    todo!()
}
