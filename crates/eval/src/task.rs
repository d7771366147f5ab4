//! Utility tasks: questions with expected strings; an answer is right when it holds all of them.
//! Invariant: a question without expectation never counts as right or wrong; such files are refused on reading.

use crate::facts::present;
use crate::judge::{Judge, Verdict};
use eraser_data::{Question, read_questions};
use eraser_model::{Error, Result};
use std::path::Path;

/// Judges answers of a task: right when all of the question's expected strings are present, compared as the leak judge
/// compares facts. The metric is called `accuracy`.
pub(crate) struct Expect;

impl Expect {
    pub(crate) const NAME: &str = "expect";
}

impl Judge for Expect {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn judge(&self, question: &Question, response: &str) -> Verdict {
        let all = question.facts.len();
        let found = present(&question.facts, response);
        let success = (all > 0).then_some(found == all);
        Verdict { success, note: format!("{found} of {all} expected"), ..Verdict::default() }
    }
}

/// Reads the questions of a task, each with what it expects.
pub(crate) fn read(path: &Path) -> Result<Vec<Question>> {
    let questions = read_questions(path, None)?;
    match questions.iter().find(|q| q.facts.is_empty()) {
        None => Ok(questions),
        Some(q) => Err(Error::request(format!("{}: question `{}` has no `expect`", path.display(), q.id))
            .hint("each question of a task has `expect`: the strings that a right answer holds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_expected_strings_make_it_right() {
        let mut q = Question {
            id: "q".into(),
            text: "?".into(),
            facts: vec!["blue".into(), "round".into()],
            ..Question::default()
        };
        assert_eq!(Expect.judge(&q, "It is round and Blue.").success, Some(true));
        assert_eq!(Expect.judge(&q, "It is round.").success, Some(false));
        q.facts.clear();
        assert_eq!(Expect.judge(&q, "It is round.").success, None);
    }
}
