//! `eraser chat`.

use super::model::ModelArgs;
use clap::{Args, ValueHint};
use eraser_model::{Adapter, Error};
use eraser_run::Problems;
use std::path::PathBuf;

/// Options of `eraser chat`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Without --prompt, every line of stdin is a turn of one conversation. In a terminal, lines can be edited, and \
                  the arrows bring earlier ones back; they are written to no file. Commands: /help, /reset (begin again), \
                  /system TEXT (another system prompt, begin again), /quit; //TEXT sends /TEXT to the model. Ctrl-C stops an \
                  answer."
)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Adapter: a PEFT directory, or a GGUF file
    #[arg(long, short = 'a', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) adapter: Option<PathBuf>,
    /// Answer without the adapter, then with it
    #[arg(long, requires = "adapter")]
    pub(crate) compare: bool,
    /// Answer this and end
    #[arg(long, short = 'p', value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// How to sample.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Most new tokens per answer
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) max_new_tokens: usize,
    /// Always the likeliest token; the same as --temperature 0
    #[arg(long, conflicts_with = "temperature")]
    pub(crate) greedy: bool,
    /// Temperature
    #[arg(long, value_name = "X", default_value = "0.7")]
    pub(crate) temperature: f32,
    /// Only among the N likeliest tokens; 0 = all
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) top_k: usize,
    /// Only among the likeliest tokens that together have this probability
    #[arg(long, value_name = "X", default_value = "0.95")]
    pub(crate) top_p: f32,
    /// Divides the logits of tokens seen; 1 = off
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) repetition_penalty: f32,
    /// Seed of sampling
    #[arg(long, value_name = "N", default_value = "42")]
    pub(crate) seed: u64,
}

impl ChatArgs {
    /// Notes values out of range and an adapter that is not there.
    pub(crate) fn check(&self, problems: &mut Problems) {
        let s = &self.sampling;
        let mut need = |flag: &str, good: bool, what: &str| {
            if !good {
                problems.push(Error::request(format!("--{flag}: must be {what}")));
            }
        };
        need("max-new-tokens", s.max_new_tokens > 0, "at least 1");
        need("temperature", s.temperature.is_finite() && s.temperature >= 0.0, "0 (greedy) or a positive number");
        need("top-p", s.top_p > 0.0 && s.top_p <= 1.0, "above 0 and at most 1");
        let penalty = s.repetition_penalty;
        need("repetition-penalty", penalty.is_finite() && penalty > 0.0, "a positive number");
        if let Some(Err(e)) = self.adapter.as_deref().map(Adapter::check_path) {
            problems.push(e.context("--adapter"));
        }
    }
}
