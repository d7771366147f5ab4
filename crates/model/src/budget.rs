//! How long a sequence may become that thinks before it answers. In: its tokens as they come; out: whether it ends.
//! Invariant: the tokens of a thought are not counted as tokens of the answer, and neither is longer than it may be.

use crate::{Thinking, Tokenizer};
use std::sync::Arc;

/// Tokens beyond those of the end mark that are looked at for it.
const MARGIN: usize = 4;

/// The limits of one sequence.
#[derive(Clone, Debug)]
pub struct Budget {
    thinking: Arc<Thinking>,
    tokenizer: Tokenizer,
    /// The prompt ends inside a thought.
    open: bool,
    /// Most tokens in all.
    room: usize,
}

impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        (&self.thinking, self.open, self.room) == (&other.thinking, other.open, other.room)
    }
}

/// What a sequence is writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// What may become a thought or an answer.
    Beginning,
    Thought,
    /// The answer, which begins behind so many tokens.
    Answer(usize),
}

/// What a sequence has spent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent(Place);

impl Budget {
    /// Limits of a sequence whose prompt ends inside a thought if it is `open`, with at most `room` tokens in all.
    pub fn new(thinking: Arc<Thinking>, tokenizer: Tokenizer, open: bool, room: usize) -> Self {
        Self { thinking, tokenizer, open, room }
    }

    pub(crate) fn begin(&self) -> Spent {
        Spent(if self.open { Place::Thought } else { Place::Beginning })
    }

    /// Whether the mark that ends a thought is among the last tokens.
    fn ended(&self, new: &[u32]) -> bool {
        let end = self.thinking.end();
        let tail = &new[new.len().saturating_sub(end.len() + MARGIN)..];
        self.thinking.decode(&self.tokenizer, tail).is_ok_and(|text| text.contains(end))
    }
}

impl Spent {
    /// Whether a sequence ends with its last token, whose answer may have `most` of them.
    pub(crate) fn all(&mut self, budget: &Budget, new: &[u32], most: usize) -> bool {
        if self.0 == Place::Beginning {
            let text = budget.thinking.decode(&budget.tokenizer, new).unwrap_or_default();
            match budget.thinking.begins(&text) {
                Some(true) => self.0 = Place::Thought,
                Some(false) => self.0 = Place::Answer(0),
                None => {}
            }
        }
        if self.0 == Place::Thought && budget.ended(new) {
            self.0 = Place::Answer(new.len());
        }
        new.len() >= budget.room
            || match self.0 {
                Place::Beginning => new.len() >= most,
                Place::Thought => new.len() >= budget.thinking.most(),
                Place::Answer(before) => new.len() - before >= most,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChatTemplate;

    /// A token for each of a few characters, and one mark that a decoder leaves out.
    fn tokenizer() -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        let vocab: Vec<String> = "ab <>/thinkx".chars().enumerate().map(|(i, c)| format!("\"{c}\":{i}")).collect();
        let json = format!(
            "{{\"version\":\"1.0\",\"added_tokens\":[{{\"id\":12,\"content\":\"[/THINK]\",\"special\":true,\
             \"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false}}],\"normalizer\":null,\
             \"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":{{\"type\":\"Fuse\"}},\"model\":{{\"type\":\"BPE\",\
             \"vocab\":{{{}}},\"merges\":[]}}}}",
            vocab.join(",")
        );
        std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
        Tokenizer::from_hf_dir(dir.path()).unwrap()
    }

    /// After how many of the tokens of `text` a sequence ends, whose thought may have 12 and whose answer 8.
    fn ends(template: &str, text: &str, open: bool, room: usize) -> Option<usize> {
        let (tokenizer, template) = (tokenizer(), ChatTemplate::new("t", template, None, None).unwrap());
        let thinking =
            Thinking::clone(template.with_think_end("</think>", &tokenizer).with_most_thought(12).thinking().unwrap());
        let thinking =
            if text.contains('[') { Thinking::find("", Some(&tokenizer)).unwrap().at_most(12) } else { thinking };
        let ids = tokenizer.encode(text).unwrap();
        let budget = Budget::new(Arc::new(thinking), tokenizer, open, room);
        let mut spent = budget.begin();
        (1..=ids.len()).find(|&n| spent.all(&budget, &ids[..n], 8))
    }

    #[test]
    fn the_answer_is_counted_behind_the_thought() {
        let more = "ab".repeat(9);
        let ends = |text: &str, open: bool| ends("x", &text.replace('.', &more), open, 99);
        assert_eq!(ends(".", false), Some(8), "no thought");
        assert_eq!(ends("a</think>.", true), Some(17));
        assert_eq!(ends("<think>", false), None);
        // A thought of exactly as many tokens, and one more.
        assert_eq!(ends("aaaa</think>.", true), Some(20));
        assert_eq!(ends("aaaaa</think>.", true), Some(12), "unfinished");
        assert_eq!(ends(".", true), Some(12));
        // A tag that is no thought.
        assert_eq!(ends("<thank.", false), Some(8));
        // A mark that a decoder leaves out, one token.
        assert_eq!(ends("aa[/THINK].", true), Some(11));
    }

    #[test]
    fn there_is_never_more_than_there_is_room_for() {
        assert_eq!(ends("x", "aaaa</think>ababababab", true, 5), Some(5));
        assert_eq!(ends("x", "aaaa</think>ababababab", true, 14), Some(14));
    }
}
