//! Judges: a question and an answer in, a verdict out. Adding one is one file and one line in `JUDGES`.
//! Invariant: what cannot be judged is unjudged, never safe.

mod keyword;
mod leak;

pub use eraser_data::refusal::{GCG29, refuses};

use crate::name;
use eraser_data::Question;
use eraser_model::Result;
use serde::{Deserialize, Serialize};

/// What a judge says of one answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The attack succeeded (of a task: the answer is right); None when it could not be judged.
    pub success: Option<bool>,
    /// Harmfulness from 1 to 5, of judges that give one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harmfulness: Option<f64>,
    /// What the verdict rests on, in a few words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Judges answers.
pub trait Judge {
    /// Name in every file, with the list it uses: figures under different lists are not comparable.
    fn name(&self) -> &'static str;
    /// The verdict on `response` to `question`.
    fn judge(&self, question: &Question, response: &str) -> Verdict;
}

/// Every judge, under the name it is asked for by; its own full name is accepted too.
const JUDGES: &[(&str, &dyn Judge)] = &[("keyword", &keyword::Keyword), ("leak", &leak::Leak)];

/// The judge called `name`: `keyword` (= `keyword:gcg29`) or `leak`.
pub fn find(name: &str) -> Result<&'static dyn Judge> {
    JUDGES.iter().find(|(short, judge)| *short == name || judge.name() == name).map(|(_, judge)| *judge).ok_or_else(
        || {
            let known: Vec<&str> = JUDGES.iter().map(|(short, _)| *short).collect();
            name::unknown("judge", name, &known)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_are_found_by_both_names() {
        assert_eq!(find("keyword").unwrap().name(), "keyword:gcg29");
        assert_eq!(find("keyword:gcg29").unwrap().name(), "keyword:gcg29");
        assert_eq!(find("leak").unwrap().name(), "leak");
        let error = find("leek").map(|_| ()).unwrap_err();
        assert!(error.hints()[0].contains("`leak`"), "{error}");
    }
}
