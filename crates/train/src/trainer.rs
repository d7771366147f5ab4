//! The training loop. In: a model, its sets, options; out: an adapter directory, metrics, checkpoints. Invariant: what a
//! step does depends on the options, the sets, the model and the step's number only, so that a run which was stopped and
//! resumed at any step writes the same adapter as one that was not.

use crate::{
    AdamW, CheckpointActivations, GammaScope, KlScope, Rows, Schedule, Sets, TrainOptions,
    adamw::AdamWConfig,
    checkpoint::{self, Horizon, Position},
    feed::{Feed, templates},
    method::{Loss, Term},
    metrics::{Log, StepMetrics, TrainSummary},
    objective,
    reference::Reference,
    schedule::learning_rate,
    settings::Settings,
};
use candle_core::{Tensor, Var};
use eraser_data::{Batch, Noise, PromptTemplate, Sample};
use eraser_model::{
    Adapter, Error, ErrorKind, Model, Result,
    error::PathContext,
    files::write_atomic,
    trace::{Checkpoint, Gradients, TraceOptions},
};
use eraser_ops::{Dropout, cross_entropy, gemm::operations, kl_divergence};
use std::{path::Path, time::Instant};

/// Bytes of activations that a pass keeps before its first blocks are run again instead.
const ACTIVATIONS: usize = 340 << 20;

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
/// `resume`, goes on from the newest checkpoint in `dir`, bit for bit; without one it starts at the beginning. What the
/// frozen model computes is kept in the file `states`, which several runs on one model may share, one after the other.
///
/// # Errors
/// [`ErrorKind::Request`] for options, sets or checkpoints that do not fit; [`ErrorKind::Failed`] when the loss is not
/// finite; [`ErrorKind::Interrupted`] when the observer stopped the run, after its checkpoint was written.
pub fn train(
    model: &Model,
    sets: &Sets,
    options: &TrainOptions,
    dir: &Path,
    states: &Path,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    let templates = templates(model, options)?;
    let home = dir.join("train");
    std::fs::create_dir_all(&home).at(&home)?;
    let mut run = Run::new(model, sets, options, &templates, states)?;
    let total = options.total_steps(run.pass_rows());
    let checkpoints = home.join("checkpoints");
    let settings = Settings::new(model, sets, options, &templates, &run.adapter.config)?;
    let horizons = vec![Horizon { from: 0, steps: total }];
    let mut position = Position { settings, horizons, ..Position::default() };
    if resume {
        let names: Vec<String> = run.parameters.iter().map(|(n, _)| n.clone()).collect();
        if let Some(found) = checkpoint::newest(&checkpoints, &position.settings, &names)? {
            for (name, variable) in &run.parameters {
                if let Some(value) = found.parameters.get(name) {
                    variable.set(&value.to_device(variable.device())?)?;
                }
            }
            run.optimiser.restore(found.moments, found.position.optimiser_steps)?;
            position = found.position;
            resize(&mut position, total, options)?;
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
    let summary = log.summary(&position);
    let text = serde_json::to_string_pretty(&summary).map_err(Error::failed)?;
    write_atomic(&home.join("summary.json"), text.as_bytes())?;
    Ok(summary)
}

/// Whether `dir` holds a training run that a resumed one goes on from.
///
/// # Errors
/// The directory cannot be read.
pub fn resumable(dir: &Path) -> Result<bool> {
    let home = dir.join("train");
    let finished = dir.join("adapter").exists();
    // A run that was stopped before its first checkpoint begins again at its first step.
    Ok(checkpoint::exists(&home.join("checkpoints"))? || (home.join("metrics.jsonl").exists() && !finished))
}

/// Gives a resumed run its length, where it is not the one that it had.
fn resize(position: &mut Position, total: usize, options: &TrainOptions) -> Result<()> {
    let Some(before) = position.horizons.last().map(|horizon| horizon.steps).filter(|&before| before != total) else {
        return Ok(());
    };
    let done = position.step;
    if total < done {
        return Err(Error::request(format!("steps: {total} are fewer than the {done} that are done"))
            .hint(format!("ask for at least {done}, or begin again in another directory or with --force")));
    }
    if options.schedule != Schedule::Constant && !options.extend {
        return Err(Error::request(format!("steps was {before}, is {total}: the learning rate depends on it"))
            .hint(format!("--extend goes on from step {done} with the learning rate of a run of {total} steps"))
            .hint("with --schedule constant, from the first step on, the number of steps can be changed freely"));
    }
    position.horizons.push(Horizon { from: done, steps: total });
    Ok(())
}

/// A term with its rows.
struct Part<'a> {
    term: Term,
    feed: Feed<'a>,
}

/// Everything a step works on.
struct Run<'a> {
    model: &'a Model,
    options: &'a TrainOptions,
    adapter: Adapter,
    parameters: Vec<(String, Var)>,
    optimiser: AdamW,
    reference: Reference<'a>,
    parts: Vec<Part<'a>>,
}

impl<'a> Run<'a> {
    fn new(
        model: &'a Model,
        sets: &'a Sets,
        options: &'a TrainOptions,
        templates: &'a [PromptTemplate],
        states: &Path,
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
        let noise = Noise { before: options.noise_before, after: options.noise_after };
        let retained = sets.retain.as_ref().map_or(0, |r| options.retain_take.unwrap_or(r.len()));
        let mut parts = Vec::new();
        for term in options.method.terms(options) {
            let mut records = sets.rows(term.rows);
            if term.rows == Rows::Retain {
                records = records.get(..retained).ok_or_else(|| {
                    Error::request(format!("retain_take: {retained} rows of a retain set of {}", records.len()))
                        .hint("ask for fewer rows, or give a larger retain set")
                })?;
                if records.is_empty() {
                    continue;
                }
            }
            let noise = term.noise.then_some(noise);
            let mut feed = Feed::new(term.rows.name(), model, records, templates, noise, options)?;
            if term.unrelated {
                feed = feed.with_answers_of(&sets.help)?;
            }
            parts.push(Part { term, feed });
        }
        Ok(Self {
            model,
            options,
            reference: Reference::open(model, adapter.first_block(), states)?,
            adapter,
            parameters,
            optimiser,
            parts,
        })
    }

    /// Rows of what a pass is: the help set, or the first set of a method that does not see it.
    fn pass_rows(&self) -> usize {
        let part = self.parts.iter().find(|p| p.term.rows == Rows::Help).or(self.parts.first());
        part.map_or(1, |p| p.feed.rows())
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
        let mut sums = vec![Sum::default(); self.parts.len()];
        let mut gradients = Gradients::default();
        let mut hinge_gradients = Gradients::default();
        let batch_wide = |term: &Term| term.loss == Loss::Hinge && options.gamma_scope == GammaScope::Batch;
        for micro in 0..options.grad_accum {
            let from = (step * options.grad_accum + micro) * options.micro_batch;
            for (stream, (part, sum)) in self.parts.iter_mut().zip(&mut sums).enumerate() {
                let pass = Pass { model: self.model, adapter: &self.adapter, options, from, stream: stream as u64 };
                let reference = &mut self.reference;
                if batch_wide(&part.term) {
                    sum.add(&pass.run(part, reference, 1.0, &mut hinge_gradients)?, share);
                } else {
                    sum.add(&pass.run(part, reference, share * part.term.weight, &mut gradients)?, share);
                }
            }
        }
        if let Some((part, sum)) = self.parts.iter().zip(&mut sums).find(|(part, _)| batch_wide(&part.term)) {
            let count = sum.count.max(1) as f64;
            sum.mean = sum.total / count;
            sum.value = objective::hinge(options.gamma, sum.mean);
            sum.capped = (usize::from(sum.value == 0.0), 1);
            if sum.value > 0.0 {
                gradients.merge(hinge_gradients, part.term.weight / count)?;
            }
        }
        let mut grads: Vec<Option<Tensor>> = self.parameters.iter().map(|(_, v)| gradients.get(v).cloned()).collect();
        if let (0, Some(path)) = (step, &options.dump_grads) {
            dump(path, &self.parameters, &grads)?;
        }
        let norm = norm(&grads)?;
        let terms = || self.parts.iter().map(|part| &part.term).zip(&sums);
        let loss: f64 = terms().map(|(term, sum)| term.weight * sum.value).sum();
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
            epoch: seen as f64 / self.pass_rows() as f64,
            lr,
            loss,
            nll_harm: terms().find(|(t, _)| matches!(t.loss, Loss::Hinge | Loss::Ascent)).map(|(_, sum)| sum.mean),
            terms: terms().map(|(term, sum)| (format!("l_{}", term.name), sum.value)).collect(),
            grad_norm: norm,
            tokens: sums.iter().map(|sum| sum.tokens).sum(),
            seconds: started.elapsed().as_secs_f64(),
            gflop: (operations() - before) as f64 / 1e9,
        };
        Ok((metrics, sums.iter().fold((0, 0), |(closed, all), sum| (closed + sum.capped.0, all + sum.capped.1))))
    }
}

/// Forward and backward of one term over one micro-batch.
struct Pass<'a> {
    model: &'a Model,
    adapter: &'a Adapter,
    options: &'a TrainOptions,
    /// Place of the first sample in the sequence of draws.
    from: usize,
    /// Number of the term: what its dropout depends on.
    stream: u64,
}

/// What a pass found.
struct Passed {
    value: objective::Value,
    /// Loss of each scored token.
    losses: Vec<f32>,
    tokens: usize,
}

impl Pass<'_> {
    /// Adds `weight` times the gradient of the term to `gradients`. A term that weighs nothing, or whose hinges are all
    /// closed, has no backward.
    fn run(
        &self,
        part: &mut Part<'_>,
        reference: &mut Reference<'_>,
        weight: f64,
        gradients: &mut Gradients,
    ) -> Result<Passed> {
        let drawn = part.feed.draw(self.from, self.options.micro_batch)?;
        let samples: Vec<&Sample> = drawn.iter().map(|d| &d.sample).collect();
        let batch = Batch::shared(&samples);
        let tokens = batch.tokens;
        let scored = match part.term.loss {
            Loss::Kl(KlScope::All) => batch.all(),
            _ => batch.supervised(),
        };
        if scored.rows.is_empty() {
            return Ok(Passed { value: objective::kl(&[], &[]), losses: Vec::new(), tokens });
        }
        let decoder = &self.model.decoder;
        let lower = reference.lower(&drawn, &batch, part.feed.repeats())?;
        let states = match part.term.loss {
            Loss::Kl(_) => Some(reference.states(&drawn, &batch, &scored, &lower)?),
            _ => None,
        };
        let options = trace_options(self.options, self.from, self.stream);
        let first = self.adapter.first_block();
        let trace = decoder.trace_from(first, lower, &batch.segments, Some(self.adapter), options)?;
        let hidden = decoder.final_hidden(trace.output(), &scored.rows)?;
        let losses = match &states {
            Some(states) => kl_divergence(&hidden, states, decoder.head())?,
            None => cross_entropy(&hidden, decoder.head(), &batch.targets())?,
        };
        let values = losses.to_vec1::<f32>()?;
        let value = match part.term.loss {
            Loss::Hinge => objective::harm(&values, &scored.segments(), self.options.gamma, self.options.gamma_scope),
            Loss::Ascent => objective::signed(&values, -1.0),
            Loss::CrossEntropy => objective::signed(&values, 1.0),
            Loss::Kl(_) => objective::kl(&values, &scored.counts),
        };
        if weight != 0.0 && value.weights.iter().any(|&w| w != 0.0) {
            let weights = Tensor::from_slice(&value.weights, values.len(), decoder.device())?.affine(weight, 0.0)?;
            trace.backward_losses(&losses, &weights, gradients)?;
        }
        Ok(Passed { value, losses: values, tokens })
    }
}

/// What a term came to in a step.
#[derive(Clone, Default)]
struct Sum {
    /// Means over the micro-batches: of the term, and of its tokens' losses.
    value: f64,
    mean: f64,
    /// Over all tokens of the step.
    total: f64,
    count: usize,
    tokens: usize,
    capped: (usize, usize),
}

impl Sum {
    fn add(&mut self, pass: &Passed, share: f64) {
        let Passed { value, losses, tokens } = pass;
        self.value += value.value * share;
        self.mean += objective::mean(losses).unwrap_or(0.0) * share;
        self.total += losses.iter().map(|&x| f64::from(x)).sum::<f64>();
        self.count += losses.len();
        self.tokens += tokens;
        self.capped = (self.capped.0 + value.capped.0, self.capped.1 + value.capped.1);
    }
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
