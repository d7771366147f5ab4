//! A line of `eval/<subject>/likelihood.jsonl`, which is a journal while the work goes on. Invariant: the text of an
//! answer is in no line, only its hash.

use eraser_data::Entry;
use serde::{Deserialize, Serialize};

/// The rest of an answer, after some of its own tokens were given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct After {
    /// Tokens that were given.
    pub cut: usize,
    /// Tokens that are left, the end among them.
    pub tokens: usize,
    /// Their mean NLL, nats.
    pub nll: f64,
}

/// An answer to a question in one context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Set of the question.
    pub set: String,
    /// The question's id: the first 16 hex digits of the SHA-256 of its text.
    pub id: String,
    /// The question.
    pub question: String,
    /// `plain`, or `template:<name>`.
    pub context: String,
    /// SHA-256 of the user's turn, 16 hex digits: figures of two subjects are compared where it is the same.
    pub prompt: String,
    /// SHA-256 of the answer's text.
    pub answer: String,
    /// Tokens of the answer that were scored, without the end.
    pub own: usize,
    /// It is longer than the model's positions: its rest and its end were not scored.
    pub cut_off: bool,
    /// By cut, those that the answer is longer than.
    pub after: Vec<After>,
    /// The other cuts: no token of the answer's own is left behind them.
    pub short: Vec<usize>,
    /// What was measured: the first 16 hex digits of the subject's fingerprint.
    pub subject: String,
    /// Key of all that the figures depend on: subject, tokens, cuts, and what was scored together with it.
    pub fingerprint: String,
}

impl Entry for Line {
    type Key = (String, String);

    fn key(&self) -> Self::Key {
        (self.set.clone(), self.fingerprint.clone())
    }
}
