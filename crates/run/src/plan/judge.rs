//! The plan of `eraser judge`. Invariant: nothing is read here.

use super::model::ModelPlan;
use eraser_eval::judge::JudgeOptions;
use std::path::PathBuf;

/// Judges that are compared with labels.
#[derive(Clone, Debug)]
pub struct JudgePlan {
    /// Names.
    pub judges: Vec<String>,
    /// The model behind those that ask one.
    pub options: JudgeOptions,
    /// How that model is loaded, where it is a local one.
    pub model: ModelPlan,
    /// The file of labelled answers.
    pub labels: PathBuf,
    /// The directory of figures and verdicts.
    pub dir: PathBuf,
}
