//! stub
use crate::{Adapter, Decoder, Result};
use std::ops::ControlFlow;

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most new tokens per sequence.
    pub max_new_tokens: usize,
    /// 0 = greedy.
    pub temperature: f32,
    /// Keep the k likeliest; 0 = all.
    pub top_k: usize,
    /// Keep the smallest set with this probability; 1.0 = all.
    pub top_p: f32,
    /// Divides (or multiplies) the logits of tokens seen, as transformers; 1.0 = off.
    pub repetition_penalty: f32,
    /// Ids that end a sequence; not part of the result.
    pub stops: Vec<u32>,
    /// Seed; sequence i draws from stream (seed, i), whatever else is in the batch.
    pub seed: u64,
}

/// What was generated for one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// New tokens, the stop token left out.
    pub tokens: Vec<u32>,
    /// Ended at a stop token, not at the limit.
    pub stopped: bool,
}

/// Generates for every prompt, at most `batch` sequences at a time. `on_token(i, id)` sees every new token of
/// sequence i as it comes; Break ends the whole generation early.
pub fn generate(
    _decoder: &Decoder,
    _adapter: Option<&Adapter>,
    _prompts: &[Vec<u32>],
    _options: &GenerateOptions,
    _batch: usize,
    _on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    todo!()
}
