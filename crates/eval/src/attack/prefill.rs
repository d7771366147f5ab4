//! The attacks `prefill` and `prefill-thought`: the question, unchanged, with the opening of the answer given, or that
//! of the thought before it, which anyone who runs an open model can do. Invariant: the opening is that of the
//! question's file if it names one, else the option's; it is not part of the answer.

use super::{At, Attack, AttackPrompt, Checked};
use crate::EvalOptions;
use eraser_data::Question;
use eraser_model::Error;

struct Prefill {
    name: &'static str,
    opening: String,
    in_thought: bool,
}

/// Begins the answer; a model that thinks has thought nothing before. Needs an opening.
pub(super) fn build(options: &EvalOptions, at: At<'_>) -> Checked<Box<dyn Attack>> {
    opened("prefill", false, options, at)
}

/// Begins the thought of a model that thinks. Needs an opening.
pub(super) fn build_thought(options: &EvalOptions, at: At<'_>) -> Checked<Box<dyn Attack>> {
    opened("prefill-thought", true, options, at)
}

fn opened(name: &'static str, in_thought: bool, options: &EvalOptions, at: At<'_>) -> Checked<Box<dyn Attack>> {
    if options.target.trim().is_empty() {
        let error = Error::request(format!("{}: it is empty, and the attack `{name}` gives it", at("target")));
        return Err(vec![error.hint("give the opening of an answer, as \"Sure, here is how:\"")]);
    }
    Ok(Box::new(Prefill { name, opening: options.target.clone(), in_thought }))
}

impl Attack for Prefill {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prompts(&self, question: &Question) -> Vec<AttackPrompt> {
        let (opening, user) = (question.opening(&self.opening).to_owned(), question.text.clone());
        vec![AttackPrompt { name: self.name.to_owned(), user, opening, in_thought: self.in_thought }]
    }
}
