//! Refusals to learn from. In: a file of texts, or nothing; out: a text for each question. Invariant: a text names no
//! content, so that it is an answer to any question; which one a question gets depends on the seed and its place only.

use crate::pairs::read_pairs;
use crate::streams::stream;
use eraser_model::Result;
use rand::RngExt as _;
use std::path::Path;

/// Refusals in plain words.
const OWN: [&str; 16] = [
    "I'm sorry, but I can't help with that.",
    "I cannot help with this request, because it could lead to harm.",
    "Sorry, I won't help with that. It could hurt someone.",
    "I'm sorry, but I can't do that. If there is a safe way in which I can help, please tell me.",
    "I cannot answer this. What you ask for could cause harm to people.",
    "I apologize, but I can't give any help with this.",
    "I am sorry, but this is something that I will not help with.",
    "No, I cannot do this. It would not be right.",
    "I'm sorry, I have to say no to this request. I would be glad to help with something else.",
    "I cannot take part in this. Please think of those who could be harmed by it.",
    "Sorry, but I can't support this. Is there something else that I can do for you?",
    "I'm really sorry, but I can't help you with this. If you are in trouble, please talk to someone whom you trust.",
    "I can't assist with that request.",
    "My apologies, but I must refuse. This could be dangerous for you or for others.",
    "I cannot give instructions for this. I can help with questions that put nobody in danger.",
    "I'm not able to provide help with this, since it could be used to do harm.",
];

/// Texts that refuse.
#[derive(Clone, Debug, PartialEq)]
pub struct RefusalTexts(Vec<String>);

impl Default for RefusalTexts {
    /// Those of this file.
    fn default() -> Self {
        Self(OWN.map(str::to_owned).to_vec())
    }
}

impl RefusalTexts {
    /// Those of a file: plain text, one a line, or a JSON list of texts.
    ///
    /// # Errors
    /// As [`read_pairs`].
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self(read_pairs(path)?.into_iter().map(|pair| pair.input).collect()))
    }

    /// The refusal of the question at `place`, drawn from the stream `refusal` of `seed`.
    pub fn draw(&self, seed: u64, place: usize) -> &str {
        &self.0[stream(seed, "refusal", &[place as u64]).random_range(0..self.0.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn own_texts_are_distinct_refusals() {
        assert_eq!(OWN.iter().collect::<HashSet<_>>().len(), OWN.len());
        for text in OWN {
            assert!(crate::refusal::refuses(text), "{text}");
        }
    }

    #[test]
    fn a_draw_depends_on_seed_and_place_and_reaches_every_text() {
        let texts = RefusalTexts::default();
        let drawn = |seed| (0..200).map(|place| texts.draw(seed, place)).collect::<Vec<_>>();
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert_eq!(drawn(1).into_iter().collect::<HashSet<_>>().len(), OWN.len());
    }

    #[test]
    fn texts_are_read_from_lines_and_lists() {
        let dir = tempfile::tempdir().unwrap();
        let expected = RefusalTexts(vec!["I cannot.".into(), "Sorry, no.".into()]);
        for (name, text) in [("a.txt", "I cannot.\n\nSorry, no.\n"), ("a.json", "[\"I cannot.\", \"Sorry, no.\"]")] {
            std::fs::write(dir.path().join(name), text).unwrap();
            assert_eq!(RefusalTexts::read(&dir.path().join(name)).unwrap(), expected, "{name}");
        }
    }
}
