//! An answer as a terminal shows it. In: pieces of text; out: the thought, dimmed, then the answer. Invariant: the
//! answer begins on a line of its own where a thought was shown.

use crate::output;
use eraser_model::think::ThoughtStream;
use eraser_model::{Result, Thinking};
use std::sync::Arc;

/// What is being shown.
pub(crate) struct Shown {
    /// None for a model that does not think.
    stream: Option<ThoughtStream>,
    /// A thought was shown, and no answer yet.
    thought: bool,
}

impl Shown {
    /// An answer to a prompt that ends inside a thought if it is `open`.
    pub(crate) fn new(thinking: Option<&Arc<Thinking>>, open: bool) -> Self {
        Self { stream: thinking.map(|thinking| thinking.stream(open)), thought: false }
    }

    /// Shows a piece of text, and the mark behind it that the decoder left out.
    pub(crate) fn push(&mut self, text: &str, mark: Option<&str>) -> Result<()> {
        let Some(stream) = &mut self.stream else { return output::text(text) };
        let mut parts = stream.push(text);
        parts.add(&mark.map(|mark| stream.push(mark)).unwrap_or_default());
        self.show(&parts.thought, &parts.answer)
    }

    /// Shows what was held back.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let rest = stream.finish();
        self.show(&rest.thought, &rest.answer)
    }

    fn show(&mut self, thought: &str, answer: &str) -> Result<()> {
        if !thought.is_empty() {
            output::dimmed(thought)?;
            self.thought = true;
        }
        if answer.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.thought) {
            output::text("\n\n")?;
        }
        output::text(answer)
    }
}
