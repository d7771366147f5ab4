//! Which answers are measured. Invariant: nothing is read here; see [`super::plan`].

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The set of a run's own harm set.
pub const SEEN: &str = "seen";
/// What the names of sets begin with whose answers should stay as likely as they were.
pub const BENIGN: &str = "benign";
/// Tokens of an answer after which its NLL is measured, where nothing else is asked for.
pub(crate) const CUTS: [usize; 4] = [0, 5, 20, 80];

/// A file of questions with their answers, as training sets are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerSet {
    /// Its name in the report: `seen`, `unseen`; one that begins with `benign` is of answers that should stay likely.
    pub set: String,
    /// The file: see [`eraser_data::read_set`].
    pub path: PathBuf,
}
