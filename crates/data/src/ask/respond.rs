//! What answers prompts, and what takes the answers. In: user turns; out: answers, each as soon as it is there.
//! Invariant: what answers has a fingerprint that changes whenever the same prompt could get another answer.

use super::next_tokens::NextTokens;
use crate::Sampling;
use eraser_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// An answer as it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The text, special tokens left out.
    pub text: String,
    /// New tokens; None when a server does not say.
    pub tokens: Option<usize>,
    /// The model ended it by itself, before the limit of tokens.
    pub stopped: bool,
    /// A server's filter kept the answer back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

/// What takes answers as they come.
pub trait Sink {
    /// Stores the answer to prompt `i`.
    fn take(&mut self, i: usize, answer: Answer) -> Result<()>;
    /// Hears that `more` tokens of answers were written.
    fn tokens(&mut self, more: usize) {
        let _ = more;
    }
    /// False when the work is to stop.
    fn alive(&mut self) -> bool;
}

/// What answers prompts.
pub trait Respond {
    /// Identifies whatever answers depend on besides prompt and sampling.
    fn fingerprint(&self) -> String;
    /// Prompts that are answered together: beside others, an answer can differ by rounding.
    fn together(&self) -> usize {
        1
    }
    /// How likely its next tokens are; None where it gives text only.
    fn next_tokens(&self) -> Option<&dyn NextTokens> {
        None
    }
    /// Gives `sink` an answer for every prompt that is `wanted`. The other prompts may still be answered, where they
    /// change the rounding of the wanted answers.
    fn respond(&self, prompts: &[&str], wanted: &[bool], sampling: &Sampling, sink: &mut dyn Sink) -> Result<()>;
}

/// The stage was stopped from outside.
pub fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the work was stopped; answers so far are kept")
        .hint("run the same command again to continue")
}
