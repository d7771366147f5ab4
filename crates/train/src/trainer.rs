//! stub
use crate::TrainOptions;
use eraser_data::Record;
use eraser_model::{Model, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The sets of a run.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    /// Harmful questions with harmful answers.
    pub harm: Vec<Record>,
    /// Questions about the entities involved, with the base model's answers.
    pub help: Vec<Record>,
    /// Harmful questions with the base model's refusals.
    pub align: Vec<Record>,
    /// Benign skills next to the harmful ones, with the base model's answers.
    pub retain: Option<Vec<Record>>,
}

/// One line of metrics.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: usize,
    /// Passes over the help set so far.
    pub epoch: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// `l_harm + l_help + l_align (+ l_retain)`, weighted.
    pub loss: f64,
    /// Mean negative log-likelihood of the harmful answers, nats per token.
    pub nll_harm: f64,
    /// `max(0, gamma - nll_harm)`.
    pub l_harm: f64,
    /// KL on the help set.
    pub l_help: f64,
    /// KL on the align set.
    pub l_align: f64,
    /// KL on the retain set, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l_retain: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of the step, all sets.
    pub tokens: usize,
    /// Wall seconds of the step.
    pub seconds: f64,
}

/// The last line of `train --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSummary {
    /// Tokens per second, the first step left out when there are more.
    pub tokens_per_s: Option<f64>,
    /// Tokens counted in it.
    pub tokens: usize,
    /// Seconds counted in it.
    pub seconds: f64,
    /// Peak resident set size, MB.
    pub peak_rss_mb: u64,
    /// Threads.
    pub threads: usize,
    /// Optimiser steps done, those before a resume included.
    pub steps: usize,
    /// Share of harm micro-batches (samples with `gamma_scope` sample) whose hinge was closed.
    pub capped_share: Option<f64>,
}

/// What the observer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Save a checkpoint and return an `Interrupted` error.
    Stop,
}

/// Sees every step: progress bars, JSON lines, Ctrl-C.
pub trait Observer {
    /// Before the first step: total optimiser steps, and steps already done by an earlier run.
    fn start(&mut self, total: usize, done: usize);
    /// After each optimiser step.
    fn step(&mut self, metrics: &StepMetrics) -> Control;
}

/// Trains an adapter on `model` and writes `dir/adapter/`, `dir/train/metrics.jsonl` and `dir/train/checkpoints/`. With
/// `resume`, goes on from the newest checkpoint in `dir`, bit for bit; without one it starts at the beginning.
pub fn train(
    _model: &Model,
    _sets: &Sets,
    _options: &TrainOptions,
    _dir: &Path,
    _resume: bool,
    _observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    todo!()
}
