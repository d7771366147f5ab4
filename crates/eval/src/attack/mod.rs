//! Attacks: a question in, the prompts that try to get it answered out. Adding one is one file and one line in
//! `ATTACKS`. Invariant: the prompts of a question depend on the question, the options and, of attacks that search, the
//! subject, in a fixed order.

mod autodan;
pub(crate) mod budget;
mod direct;
mod gcg;
mod parse;
mod prefill;
pub(crate) mod search;
mod template;

pub use budget::{AutodanOptions, GcgOptions};

use crate::EvalOptions;
pub use crate::name::Checked;
use crate::name::{self, At};
pub use parse::Template;
pub use template::read as read_templates;

use eraser_data::Question;

/// One prompt of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttackPrompt {
    /// `direct`, or the attack and its variant: `template:aim`.
    pub name: String,
    /// The whole user turn.
    pub user: String,
    /// How the answer begins: text that is given to the model and not judged; usually empty.
    pub opening: String,
    /// The opening is that of the thought before the answer.
    pub in_thought: bool,
}

impl AttackPrompt {
    /// A prompt that gives no opening.
    pub fn plain(name: String, user: String) -> Self {
        Self { name, user, opening: String::new(), in_thought: false }
    }
}

/// Turns questions into prompts.
pub trait Attack {
    /// Name of the file of its answers and of its pooled figures: `direct`, `template`.
    fn name(&self) -> &'static str;
    /// The prompts for one question, one per variant, always in the same order.
    fn prompts(&self, question: &Question) -> Vec<AttackPrompt>;
    /// The search on the subject that turns the prompts into what is asked; None for attacks that do not look at it.
    #[allow(private_interfaces)] // Attacks are implemented in this crate.
    fn search(&self) -> Option<&dyn search::Search> {
        None
    }
}

/// Makes an attack of the options; gives every error, not only the first.
type Build = fn(&EvalOptions, At<'_>) -> Checked<Box<dyn Attack>>;

/// Every attack, under its name.
const ATTACKS: &[(&str, Build)] = &[
    ("autodan", autodan::build),
    ("direct", direct::build),
    ("gcg", gcg::build),
    ("prefill", prefill::build),
    ("prefill-thought", prefill::build_thought),
    ("template", template::build),
];

/// The names of all attacks.
pub fn names() -> Vec<&'static str> {
    ATTACKS.iter().map(|(name, _)| *name).collect()
}

/// The attack called `name`.
///
/// # Errors
/// Everything that is wrong with its options, each called as `at` says.
pub fn build(name: &str, options: &EvalOptions, at: At<'_>) -> Checked<Box<dyn Attack>> {
    let found = ATTACKS.iter().find(|(known, _)| *known == name);
    let (_, build) = found.ok_or_else(|| {
        let known: Vec<&str> = ATTACKS.iter().map(|(known, _)| *known).collect();
        vec![name::unknown("attack", name, &known).context(at("attacks"))]
    })?;
    build(options, at)
}
