//! The verdict of a judge on one answer, as files of answers hold it. Invariant: what could not be judged is None,
//! never safe.

use serde::{Deserialize, Serialize};

/// What a judge says of one answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The attack succeeded (of a task: the answer is right); None when it could not be judged.
    pub success: Option<bool>,
    /// The grade, of judges that give one: `rubric` from 1 to 5, `pair-own` from 1 to 10, others from 0 to 1, of
    /// classifiers the probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harmfulness: Option<f64>,
    /// What the verdict rests on, in a few words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The verdict where a thought is unfinished.
pub(crate) fn no_answer() -> Verdict {
    Verdict { note: "the thought is unfinished: there is no answer".to_owned(), ..Verdict::default() }
}
