//! The attack `prefill`: the question, unchanged, with the opening of the answer given, which anyone who runs an open
//! model can do. Invariant: the opening is that of the question's file if it names one, else the option's; it is not
//! part of the answer.

use super::{At, Attack, AttackPrompt, Checked};
use crate::EvalOptions;
use eraser_data::Question;
use eraser_model::Error;

struct Prefill {
    opening: String,
}

/// Needs an opening.
pub(super) fn build(options: &EvalOptions, at: At<'_>) -> Checked<Box<dyn Attack>> {
    if options.target.trim().is_empty() {
        let error = Error::request(format!("{}: it is empty, and the attack `prefill` gives it", at("target")));
        return Err(vec![error.hint("give the opening of an answer, as \"Sure, here is how:\"")]);
    }
    Ok(Box::new(Prefill { opening: options.target.clone() }))
}

impl Attack for Prefill {
    fn name(&self) -> &'static str {
        "prefill"
    }

    fn prompts(&self, question: &Question) -> Vec<AttackPrompt> {
        let opening = question.opening(&self.opening).to_owned();
        vec![AttackPrompt { name: self.name().to_owned(), user: question.text.clone(), opening }]
    }
}
