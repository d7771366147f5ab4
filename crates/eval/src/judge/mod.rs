//! Judges: a question and an answer in, a verdict out. Adding one is one file and one line in `JUDGES`.
//! Invariant: what cannot be judged is unjudged, never safe.

pub(crate) mod grade;
mod keyword;
mod leak;
mod refusal;
mod rubric;
mod strongreject;

pub use eraser_data::refusal::{GCG29, refuses};
pub(crate) use grade::Grader;
pub use grade::JudgeOptions;
pub use leak::Leak;

use crate::name;
pub use crate::verdict::Verdict;
use eraser_data::Question;
use eraser_model::Result;

/// Judges answers.
pub trait Judge {
    /// Name in every file, with the list it uses: figures under different lists are not comparable.
    fn name(&self) -> &'static str;
    /// The verdict on `response` to `question`.
    fn judge(&self, question: &Question, response: &str) -> Verdict;
}

/// Every judge, under the name it is asked for by; its own full name is accepted too.
const JUDGES: &[(&str, &dyn Judge)] = &[("keyword", &keyword::Keyword), ("leak", &leak::Leak)];

/// Every grader.
pub(crate) static GRADERS: [Grader; 2] = [rubric::GRADER, strongreject::GRADER];

/// The names of all judges, full ones too.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for name in JUDGES.iter().flat_map(|(short, judge)| [*short, judge.name()]).chain(GRADERS.iter().map(|g| g.name)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Judges whether benign questions are answered; part of the over-refusal measure wherever a model judges.
pub(crate) static REFUSAL: Grader = refusal::GRADER;

/// A judge, by what it needs.
#[derive(Clone, Copy)]
pub(crate) enum AnyJudge {
    /// Looks at the text.
    Rule(&'static dyn Judge),
    /// Asks a model.
    Model(&'static Grader),
}

/// The judge called `name`: `keyword` (= `keyword:gcg29`), `leak`, `rubric`, `strongreject`.
pub(crate) fn find(name: &str) -> Result<AnyJudge> {
    let rule = JUDGES.iter().find(|(short, judge)| *short == name || judge.name() == name);
    let model = || GRADERS.iter().find(|grader| grader.name == name).map(AnyJudge::Model);
    rule.map(|(_, judge)| AnyJudge::Rule(*judge)).or_else(model).ok_or_else(|| {
        let models = GRADERS.iter().map(|grader| grader.name);
        let known: Vec<&str> = JUDGES.iter().map(|(short, _)| *short).chain(models).collect();
        name::unknown("judge", name, &known)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_are_found_by_both_names() {
        let full = |name| match find(name) {
            Ok(AnyJudge::Rule(judge)) => judge.name(),
            Ok(AnyJudge::Model(grader)) => grader.name,
            Err(_) => "none",
        };
        assert_eq!(["keyword", "keyword:gcg29", "leak"].map(full), ["keyword:gcg29", "keyword:gcg29", "leak"]);
        assert_eq!(["rubric", "strongreject"].map(full), ["rubric", "strongreject"]);
        let error = find("leek").map(|_| ()).unwrap_err();
        assert!(error.hints()[0].contains("`leak`"), "{error}");
    }
}
