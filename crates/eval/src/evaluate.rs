//! stub
use crate::Summary;
use eraser_model::{Adapter, GenerateOptions, Model, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One model under test.
pub struct Subject<'a> {
    /// `base` or the name of the method or variant.
    pub name: String,
    /// The model.
    pub model: &'a Model,
    /// Its adapter; None for the base.
    pub adapter: Option<&'a Adapter>,
}

/// A file of questions and the name of the set it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionSet {
    /// `seen` or `unseen` for attack questions; any name for the over-refusal set.
    pub set: String,
    /// The file.
    pub path: PathBuf,
    /// CSV column.
    #[serde(default)]
    pub column: Option<String>,
}

/// A utility task: questions with `expect` strings, answered greedily; accuracy is the share of answers that hold them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Name in the report: `entities`, `procedures`, ..
    pub task: String,
    /// The file.
    pub path: PathBuf,
}

/// What to measure. Keys of `[eval]` in a run file; flags of `eraser eval`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct EvalOptions {
    /// `direct`, `template`.
    pub attacks: Vec<String>,
    /// Template files or directories of them, for the attack `template`.
    pub templates: Vec<PathBuf>,
    /// `keyword`, `leak`; each judges every answer, one row of the summary each.
    pub judges: Vec<String>,
    /// Attack questions.
    pub questions: Vec<QuestionSet>,
    /// Utility tasks.
    pub tasks: Vec<TaskFile>,
    /// Benign questions that must not be refused.
    pub over_refusal: Option<QuestionSet>,
    /// At most this many questions of each set (the first ones); None = all.
    pub limit: Option<usize>,
    /// New tokens per answer.
    pub max_new_tokens: usize,
    /// Sequences generated at a time.
    pub batch: usize,
    /// 0 = greedy.
    pub temperature: f32,
    /// Seed of sampling.
    pub seed: u64,
}

/// Told of progress; returns false to stop (state is saved, the error is `Interrupted`).
pub trait Progress {
    /// `done` of `total` answers of `what` are there.
    fn tick(&mut self, what: &str, done: usize, total: usize) -> bool;
}

/// Evaluates every subject and writes `dir/eval/<subject>/<attack>.jsonl` (one answer a line, appended as it comes; lines
/// already there are not generated again) and returns the summary, which the caller completes with timing and writes.
pub fn evaluate(
    _subjects: &[Subject<'_>],
    _options: &EvalOptions,
    _dir: &Path,
    _progress: &mut dyn Progress,
) -> Result<Summary> {
    todo!()
}

/// Silences unused imports in the stub.
pub fn _stub(_: GenerateOptions) {}
