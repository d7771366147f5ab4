//! stub
use eraser_model::{Result, Tokenizer};

/// The prompt noise T of Eraser: random vocabulary tokens before and after the question, decoded to text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// Most tokens before the question (uniform in 0..=before).
    pub before: usize,
    /// Most tokens after the question.
    pub after: usize,
}

impl Noise {
    /// `text` wrapped; BOS, EOS and other special tokens are never drawn.
    pub fn apply(&self, _text: &str, _tokenizer: &Tokenizer, _rng: &mut impl rand::Rng) -> Result<String> {
        todo!()
    }
}
