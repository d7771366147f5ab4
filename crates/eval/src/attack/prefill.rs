//! The attack `prefill`: the question, unchanged, with the opening of the answer given, which anyone who runs an open
//! model can do. Invariant: the opening is that of the question's file if it names one, else the option's; it is not
//! part of the answer.

use super::{Attack, AttackPrompt, Checked};
use crate::EvalOptions;
use eraser_data::Question;
use eraser_model::Error;

struct Prefill {
    opening: String,
}

/// Needs an opening.
pub(super) fn build(options: &EvalOptions) -> Checked<Box<dyn Attack>> {
    if options.target.trim().is_empty() {
        return Err(vec![Error::request("the attack `prefill` has no opening: `target` is empty")]);
    }
    Ok(Box::new(Prefill { opening: options.target.clone() }))
}

impl Attack for Prefill {
    fn name(&self) -> &'static str {
        "prefill"
    }

    fn prompts(&self, question: &Question) -> Vec<AttackPrompt> {
        let opening = super::target(question, &self.opening).to_owned();
        vec![AttackPrompt { name: self.name().to_owned(), user: question.text.clone(), opening }]
    }
}
