//! Options of a benchmark. Invariant: no file is read here; that is done when the plan is made.

use super::Bos;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A task with the file of its items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskRows {
    /// One of [`super::tasks`].
    pub task: String,
    /// Its items: JSONL, a JSON list, CSV, TSV or Parquet; the columns of each task are described in its file and in
    /// the guide.
    pub path: PathBuf,
    /// Rows that examples are taken from; None: the items' own file, the item itself left out.
    pub examples: Option<PathBuf>,
    /// Text before everything else.
    pub preamble: Option<PathBuf>,
}

/// A text whose perplexity is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextFile {
    /// Its name in the report.
    pub name: String,
    /// The text, UTF-8.
    pub path: PathBuf,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BenchOptions {
    /// Tasks.
    pub tasks: Vec<TaskRows>,
    /// Texts.
    pub texts: Vec<TextFile>,
    /// Examples before each question.
    pub shots: usize,
    /// Only the first items of each task, the first windows of each text.
    pub limit: Option<usize>,
    /// Seed of the choice of examples and of resampling.
    pub seed: u64,
    /// Beginning-of-sequence token.
    pub bos: Bos,
    /// Scored tokens per window of a text; never more than the model's positions.
    pub window: usize,
    /// Most new tokens of a written answer; None: as many as the task has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// The scores of a model that never saw what is to be forgotten: the directory of a subject's scores
    /// (`bench/base`), or the run directory that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_log: Option<PathBuf>,
}

impl BenchOptions {
    /// New tokens of a written answer to a task that has `most`.
    pub(crate) fn new_tokens(&self, most: usize) -> usize {
        self.max_new_tokens.unwrap_or(most)
    }
}

impl Default for BenchOptions {
    /// No examples, everything, the tokenizer's own BOS, windows of 1024 tokens.
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            texts: Vec::new(),
            shots: 0,
            limit: None,
            seed: 42,
            bos: Bos::Auto,
            window: 1024,
            max_new_tokens: None,
            retain_log: None,
        }
    }
}
