//! How answers are drawn. In: settings; out: what generation takes.

use eraser_model::GenerateOptions;
use serde::Serialize;

/// How answers are drawn.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// 0 = greedy.
    pub temperature: f64,
    /// 0 = all. Endpoints are not told.
    pub top_k: usize,
    /// 1 = all.
    pub top_p: f64,
    /// 1 = off. Endpoints are not told.
    pub repetition_penalty: f64,
    /// Seed; of no effect when greedy.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest answer.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }

    /// The same for a local model, which ends an answer at one of `stops`, or after at most `room` tokens.
    pub fn generation(&self, stops: &[u32], room: usize) -> GenerateOptions {
        GenerateOptions {
            temperature: self.temperature as f32,
            top_k: self.top_k,
            top_p: self.top_p as f32,
            repetition_penalty: self.repetition_penalty as f32,
            seed: self.seed,
            ..GenerateOptions::greedy(self.max_new_tokens.min(room), stops)
        }
    }
}
