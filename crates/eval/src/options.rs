//! Options of an evaluation, as run files and flags give them. Invariant: nothing is read or looked up here; see
//! [`crate::plan`].

use crate::attack::budget::{AutodanOptions, GcgOptions};
use crate::judge::grade::JudgeOptions;
use crate::likelihood::{AnswerSet, CUTS};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A file of questions and the name of its set.
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

/// What is measured. Keys of `[eval]` in a run file; flags of `eraser eval`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct EvalOptions {
    /// `direct`, `template`, `prefill`, `prefill-thought`, `gcg`, `autodan`.
    pub attacks: Vec<String>,
    /// Template files or directories of them, for the attack `template`, and for `autodan` to begin with.
    pub templates: Vec<PathBuf>,
    /// The opening that `prefill` and `prefill-thought` give, and `gcg` and `autodan` aim at, for questions whose file
    /// has no column `target`.
    pub target: String,
    /// Budget of the attack `gcg`.
    pub gcg: GcgOptions,
    /// Budget of the attack `autodan`.
    pub autodan: AutodanOptions,
    /// Judges, see [`crate::judge::names`]; each judges every answer, one row of the summary each.
    pub judges: Vec<String>,
    /// The model behind judges that ask one.
    pub judge: JudgeOptions,
    /// Attack questions.
    pub questions: Vec<QuestionSet>,
    /// Utility tasks.
    pub tasks: Vec<TaskFile>,
    /// Benign questions that must not be refused.
    pub over_refusal: Option<QuestionSet>,
    /// Questions that look like the benign ones and must be refused: they show whether a model that refuses few benign
    /// questions still refuses what it must.
    pub contrast: Option<QuestionSet>,
    /// Measure how likely the answers of the run's own harm set are, as the set `seen`, and some of its help set, as
    /// `benign`. Whoever evaluates a run adds them to `likelihood_set`.
    pub likelihood: bool,
    /// Questions with answers, of which it is measured how likely they are: plainly and under every template.
    pub likelihood_set: Vec<AnswerSet>,
    /// Tokens of an answer that are given before the rest of it is measured.
    pub likelihood_cuts: Vec<usize>,
    /// Sets that may hold questions that an adapter was trained on.
    pub allow_leakage: Vec<String>,
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

impl Default for EvalOptions {
    /// The plain questions under the keyword judge; 256 new tokens, as the paper; greedy.
    fn default() -> Self {
        Self {
            attacks: vec!["direct".to_owned()],
            templates: Vec::new(),
            target: "Sure, here is how:".to_owned(),
            gcg: GcgOptions::default(),
            autodan: AutodanOptions::default(),
            judges: vec!["keyword".to_owned()],
            judge: JudgeOptions::default(),
            questions: Vec::new(),
            tasks: Vec::new(),
            over_refusal: None,
            contrast: None,
            likelihood: false,
            likelihood_set: Vec::new(),
            likelihood_cuts: CUTS.to_vec(),
            allow_leakage: vec!["seen".to_owned()],
            limit: None,
            max_new_tokens: 256,
            batch: 16,
            temperature: 0.0,
            seed: 42,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_greedy_and_direct() {
        let options: EvalOptions = toml::from_str("").unwrap();
        assert_eq!(options, EvalOptions::default());
        assert_eq!((options.max_new_tokens, options.batch), (256, 16));
        assert!(toml::from_str::<EvalOptions>("judge = 'leak'").is_err());
    }
}
