//! The training loop. In: a model, its sets, options; out: an adapter directory, metrics, checkpoints. Invariant: what a
//! step does depends on the options, the sets, the model and the step's number only, so that a run which was stopped and
//! resumed at any step writes the same adapter as one that was not.

use crate::{
    AdamW, CheckpointActivations, GammaScope, KlScope, TrainOptions,
    adamw::AdamWConfig,
    checkpoint::{self, Position},
    feed::{Drawn, Feed, templates},
    metrics::Log,
    objective::{self, Term},
    reference::Reference,
    schedule::learning_rate,
};
use candle_core::{Tensor, Var};
use eraser_data::{Batch, Noise, PromptTemplate, Record, Sample};
use eraser_model::{
    Adapter, Error, ErrorKind, LoraConfig, Model, Result,
    error::PathContext,
    files::write_atomic,
    trace::{Checkpoint, Gradients, TraceOptions},
};
use eraser_ops::{Dropout, cross_entropy, gemm::operations, kl_divergence};
use sha2::{Digest, Sha256};
use std::{path::Path, time::Instant};

pub use crate::metrics::{StepMetrics, TrainSummary};

/// Bytes of activations that a pass keeps before its first blocks are run again instead.
const ACTIVATIONS: usize = 400 << 20;

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
///
/// # Errors
/// [`ErrorKind::Request`] for options, sets or checkpoints that do not fit; [`ErrorKind::Failed`] when the loss is not
/// finite; [`ErrorKind::Interrupted`] when the observer stopped the run, after its checkpoint was written.
pub fn train(
    model: &Model,
    sets: &Sets,
    options: &TrainOptions,
    dir: &Path,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    let templates = templates(model, options)?;
    let home = dir.join("train");
    std::fs::create_dir_all(&home).at(&home)?;
    let mut run = Run::new(model, sets, options, &templates, &home)?;
    let total = options.total_steps(run.help.feed.rows());
    let checkpoints = home.join("checkpoints");
    let fingerprint = fingerprint(model, sets, options)?;
    let mut position = Position { fingerprint, ..Position::default() };
    if resume {
        let names: Vec<String> = run.parameters.iter().map(|(n, _)| n.clone()).collect();
        if let Some(found) = checkpoint::newest(&checkpoints, &position.fingerprint, &names)? {
            for (name, variable) in &run.parameters {
                if let Some(value) = found.parameters.get(name) {
                    variable.set(&value.to_device(variable.device())?)?;
                }
            }
            run.optimiser.restore(found.moments, found.position.optimiser_steps)?;
            position = found.position;
        }
    } else if checkpoints.exists() {
        std::fs::remove_dir_all(&checkpoints).at(&checkpoints)?;
    }
    let mut log = Log::open(&home.join("metrics.jsonl"), position.step)?;
    observer.start(total, position.step);
    while position.step < total && !log.settled(options.early_stop) {
        let (metrics, capped) = run.step(position.step, total)?;
        position.step += 1;
        position.capped = (position.capped.0 + capped.0, position.capped.1 + capped.1);
        log.push(&metrics)?;
        let stop = observer.step(&metrics) == Control::Stop && position.step < total;
        let due = options.checkpoint_every > 0 && position.step.is_multiple_of(options.checkpoint_every);
        if stop || due {
            run.save(&checkpoints, &mut position)?;
        }
        if stop {
            return Err(Error::new(ErrorKind::Interrupted, format!("stopped after step {} of {total}", position.step))
                .hint("the run was saved: go on with the same command and --resume"));
        }
    }
    run.save(&checkpoints, &mut position)?;
    run.adapter.save(&dir.join("adapter"), &model.name)?;
    let summary = log.summary(position.step, position.capped);
    let text = serde_json::to_string_pretty(&summary).map_err(Error::failed)?;
    write_atomic(&home.join("summary.json"), text.as_bytes())?;
    Ok(summary)
}

/// A set that the adapted model stays close to the base model on.
struct KlSet<'a> {
    feed: Feed<'a>,
    weight: f64,
}

/// Everything a step works on.
struct Run<'a> {
    model: &'a Model,
    options: &'a TrainOptions,
    adapter: Adapter,
    parameters: Vec<(String, Var)>,
    optimiser: AdamW,
    reference: Reference<'a>,
    harm: Feed<'a>,
    help: KlSet<'a>,
    align: KlSet<'a>,
    retain: Option<KlSet<'a>>,
}

impl<'a> Run<'a> {
    fn new(
        model: &'a Model,
        sets: &'a Sets,
        options: &'a TrainOptions,
        templates: &'a [PromptTemplate],
        home: &Path,
    ) -> Result<Self> {
        let adapter = match &options.init_adapter {
            Some(dir) => {
                let mut adapter = Adapter::load(dir, &model.config, model.decoder.device())?;
                adapter.config.dropout = options.lora_dropout;
                adapter
            }
            None => Adapter::new(options.lora_config(), &model.config, options.seed, model.decoder.device())?,
        };
        let parameters = adapter.parameters();
        let config = AdamWConfig {
            beta1: options.adam_beta1,
            beta2: options.adam_beta2,
            epsilon: options.adam_epsilon,
            weight_decay: options.weight_decay,
        };
        let optimiser = AdamW::new(parameters.iter().map(|(_, v)| v.clone()).collect(), config);
        let noise = options.noise.then_some(Noise { before: options.noise_before, after: options.noise_after });
        let feed = |name, records, noise| Feed::new(name, model, records, templates, noise, options);
        let kl_set = |name, records, weight| Ok::<_, Error>(KlSet { feed: feed(name, records, None)?, weight });
        let retain = sets.retain.as_deref().map(|r| kl_set("retain", r, options.retain_weight)).transpose()?;
        Ok(Self {
            model,
            options,
            reference: Reference::open(model, adapter.first_block(), &home.join("reference").join("states.bin"))?,
            adapter,
            parameters,
            optimiser,
            harm: feed("harm", &sets.harm, noise)?,
            help: kl_set("help", &sets.help, options.help_weight)?,
            align: kl_set("align", &sets.align, options.align_weight)?,
            retain,
        })
    }

    fn save(&self, checkpoints: &Path, position: &mut Position) -> Result<()> {
        let (moments, steps) = self.optimiser.state();
        position.optimiser_steps = steps;
        checkpoint::save(checkpoints, position, &self.parameters, moments)
    }

    /// One optimiser step; its metrics, and the hinges that were closed of those there were.
    fn step(&mut self, step: usize, total: usize) -> Result<(StepMetrics, (usize, usize))> {
        let (started, before) = (Instant::now(), operations());
        let options = self.options;
        let share = 1.0 / options.grad_accum as f64;
        let mut sum = Sums::default();
        let mut gradients = Gradients::default();
        let mut harm_gradients = Gradients::default();
        for micro in 0..options.grad_accum {
            let from = (step * options.grad_accum + micro) * options.micro_batch;
            let batch_wide = options.gamma_scope == GammaScope::Batch;
            let into = if batch_wide { &mut harm_gradients } else { &mut gradients };
            let weight = if batch_wide { 1.0 } else { share * options.harm_weight };
            let drawn = self.harm.draw(from, options.micro_batch)?;
            let (nll, term, tokens) = self.harm_term(&drawn, from, weight, into)?;
            sum.tokens += tokens;
            sum.nll += objective::mean(&nll).unwrap_or(0.0) * share;
            sum.nll_total += nll.iter().map(|&x| f64::from(x)).sum::<f64>();
            sum.nll_count += nll.len();
            sum.harm += term.value * share;
            sum.capped = (sum.capped.0 + term.capped.0, sum.capped.1 + term.capped.1);
            let context = KlContext { model: self.model, adapter: &self.adapter, options, from, share };
            let reference = &mut self.reference;
            sum.add_kl(0, context.term(&mut self.help, reference, 1, &mut gradients)?, share);
            sum.add_kl(1, context.term(&mut self.align, reference, 2, &mut gradients)?, share);
            if let Some(retain) = &mut self.retain {
                sum.add_kl(2, context.term(retain, reference, 3, &mut gradients)?, share);
            }
        }
        if options.gamma_scope == GammaScope::Batch && sum.nll_count > 0 {
            let count = sum.nll_count as f64;
            sum.nll = sum.nll_total / count;
            sum.harm = objective::hinge(options.gamma, sum.nll);
            sum.capped = (usize::from(sum.harm == 0.0), 1);
            if sum.harm > 0.0 {
                gradients.merge(harm_gradients, options.harm_weight / count)?;
            }
        }
        let mut grads: Vec<Option<Tensor>> = self.parameters.iter().map(|(_, v)| gradients.get(v).cloned()).collect();
        if let (0, Some(path)) = (step, &options.dump_grads) {
            dump(path, &self.parameters, &grads)?;
        }
        let norm = norm(&grads)?;
        let retain = self.retain.as_ref().map(|_| sum.kl[2]);
        let loss = options.harm_weight * sum.harm
            + options.help_weight * sum.kl[0]
            + options.align_weight * sum.kl[1]
            + options.retain_weight * retain.unwrap_or(0.0);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::failed(format!("the loss or its gradient is not finite at step {}", step + 1))
                .hint("lower --lr, or clip with --max-grad-norm 1"));
        }
        if let Some(most) = options.max_grad_norm.filter(|&most| norm > most) {
            for grad in grads.iter_mut().flatten() {
                *grad = grad.affine(most / norm, 0.0)?;
            }
        }
        let lr = learning_rate(options.schedule, options.lr, step, options.warmup_steps, total);
        self.optimiser.step(&grads, lr)?;
        let seen = (step + 1) * options.grad_accum * options.micro_batch;
        let metrics = StepMetrics {
            step: step + 1,
            epoch: seen as f64 / self.help.feed.rows() as f64,
            lr,
            loss,
            nll_harm: sum.nll,
            l_harm: sum.harm,
            l_help: sum.kl[0],
            l_align: sum.kl[1],
            l_retain: retain,
            grad_norm: norm,
            tokens: sum.tokens,
            seconds: started.elapsed().as_secs_f64(),
            gflop: (operations() - before) as f64 / 1e9,
        };
        Ok((metrics, sum.capped))
    }

    /// Forward and, where a hinge is open, backward of the harm term, with `weight`.
    fn harm_term(
        &mut self,
        drawn: &[Drawn],
        from: usize,
        weight: f64,
        gradients: &mut Gradients,
    ) -> Result<(Vec<f32>, Term, usize)> {
        let decoder = &self.model.decoder;
        let batch = pack(drawn);
        let scored = batch.supervised();
        let lower = self.reference.lower(drawn, &batch, self.harm.repeats())?;
        let trace_options = trace_options(self.options, from, 0);
        let first = self.adapter.first_block();
        let trace = decoder.trace_from(first, lower, &batch.segments, Some(&self.adapter), trace_options)?;
        let hidden = decoder.final_hidden(trace.output(), &scored.rows)?;
        let nll = cross_entropy(&hidden, decoder.head(), &batch.targets())?;
        let values = nll.to_vec1::<f32>()?;
        let term = objective::harm(&values, &scored.segments(), self.options.gamma, self.options.gamma_scope);
        if term.weights.iter().any(|&w| w != 0.0) {
            let weights = Tensor::from_slice(&term.weights, values.len(), decoder.device())?.affine(weight, 0.0)?;
            trace.backward_losses(&nll, &weights, gradients)?;
        }
        Ok((values, term, batch.tokens))
    }
}

/// What the KL terms of a micro-batch share.
struct KlContext<'a> {
    model: &'a Model,
    adapter: &'a Adapter,
    options: &'a TrainOptions,
    from: usize,
    share: f64,
}

impl KlContext<'_> {
    /// Forward and backward of one KL term; its value and tokens.
    fn term(
        &self,
        set: &mut KlSet<'_>,
        reference: &mut Reference<'_>,
        stream: u64,
        gradients: &mut Gradients,
    ) -> Result<(f64, usize)> {
        let decoder = &self.model.decoder;
        let drawn = set.feed.draw(self.from, self.options.micro_batch)?;
        let batch = pack(&drawn);
        let scored = match self.options.kl_scope {
            KlScope::Response => batch.supervised(),
            KlScope::All => batch.all(),
        };
        if scored.rows.is_empty() {
            return Ok((0.0, batch.tokens));
        }
        let lower = reference.lower(&drawn, &batch, set.feed.repeats())?;
        let states = reference.states(&drawn, &batch, &scored, &lower)?;
        let options = trace_options(self.options, self.from, stream);
        let first = self.adapter.first_block();
        let trace = decoder.trace_from(first, lower, &batch.segments, Some(self.adapter), options)?;
        let hidden = decoder.final_hidden(trace.output(), &scored.rows)?;
        let divergence = kl_divergence(&hidden, &states, decoder.head())?;
        let term = objective::kl(&divergence.to_vec1::<f32>()?, &scored.counts);
        let weights = Tensor::from_slice(&term.weights, term.weights.len(), decoder.device())?
            .affine(set.weight * self.share, 0.0)?;
        trace.backward_losses(&divergence, &weights, gradients)?;
        Ok((term.value, batch.tokens))
    }
}

/// Means over the micro-batches of a step.
#[derive(Default)]
struct Sums {
    nll: f64,
    nll_total: f64,
    nll_count: usize,
    harm: f64,
    kl: [f64; 3],
    tokens: usize,
    capped: (usize, usize),
}

impl Sums {
    fn add_kl(&mut self, which: usize, (value, tokens): (f64, usize), share: f64) {
        self.kl[which] += value * share;
        self.tokens += tokens;
    }
}

fn pack(drawn: &[Drawn]) -> Batch {
    let samples: Vec<&Sample> = drawn.iter().map(|d| &d.sample).collect();
    Batch::shared(&samples)
}

/// How one pass runs. The seed of its dropout is of the run, the draw and the set; a token that samples share is dropped for
/// all of them or none.
fn trace_options(options: &TrainOptions, from: usize, set: u64) -> TraceOptions {
    let mix = options.seed.wrapping_mul(0xD129_0DDF_53E4_3C9B) ^ ((from as u64) << 8 | set << 4);
    let dropout = (options.lora_dropout > 0.0).then_some(Dropout { p: options.lora_dropout as f32, seed: mix });
    let checkpoint = match options.checkpoint_activations {
        CheckpointActivations::Auto => Checkpoint::Beyond(ACTIVATIONS),
        CheckpointActivations::On => Checkpoint::Always,
        CheckpointActivations::Off => Checkpoint::Never,
    };
    TraceOptions { dropout, checkpoint }
}

/// The Euclidean norm of all gradients together.
fn norm(grads: &[Option<Tensor>]) -> Result<f64> {
    let mut sum = 0.0;
    for grad in grads.iter().flatten() {
        let values = grad.flatten_all()?.to_vec1::<f32>()?;
        sum += values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    }
    Ok(sum.sqrt())
}

/// Writes gradients under their parameters' PEFT names; a parameter without one gets zeros.
fn dump(path: &Path, parameters: &[(String, Var)], grads: &[Option<Tensor>]) -> Result<()> {
    let tensors = parameters
        .iter()
        .zip(grads)
        .map(|((name, variable), grad)| {
            let grad = grad.clone().map_or_else(|| variable.zeros_like(), Ok)?;
            Ok((name.clone(), grad))
        })
        .collect::<Result<Vec<_>>>()?;
    eraser_model::weights::save_safetensors(path, &tensors, candle_core::DType::F32)
}

/// A hash of all that decides what a run does.
fn fingerprint(model: &Model, sets: &Sets, options: &TrainOptions) -> Result<String> {
    let checkpoint_activations = CheckpointActivations::Auto;
    let deciding = TrainOptions { checkpoint_every: 0, dump_grads: None, checkpoint_activations, ..options.clone() };
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(&deciding).map_err(Error::failed)?);
    hash.update(&model.fingerprint);
    for set in [Some(&sets.harm), Some(&sets.help), Some(&sets.align), sets.retain.as_ref()] {
        hash.update([u8::from(set.is_some())]);
        for record in set.into_iter().flatten() {
            for text in [&record.input, &record.output] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
    }
    Ok(eraser_data::files::hex(&hash.finalize()))
}

impl TrainOptions {
    /// Optimiser steps of a run whose help set has `rows` rows.
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
