//! Everything that decides a training run. Field names are the flags of `eraser train` and the keys of `[train]` in a
//! run file; defaults are the published settings.

use crate::gamma::Gamma;
use crate::method::{AlignLoss, Extra, KlScope, Method, Term, TermSettings};
use eraser_data::{NoiseKind, Ranges, WrongValue};
use eraser_model::{Error, LoraConfig, Patterns, Result, adapter::Module};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
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
    /// Each token by itself: none may stay likely because others have become very unlikely. Goes beyond the paper.
    Token,
    /// The mean over the effective batch.
    Batch,
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
    /// A new permutation each epoch.
    #[default]
    Shuffled,
    /// As in the file, wrapping around.
    File,
}

/// Whether blocks keep their activations for backward or run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointActivations {
    /// The first blocks of a forward pass run again as far as it takes to keep at most 340 MB of activations.
    #[default]
    Auto,
    /// Every block runs again: the least memory, up to a third more time.
    On,
    /// None does.
    Off,
}

/// What is done with a row that is longer than `max_length`, or than the longest sequence of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlong {
    /// It is cut, and counted.
    #[default]
    Cut,
    /// Training does not start.
    Refuse,
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

/// What a low-rank pair has and the change of a whole weight has not.
const OF_LOW_RANK: [&str; 4] = ["rank", "alpha", "lora_dropout", "rslora"];

/// What prompt noise of a round is made of.
const NOISE_OF_ROUNDS: [&str; 4] = ["noise_before", "noise_after", "noise_kind", "noise_share"];

/// Highest learning rate that is taken. AdamW moves every value by about the rate in a step, and an adapter's values
/// are below 1.
pub const MAX_LR: f64 = 1.0;

/// A named choice of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The published settings, which are the defaults, with the rate of the method.
    Paper,
    /// What held best of all that was measured: every linear layer, prompt noise of several kinds around harmful,
    /// refused and benign questions, answers that are broken off. Goes beyond the paper.
    Strong,
}

/// Settings of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in a run file")]
pub struct TrainOptions {
    /// The method, which decides the terms of the loss.
    pub method: Method,
    /// The preset that the others began as, which the record of a training names. It decides nothing by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
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
    /// The weights of these modules are trained as a whole: rank, alpha, rslora and dropout then have no meaning.
    pub full: bool,
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
    /// Epochs, each once through the help set; ignored when `steps` is given.
    pub epochs: f64,
    /// Optimiser steps; None = from `epochs`.
    pub steps: Option<usize>,
    /// Rows of each set per micro-batch.
    pub micro_batch: usize,
    /// Micro-batches per optimiser step.
    pub grad_accum: usize,
    /// Longest sample, in tokens.
    pub max_length: usize,
    /// What is done with longer ones.
    pub overlong: Overlong,
    /// Threshold of the hinge, in nats per token.
    pub gamma: Gamma,
    /// What `gamma = "auto"` adds to the base model's loss on the harm set, in nats per token.
    pub gamma_margin: f64,
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
    /// Terms of other methods beside those of eraser.
    pub extra: Vec<Extra>,
    /// The beta of npo, simnpo, wga, safe-unlearning, dpo and undial; None = the published one of the method.
    pub beta: Option<f64>,
    /// The length of the vector that rmu steers hidden states to; None = the published one.
    pub steering: Option<f64>,
    /// Layers behind which the losses of rmu and circuit-breakers look at hidden states, and lat moves them; None = those
    /// at the published depths.
    pub loss_layers: Option<Vec<usize>>,
    /// The greatest length of what lat adds to a hidden state; None = 6.
    pub attack_epsilon: Option<f64>,
    /// Steps in which lat looks for what it adds; None = 16.
    pub attack_steps: Option<usize>,
    /// The learning rate of those steps; None = 0.05.
    pub attack_lr: Option<f64>,
    /// What the answers of the help set, and those of the retain set, may cost under pdu, in nats per token; None = what
    /// they cost the base model.
    pub retain_eps: Option<f64>,
    /// How far a dual variable of pdu moves in a step, for each nat that its answers cost above the bound.
    pub dual_step: f64,
    /// Steps before the dual variables of pdu move; None = half of the steps.
    pub dual_warmup: Option<usize>,
    /// Weight of the term that says how harmful questions are answered: align (eraser, sft, safe-unlearning), random
    /// (gam), refuse (rsft).
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
    /// What prompt noise is made of.
    pub noise_kind: NoiseKind,
    /// Share of the questions that get prompt noise; the others stay plain.
    pub noise_share: f64,
    /// Most tokens of a harmful answer that are given, so that what comes after them is unlearned; 0 = none.
    pub harm_depth: usize,
    /// What the align term takes of the refusals.
    pub align_loss: AlignLoss,
    /// Prompt noise T on the align set.
    pub align_noise: bool,
    /// Prompt noise T on the retain set.
    pub retain_noise: bool,
    /// Most tokens of a harmful answer to the same question that are given before a refusal; 0 = none.
    pub align_depth: usize,
    /// How often, between two trainings of this length, the model is asked what it still says, and its answers join the
    /// harm set; 0 = never.
    pub rounds: usize,
    /// Questions of the harm set that are asked in a round, each in several ways.
    pub round_questions: usize,
    /// Most tokens of an answer in a round.
    pub round_tokens: usize,
    /// Train on a harm set most of whose answers are refusals, or an align set most of whose answers are not refusals.
    pub allow_swapped: bool,
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
            preset: None,
            rank: 8,
            alpha: 16.0,
            lora_dropout: 0.05,
            targets: vec![Module::Q, Module::V],
            layers: None,
            rslora: false,
            full: false,
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
            overlong: Overlong::Cut,
            gamma: Gamma::Nats(1.8),
            gamma_margin: 2.0,
            gamma_scope: GammaScope::MicroBatch,
            kl_scope: KlScope::Response,
            harm_answers: HarmAnswers::File,
            harm_weight: 1.0,
            help_weight: 1.0,
            extra: Vec::new(),
            beta: None,
            steering: None,
            loss_layers: None,
            attack_epsilon: None,
            attack_steps: None,
            attack_lr: None,
            retain_eps: None,
            dual_step: 1.0,
            dual_warmup: None,
            align_weight: 1.0,
            retain_weight: 1.0,
            retain_take: None,
            noise: true,
            noise_before: 50,
            noise_after: 20,
            noise_kind: NoiseKind::Tokens,
            noise_share: 1.0,
            harm_depth: 0,
            align_loss: AlignLoss::Kl,
            align_noise: false,
            retain_noise: false,
            align_depth: 0,
            rounds: 0,
            round_questions: 64,
            round_tokens: 64,
            allow_swapped: false,
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
    /// The terms of the method's loss.
    pub fn terms(&self) -> Vec<Term> {
        let settings = self.term_settings();
        let mut terms = (self.method.terms)(&settings);
        terms.extend(self.extra().iter().filter_map(|extra| extra.term(&settings)));
        terms
    }

    /// Those that count.
    fn extra(&self) -> &[Extra] {
        if self.method.uses("extra") { &self.extra } else { &[] }
    }

    fn term_settings(&self) -> TermSettings {
        TermSettings {
            noise: self.noise,
            align_noise: self.align_noise,
            retain_noise: self.retain_noise,
            harm_depth: self.harm_depth,
            align_depth: self.align_depth,
            align_loss: self.align_loss,
            unrelated: self.harm_answers == HarmAnswers::Random,
            kl_scope: self.kl_scope,
            harm_weight: self.harm_weight,
            help_weight: self.help_weight,
            align_weight: self.align_weight,
            retain_weight: self.retain_weight,
            beta: self.beta,
            steering: self.steering,
            attack_epsilon: self.attack_epsilon,
            attack_steps: self.attack_steps,
            attack_lr: self.attack_lr,
        }
    }

    /// Whether the option `name` (its field) changes anything here.
    pub fn uses(&self, name: &str) -> bool {
        // Rounds ask the model under prompt noise, whether or not a term has some.
        let in_rounds = self.rounds > 0 && NOISE_OF_ROUNDS.contains(&name);
        if self.full && OF_LOW_RANK.contains(&name) {
            return false;
        }
        self.method.uses(name) || in_rounds || self.extra().iter().any(|extra| extra.method.uses(name))
    }

    /// As they are compared with those of earlier runs. An option that came later is left out where it changes nothing:
    /// records from before do not have it, and what they made is still of use.
    ///
    /// # Errors
    /// None that options of this type have.
    pub fn recorded(&self) -> Result<Map<String, Value>> {
        let Value::Object(mut all) = serde_json::to_value(self).map_err(Error::failed)? else {
            return Err(Error::failed("the options are not a table"));
        };
        if !self.full {
            all.remove("full");
        }
        Ok(all)
    }

    /// The options that change nothing here.
    pub fn unused(&self) -> impl Iterator<Item = &'static str> {
        self.method.unused().chain(OF_LOW_RANK).filter(|name| !self.uses(name))
    }

    /// The same settings, with the defaults in place of what is not used: they are shared with other methods.
    #[must_use]
    pub fn without_unused(self) -> Self {
        let values = |options: &Self| serde_json::to_value(options).ok();
        let (Some(mut own), Some(usual)) = (values(&self), values(&Self::default())) else { return self };
        for name in self.unused() {
            if let (Some(own), Some(usual)) = (own.get_mut(name), usual.get(name)) {
                own.clone_from(usual);
            }
        }
        serde_json::from_value(own).unwrap_or(self)
    }

    /// What is out of range, by field.
    pub fn check(&self) -> Vec<WrongValue> {
        let mut ranges = Ranges::default();
        for (field, n) in [("rank", self.rank), ("micro_batch", self.micro_batch), ("grad_accum", self.grad_accum)] {
            ranges.within(field, n, 1, 65_536);
        }
        ranges.need("steps", self.steps != Some(0), "at least 1");
        ranges.need("early_stop", self.early_stop != Some(0), "at least 1");
        ranges.within("max_length", self.max_length, 2, 1 << 24);
        let counts = [
            ("noise_before", self.noise_before),
            ("noise_after", self.noise_after),
            ("harm_depth", self.harm_depth),
            ("align_depth", self.align_depth),
        ];
        for (field, n) in counts {
            ranges.need(field, n <= 65_536, "at most 65536");
        }
        for (field, x) in [("alpha", self.alpha), ("adam_epsilon", self.adam_epsilon), ("epochs", self.epochs)] {
            ranges.positive(field, x);
        }
        ranges.need("lr", self.lr > 0.0 && self.lr <= MAX_LR, "a positive number of at most 1");
        let positive = [
            ("beta", self.beta),
            ("steering", self.steering),
            ("attack_epsilon", self.attack_epsilon),
            ("max_grad_norm", self.max_grad_norm),
        ];
        for (field, x) in positive {
            ranges.need(field, x.is_none_or(|x| x.is_finite() && x > 0.0), "a positive number");
        }
        ranges.need("attack_steps", self.attack_steps.is_none_or(|n| n <= 65_536), "at most 65536");
        let rate = self.attack_lr.is_none_or(|x| x > 0.0 && x <= MAX_LR);
        ranges.need("attack_lr", rate, "a positive number of at most 1");
        let labels: Vec<String> = self.terms().iter().map(Term::label).collect();
        let once = labels.iter().enumerate().all(|(i, label)| !labels[..i].contains(label));
        ranges.need("extra", once, "each term once");
        let own_depths: Vec<_> = self.extra().iter().map(|e| e.method.depths).filter(|d| !d.is_empty()).collect();
        let alike = self.loss_layers.is_some() || own_depths.windows(2).all(|pair| pair[0] == pair[1]);
        ranges.need("extra", alike, "terms that look at the same layers, or loss_layers says which");
        let some = self.loss_layers.as_ref().is_none_or(|layers| !layers.is_empty());
        ranges.need("loss_layers", some, "at least one layer");
        let bound = self.retain_eps.is_none_or(|x| x.is_finite() && x >= 0.0);
        ranges.need("retain_eps", bound, "0 or a positive number");
        ranges.within("rounds", self.rounds, 0, 100);
        ranges.within("round_questions", self.round_questions, 1, 65_536);
        ranges.within("round_tokens", self.round_tokens, 1, 65_536);
        ranges.need("noise_share", (0.0..=1.0).contains(&self.noise_share), "between 0 and 1");
        let plain = self.kl_scope == KlScope::Response || self.align_loss == AlignLoss::CrossEntropy;
        let around = [("align_noise", self.align_noise), ("align_depth", self.align_depth > 0)];
        for (field, on) in around {
            // Only the refusal is there both when asked plainly and here.
            ranges.need(field, plain || !on, "off with kl_scope all, unless align_loss is cross-entropy");
        }
        let response = self.kl_scope == KlScope::Response;
        ranges.need("retain_noise", response || !self.retain_noise, "off with kl_scope all");
        if let Gamma::Nats(gamma) = self.gamma {
            ranges.need("gamma", gamma.is_finite() && gamma >= 0.0, "0, a positive number or auto");
        }
        for (field, x) in [
            ("weight_decay", self.weight_decay),
            ("gamma_margin", self.gamma_margin),
            ("dual_step", self.dual_step),
            ("harm_weight", self.harm_weight),
            ("help_weight", self.help_weight),
            ("align_weight", self.align_weight),
            ("retain_weight", self.retain_weight),
        ] {
            ranges.not_negative(field, x);
        }
        for (field, x) in
            [("lora_dropout", self.lora_dropout), ("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)]
        {
            ranges.below_one(field, x);
        }
        ranges.need("targets", !self.targets.is_empty(), "at least one module");
        ranges.need("layers", self.layers.as_ref().is_none_or(|l| !l.is_empty()), "at least one layer");
        ranges.finish()
    }

    /// Optimiser steps of a run whose epochs have `rows` rows.
    pub fn total_steps(&self, rows: usize) -> usize {
        let per_step = (self.micro_batch * self.grad_accum) as f64;
        self.steps.unwrap_or_else(|| (self.epochs * rows as f64 / per_step).ceil().max(1.0) as usize)
    }

    /// The layers behind which losses on hidden states look, of a model with `blocks` layers.
    pub fn loss_layers(&self, blocks: usize) -> Vec<usize> {
        let at = |depth: &f64| ((depth * blocks as f64).round() as usize).clamp(1, blocks.max(1)) - 1;
        self.loss_layers.clone().unwrap_or_else(|| {
            let mut depths = [self.method].into_iter().chain(self.extra().iter().map(|extra| extra.method));
            let depths = depths.find(|method| !method.depths.is_empty()).map_or(&[][..], |method| method.depths);
            let mut layers: Vec<usize> = depths.iter().map(at).collect();
            // In a model of few layers two depths are one.
            layers.dedup();
            layers
        })
    }

    /// The probability that an element of an adapter's input is dropped in training.
    pub fn dropout(&self) -> f64 {
        if self.full { 0.0 } else { self.lora_dropout }
    }

    /// The adapter these options ask for.
    pub fn lora_config(&self) -> LoraConfig {
        LoraConfig {
            r: self.rank,
            alpha: self.alpha,
            dropout: self.dropout(),
            targets: self.targets.clone(),
            layers: self.layers.clone(),
            rslora: self.rslora,
            patterns: Patterns::default(),
        }
    }
}
