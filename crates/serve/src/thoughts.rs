//! The thoughts of a request's answers. In: pieces of text; out: what is thought and what is answered. Invariant: what
//! is thought is never sent as an answer.

use eraser_model::Thinking;
use eraser_model::think::{Shown, ThoughtStream};
use std::sync::Arc;

/// Takes each answer apart; of a model that does not think, every text is an answer.
pub(crate) struct Thoughts(Vec<ThoughtStream>);

impl Thoughts {
    /// For `n` answers to a prompt.
    pub(crate) fn new(thinking: Option<&Arc<Thinking>>, prompt: &str, n: usize) -> Self {
        let stream = |thinking: &Arc<Thinking>| thinking.stream(thinking.opens(prompt));
        Self(thinking.into_iter().flat_map(|thinking| (0..n).map(move |_| stream(thinking))).collect())
    }

    /// What is new of answer `index`, of which `last` says that nothing more comes.
    pub(crate) fn push(&mut self, index: usize, text: &str, last: bool) -> Shown {
        let Some(stream) = self.0.get_mut(index) else {
            return Shown { answer: text.to_owned(), ..Shown::default() };
        };
        let mut shown = stream.push(text);
        if last {
            shown.add(&stream.finish());
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eraser_model::ChatTemplate;

    #[test]
    fn each_answer_has_a_thought_of_its_own() {
        let template = ChatTemplate::new("t", "{{ '<think></think>' }}", None, None).unwrap();
        let mut thoughts = Thoughts::new(template.thinking(), "assistant:", 2);
        let shown = |thought: &str, answer: &str| Shown { thought: thought.into(), answer: answer.into() };
        assert_eq!(thoughts.push(0, "<think>hm</", false), shown("hm", ""));
        assert_eq!(thoughts.push(1, "No", false), shown("", "No"));
        assert_eq!(thoughts.push(0, "think>\n", false), shown("", ""));
        assert_eq!(thoughts.push(0, "Yes", true), shown("", "Yes"));
        assert_eq!(thoughts.push(1, "<think>", true), shown("", "<think>"));
        let mut unfinished = Thoughts::new(template.thinking(), "assistant:<think>\n", 1);
        assert_eq!(unfinished.push(0, "hm </thi", true), shown("hm </thi", ""));
        assert_eq!(Thoughts::new(None, "assistant:", 1).push(0, "<think>a", true), shown("", "<think>a"));
    }
}
