//! Everything that decides a training run. Field names are the flags of `eraser train` and the keys of `[train]` in a run
//! file; defaults are the published settings.

use crate::Method;
use eraser_model::{LoraConfig, adapter::Module};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Over what the hinge of the harm term is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GammaScope {
    /// The mean over the response tokens of a micro-batch (as published).
    #[default]
    MicroBatch,
    /// Each sample's own mean.
    Sample,
    /// The mean over the effective batch.
    Batch,
}

/// Over which positions a KL term averages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlScope {
    /// Positions that predict a response token (the paper).
    #[default]
    Response,
    /// Every token of the sample, the prompt's included.
    All,
}

/// Which answers the harm set has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HarmAnswers {
    /// Those of the file.
    #[default]
    File,
    /// Unrelated ones, drawn from the help set anew each time: an ablation.
    Random,
}

/// The learning rate over the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine down to 0 at the last step.
    #[default]
    Cosine,
    /// The same rate throughout.
    Constant,
}

/// In which order batches take the rows of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// A new permutation each pass.
    #[default]
    Shuffled,
    /// As in the file, wrapping around.
    File,
}

/// Whether blocks keep their activations for backward or run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointActivations {
    /// The first blocks of a pass run again as far as it takes to keep at most 340 MB of activations.
    #[default]
    Auto,
    /// Every block runs again: the least memory, up to a third more time.
    On,
    /// None does.
    Off,
}

/// Under which prompt templates each sample is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Templates {
    /// The model's own and the plain USER/ASSISTANT form (as published): each sample is written under both.
    #[default]
    Both,
    /// The model's own.
    Model,
    /// The plain form.
    Plain,
    /// A text file with `{}` where the question goes.
    File(PathBuf),
}

/// Settings of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct TrainOptions {
    /// The method, which decides the terms of the loss.
    pub method: Method,
    /// Rank of the adapter.
    pub rank: usize,
    /// LoRA alpha.
    pub alpha: f64,
    /// LoRA dropout.
    pub lora_dropout: f64,
    /// Adapted modules.
    pub targets: Vec<Module>,
    /// Adapted layers, None = all.
    pub layers: Option<Vec<usize>>,
    /// rsLoRA scaling.
    pub rslora: bool,
    /// Peak learning rate.
    pub lr: f64,
    /// Schedule.
    pub schedule: Schedule,
    /// Linear warm-up, in steps.
    pub warmup_steps: usize,
    /// AdamW weight decay.
    pub weight_decay: f64,
    /// AdamW beta1.
    pub adam_beta1: f64,
    /// AdamW beta2.
    pub adam_beta2: f64,
    /// AdamW epsilon.
    pub adam_epsilon: f64,
    /// Clip the gradient to this norm; None = no clipping.
    pub max_grad_norm: Option<f64>,
    /// Passes over the help set; ignored when `steps` is given.
    pub epochs: f64,
    /// Optimiser steps; None = from `epochs`.
    pub steps: Option<usize>,
    /// Rows of each set per micro-batch.
    pub micro_batch: usize,
    /// Micro-batches per optimiser step.
    pub grad_accum: usize,
    /// Longest sample, in tokens.
    pub max_length: usize,
    /// Threshold of the hinge, in nats per token.
    pub gamma: f64,
    /// Scope of the hinge.
    pub gamma_scope: GammaScope,
    /// Scope of the KL terms.
    pub kl_scope: KlScope,
    /// Answers of the harm set.
    pub harm_answers: HarmAnswers,
    /// Weight of the harm term, times the method's published one.
    pub harm_weight: f64,
    /// Weight of the help term.
    pub help_weight: f64,
    /// Weight of the term that says how harmful questions are answered: align (eraser), random (gam), refuse (rsft).
    pub align_weight: f64,
    /// Weight of the retain term; used when a retain set is given.
    pub retain_weight: f64,
    /// Rows of the retain set that are used, its first ones; None = all, 0 = no retain term.
    pub retain_take: Option<usize>,
    /// Prompt noise T on the harm set.
    pub noise: bool,
    /// Most noise tokens before the question.
    pub noise_before: usize,
    /// Most noise tokens after the question.
    pub noise_after: usize,
    /// Prompt templates.
    pub templates: Templates,
    /// Order of rows.
    pub order: Order,
    /// Stop when the hinge has been closed and the KL terms flat for this many steps; None = never.
    pub early_stop: Option<usize>,
    /// Which activations are kept for backward; changes no result.
    pub checkpoint_activations: CheckpointActivations,
    /// Write a checkpoint every this many steps; 0 = only at the end and on interruption.
    pub checkpoint_every: usize,
    /// A resumed run may have another length: its learning rate follows the schedule of that length from there on.
    pub extend: bool,
    /// Seed of every random stream.
    pub seed: u64,
    /// Start from this PEFT adapter.
    pub init_adapter: Option<PathBuf>,
    /// Write the first step's adapter gradients here.
    pub dump_grads: Option<PathBuf>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            method: Method::default(),
            rank: 8,
            alpha: 16.0,
            lora_dropout: 0.05,
            targets: vec![Module::Q, Module::V],
            layers: None,
            rslora: false,
            lr: 2e-5,
            schedule: Schedule::Cosine,
            warmup_steps: 0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: None,
            epochs: 5.0,
            steps: None,
            micro_batch: 4,
            grad_accum: 16,
            max_length: 1536,
            gamma: 1.8,
            gamma_scope: GammaScope::MicroBatch,
            kl_scope: KlScope::Response,
            harm_answers: HarmAnswers::File,
            harm_weight: 1.0,
            help_weight: 1.0,
            align_weight: 1.0,
            retain_weight: 1.0,
            retain_take: None,
            noise: true,
            noise_before: 50,
            noise_after: 20,
            templates: Templates::Both,
            order: Order::Shuffled,
            early_stop: None,
            checkpoint_activations: CheckpointActivations::Auto,
            checkpoint_every: 50,
            extend: false,
            seed: 42,
            init_adapter: None,
            dump_grads: None,
        }
    }
}

impl TrainOptions {
    /// Optimiser steps of a run one pass of which has `rows` rows.
    pub fn total_steps(&self, rows: usize) -> usize {
        let per_step = (self.micro_batch * self.grad_accum) as f64;
        self.steps.unwrap_or_else(|| (self.epochs * rows as f64 / per_step).ceil().max(1.0) as usize)
    }

    /// The adapter these options ask for.
    pub fn lora_config(&self) -> LoraConfig {
        LoraConfig {
            r: self.rank,
            alpha: self.alpha,
            dropout: self.lora_dropout,
            targets: self.targets.clone(),
            layers: self.layers.clone(),
            rslora: self.rslora,
        }
    }
}
