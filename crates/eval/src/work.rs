//! What an evaluation asks of each subject, for estimates of what it takes. In: a plan; out: its prompts, file by file,
//! and the known answers. Invariant: nothing is computed here.

use crate::plan::Plan;

/// The prompts of one file of answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The file's name without its ending.
    pub file: String,
    /// User turn and opening of the answer, each.
    pub prompts: Vec<(String, String)>,
    /// Judges that ask a model, once for each answer.
    pub graders: usize,
    /// The attack looks for its prompt first, and how long that takes is not known before.
    pub searches: bool,
}

/// Every file of answers of a subject.
pub fn work(plan: &Plan) -> Vec<Work> {
    let work = |job: &crate::plan::Job| Work {
        file: job.file.clone(),
        prompts: job.items.iter().map(|item| (item.user.clone(), item.opening.clone())).collect(),
        graders: job.graders.len(),
        searches: job.attack.as_ref().is_some_and(|attack| attack.search().is_some()),
    };
    plan.jobs.iter().map(work).collect()
}

/// Every known answer that is scored: user turn and answer. Those of one list are scored together, in one context, so
/// that what they begin with is computed once.
pub fn scored(plan: &Plan) -> Vec<Vec<(String, String)>> {
    plan.known_answers.as_ref().map(crate::likelihood::Plan::rounds).unwrap_or_default()
}
