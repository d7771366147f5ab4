//! Judges: a question and an answer in, a verdict out. Adding one is one file and one line in `JUDGES`.
//! Invariant: what cannot be judged is unjudged, never safe.

mod classifier;
mod frame;
pub(crate) mod grade;
mod jailbreakbench;
mod keyword;
mod leak;
mod pair;
mod refusal;
mod rubric;
mod strongreject;
mod words;

pub use eraser_data::refusal::{GCG29, refuses};
pub use grade::JudgeOptions;
pub use leak::Leak;

use crate::answers::Answer;
use crate::name;
pub use crate::verdict::Verdict;
use classifier::{Classifier, KINDS};
use eraser_data::ask::Respond;
use eraser_data::{Progress, Question};
use eraser_model::Result;
use grade::Grader;
use std::path::Path;
use std::sync::Arc;

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
static GRADERS: [Grader; 4] = [rubric::GRADER, strongreject::GRADER, pair::GRADER, jailbreakbench::GRADER];

/// The names of all judges, full ones too.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for name in JUDGES.iter().flat_map(|(short, judge)| [*short, judge.name()]).chain(model_names()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The names of judges that ask a model.
fn model_names() -> impl Iterator<Item = &'static str> {
    GRADERS.iter().map(|grader| grader.name).chain(KINDS.iter().map(|kind| kind.name))
}

/// Whether the judge of this name, full or not, asks a model.
pub fn asks_model(name: &str) -> bool {
    let short = name.split(':').next();
    model_names().any(|known| Some(known) == short)
}

/// Judges whether benign questions are answered; part of the over-refusal measure wherever a model grades.
pub(crate) static REFUSAL: Grader = refusal::GRADER;

/// A judge that asks a model.
#[derive(Clone)]
pub(crate) enum ModelJudge {
    /// For a reply in words.
    Grader(&'static Grader),
    /// For the probability of a word.
    Classifier(Arc<Classifier>),
}

impl ModelJudge {
    /// Name in every file.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Grader(grader) => grader.name,
            Self::Classifier(judge) => judge.name(),
        }
    }

    /// A verdict on every answer; what the model said is kept at `path`.
    pub(crate) fn grade(
        &self,
        answers: &mut [Answer],
        respond: &dyn Respond,
        options: &JudgeOptions,
        path: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        match self {
            Self::Grader(grader) => grader.grade(answers, respond, options, path, progress),
            Self::Classifier(judge) => judge.grade(answers, respond, path, progress),
        }
    }

    /// The name of its file of replies.
    pub(crate) fn file(&self) -> String {
        self.name().replace(':', "-")
    }
}

/// A judge, by what it needs.
#[derive(Clone)]
pub(crate) enum AnyJudge {
    /// Looks at the text.
    Rule(&'static dyn Judge),
    /// Asks a model.
    Model(ModelJudge),
}

/// The judge called `name`: `keyword` (= `keyword:gcg29`), `leak`, `rubric`, .. A classifier's prompt is that of the
/// options.
pub(crate) fn find(name: &str, options: &JudgeOptions) -> Result<AnyJudge> {
    if let Some((_, judge)) = JUDGES.iter().find(|(short, judge)| *short == name || judge.name() == name) {
        return Ok(AnyJudge::Rule(*judge));
    }
    if let Some(grader) = GRADERS.iter().find(|grader| grader.name == name) {
        return Ok(AnyJudge::Model(ModelJudge::Grader(grader)));
    }
    if let Some(kind) = KINDS.iter().find(|kind| kind.name == name) {
        let judge = Classifier::new(kind, options.prompt.as_deref())?;
        return Ok(AnyJudge::Model(ModelJudge::Classifier(Arc::new(judge))));
    }
    let known: Vec<&str> = JUDGES.iter().map(|(short, _)| *short).chain(model_names()).collect();
    Err(name::unknown("judge", name, &known))
}

/// The names of judges that read the prompt file of the options.
pub(crate) fn readers() -> Vec<&'static str> {
    KINDS.iter().filter(|kind| kind.reads_file()).map(|kind| kind.name).collect()
}

/// Whether the judge called `name` reads the prompt file of the options.
pub(crate) fn reads_prompt(name: &str) -> bool {
    readers().contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_are_found_by_both_names() {
        let full = |name| match find(name, &JudgeOptions::default()) {
            Ok(AnyJudge::Rule(judge)) => judge.name().to_owned(),
            Ok(AnyJudge::Model(judge)) => judge.name().to_owned(),
            Err(_) => "none".to_owned(),
        };
        assert_eq!(["keyword", "keyword:gcg29", "leak"].map(full), ["keyword:gcg29", "keyword:gcg29", "leak"]);
        assert_eq!(["rubric", "strongreject"].map(full), ["rubric", "strongreject"]);
        assert_eq!(["harmbench-own", "llama-guard-3"].map(full), ["harmbench-own", "llama-guard-3"]);
        assert!(["harmbench:1f2e", "pair-own"].iter().all(|name| asks_model(name)) && !asks_model("keyword:gcg29"));
        let error = find("leek", &JudgeOptions::default()).map(|_| ()).unwrap_err();
        assert!(error.hints()[0].contains("`leak`"), "{error}");
    }
}
