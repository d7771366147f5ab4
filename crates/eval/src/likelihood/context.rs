//! How a question is asked. In: templates; out: user turns. Invariant: a context has one name, by which lines and
//! figures are found.

use crate::attack::Template;

/// The context of a question as it is.
pub const PLAIN: &str = "plain";
/// What the names of contexts with a template begin with; alone, all of them together.
pub const TEMPLATE: &str = "template";

/// Where a question stands: alone, or inside a jailbreak template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    name: String,
    template: Option<Template>,
}

impl Context {
    /// The question as it is.
    pub fn plain() -> Self {
        Self { name: PLAIN.to_owned(), template: None }
    }

    /// The question inside `template`.
    pub fn template(template: Template) -> Self {
        Self { name: format!("{TEMPLATE}:{}", template.name), template: Some(template) }
    }

    /// Plainly, then under each of `templates`.
    pub fn all(templates: impl IntoIterator<Item = Template>) -> Vec<Self> {
        std::iter::once(Self::plain()).chain(templates.into_iter().map(Self::template)).collect()
    }

    /// `plain`, or `template:<name>`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user's turn.
    pub(super) fn user(&self, question: &str) -> String {
        self.template.as_ref().map_or_else(|| question.to_owned(), |template| template.fill(question))
    }
}
