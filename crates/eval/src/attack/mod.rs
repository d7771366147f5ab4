//! Attacks: a question in, the prompts that try to get it answered out. Adding one is one file and one line in `ATTACKS`.
//! Invariant: the prompts of a question depend on the question and the options only, in a fixed order.

mod direct;
mod parse;
mod template;

use crate::EvalOptions;
use crate::name;
pub use parse::Template;
pub use template::read as read_templates;

use eraser_data::Question;
use eraser_model::Error;

/// A value, or everything that is wrong.
pub type Checked<T> = std::result::Result<T, Vec<Error>>;

/// One prompt of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttackPrompt {
    /// `direct`, or the attack and its variant: `template:aim`.
    pub name: String,
    /// The whole user turn.
    pub user: String,
}

/// Wraps questions.
pub trait Attack {
    /// Name of the file of its answers and of its pooled figures: `direct`, `template`.
    fn name(&self) -> &'static str;
    /// The prompts for one question, one per variant, always in the same order.
    fn prompts(&self, question: &Question) -> Vec<AttackPrompt>;
}

/// Makes an attack of the options; gives every error, not only the first.
type Build = fn(&EvalOptions) -> Checked<Box<dyn Attack>>;

/// Every attack, under its name.
const ATTACKS: &[(&str, Build)] = &[("direct", direct::build), ("template", template::build)];

/// The attack called `name`, or everything that is wrong with it.
pub fn build(name: &str, options: &EvalOptions) -> Checked<Box<dyn Attack>> {
    let found = ATTACKS.iter().find(|(known, _)| *known == name);
    let (_, build) = found.ok_or_else(|| {
        let known: Vec<&str> = ATTACKS.iter().map(|(known, _)| *known).collect();
        vec![name::unknown("attack", name, &known)]
    })?;
    build(options)
}
