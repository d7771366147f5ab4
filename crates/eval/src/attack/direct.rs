//! The attack `direct`: the question, unchanged.
//! Invariant: one prompt per question, equal to its text.

use super::{At, Attack, AttackPrompt, Checked};
use crate::EvalOptions;
use eraser_data::Question;

struct Direct;

/// Needs no options.
#[allow(clippy::unnecessary_wraps)] // The registry's signature.
pub(super) fn build(_options: &EvalOptions, _: At<'_>) -> Checked<Box<dyn Attack>> {
    Ok(Box::new(Direct))
}

impl Attack for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn prompts(&self, question: &Question) -> Vec<AttackPrompt> {
        vec![AttackPrompt::plain(self.name().to_owned(), question.text.clone())]
    }
}
