//! The training loop. In: a model, its sets, options; out: an adapter directory, metrics, checkpoints. Invariant: what
//! a step does depends on the options, the sets, the model and the step's number only, so that a run which was stopped
//! and resumed at any step writes the same adapter as one that was not.

use crate::{
    adamw::{AdamW, AdamWConfig},
    agree::{self, Next},
    checkpoint::{self, Horizon, Position},
    deal::Deal,
    dual::{self, Dual},
    feed::templates,
    gradients::sum_gradients,
    group::{Alone, Counting, Group, Transport},
    method::{Loss, Ramp, Term},
    metrics::{Log, StepMetrics, TrainSummary},
    options::{Schedule, TrainOptions},
    parts::{check_lengths, nothing_supervised, parts},
    reference::Reference,
    schedule::learning_rate,
    sets::Sets,
    settings::Settings,
    step::{Done, Part, Step, Sum, deal},
    threshold::{Threshold, base_loss},
};
use candle_core::{Tensor, Var};
use eraser_data::SetName;
use eraser_model::{Adapter, Error, ErrorKind, Model, Result, counted, error::PathContext, files::write_atomic};
use eraser_ops::device;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

/// What the observer decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Continue.
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
    /// What the user should know before the first step: rows that are cut, a threshold that was measured.
    fn note(&mut self, _text: &str) {}
}

/// Trains an adapter on `model` in this process alone: [`Training::run`].
///
/// # Errors
/// Those of [`Training::run`].
pub fn train(
    model: &Model,
    sets: &Sets,
    options: &TrainOptions,
    dir: &Path,
    states: &Path,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    Training { model, sets, options, dir, states, resume, group: &Alone }.run(observer)
}

/// A training run about to start.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// What is adapted.
    pub model: &'a Model,
    /// What it learns from.
    pub sets: &'a Sets,
    /// All that decides what it learns.
    pub options: &'a TrainOptions,
    /// Gets `adapter/` and `train/`.
    pub dir: &'a Path,
    /// A file for what the frozen model computes, which several runs on one model may share, one after the other. Of
    /// several ranks each has a file of its own beside it.
    pub states: &'a Path,
    /// Continue from the newest checkpoint in `dir`, bit for bit. Without one the run starts at the beginning.
    pub resume: bool,
    /// The ranks that take its steps together, of which this is one. Each is given the same model, sets and options.
    pub group: &'a dyn Group,
}

impl Training<'_> {
    /// Trains, and writes `adapter/`, `train/metrics.jsonl`, `train/summary.json` and `train/checkpoints/`. Of several
    /// ranks the first writes, reads checkpoints and asks its `observer` whether to go on; the others follow.
    ///
    /// # Errors
    /// [`ErrorKind::Request`] for options, sets or checkpoints that do not fit, more ranks than rows of a step, ranks
    /// with different models or settings; [`ErrorKind::Failed`] when the loss is not finite, or the adapters of ranks
    /// have come apart; [`ErrorKind::Interrupted`] when the observer stopped the run, after its checkpoint was written.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<TrainSummary> {
        let counting = Counting::new(self.group);
        Training { group: &counting, ..*self }.counted(&counting, observer)
    }

    /// As [`Self::run`]; `counting` is its group.
    fn counted(&self, counting: &Counting<'_>, observer: &mut dyn Observer) -> Result<TrainSummary> {
        let Self { model, sets, options, dir, resume, group, .. } = *self;
        let first = group.rank() == 0;
        if let Some(error) = sets.swapped(options).into_iter().next() {
            return Err(error);
        }
        deal(group, options).check()?;
        let templates = templates(model, options)?;
        let parts = parts(model, sets, options, &templates)?;
        let notes = check_lengths(&parts, model, sets, options)?;
        let mut run = Run::new(self, parts)?;
        let home = dir.join("train");
        let total = options.total_steps(run.epoch_rows());
        let checkpoints = home.join("checkpoints");
        let settings = Settings::new(model, sets, options, &templates, &run.adapter.config)?;
        agree::on_settings(group, &settings)?;
        run.transport = group.transport(model.decoder.device())?;
        let horizons = vec![Horizon { from: 0, steps: total }];
        let mut position = Position { horizons, settings, ranks: group.size(), ..Position::default() };
        if first {
            std::fs::create_dir_all(&home).writing(&home)?;
        }
        if resume {
            if let Some(note) = run.resume(&checkpoints, &mut position, total)? {
                observer.note(&note);
            }
        } else if first && checkpoints.exists() {
            std::fs::remove_dir_all(&checkpoints).writing(&checkpoints)?;
        }
        agree::on_values(group, &run.parameters)?;
        if position.threshold.is_none() {
            position.threshold = run.threshold()?;
            if let Some(Threshold { gamma, measured: Some(base) }) = position.threshold {
                let (nll, samples, margin) = (base.nll, base.samples, options.gamma_margin);
                observer.note(&format!(
                    "gamma is {gamma:.3}: harmful answers cost the base model {nll:.3} nats per token ({samples} samples), \
                     plus a margin of {margin}"
                ));
            }
        }
        if position.duals.is_empty() {
            position.duals = run.duals()?;
        }
        let hinge = run.hinge().map(|part| part.term.key());
        let mut log =
            if first { Log::open(&home.join("metrics.jsonl"), position.step, hinge)? } else { Log::unwritten() };
        for note in &notes {
            observer.note(note);
        }
        observer.start(total, position.step);
        let earlier = position.step;
        counting.reset();
        let ends = |position: &Position, log: &Log| position.step >= total || log.settled(options.early_stop);
        let mut next = agree::on_next(group, if ends(&position, &log) { Next::End } else { Next::Step })?;
        while next == Next::Step {
            run.weigh(&position, total);
            let (metrics, sums) = run.step(&position, total)?;
            run.move_duals(&mut position, &sums);
            position.step += 1;
            run.count(&mut position, &sums);
            log.push(&metrics)?;
            run.check_supervised(&position, sets)?;
            let stop = observer.step(&metrics) == Control::Stop && position.step < total;
            next = agree::on_next(
                group,
                match () {
                    () if stop => Next::Stop,
                    () if ends(&position, &log) => Next::End,
                    () => Next::Step,
                },
            )?;
            let due = options.checkpoint_every > 0 && position.step.is_multiple_of(options.checkpoint_every);
            if next == Next::Stop || due {
                run.save(&checkpoints, &mut position)?;
            }
            if next == Next::Stop {
                let what = format!("stopped after step {} of {total}", position.step);
                return Err(Error::new(ErrorKind::Interrupted, what)
                    .hint("the run was saved: continue with the same command and --resume"));
            }
        }
        run.save(&checkpoints, &mut position)?;
        let summary = log.summary(&position, counting.traffic(position.step - earlier));
        if first {
            run.adapter.save(&dir.join("adapter"), &model.name)?;
            let text = serde_json::to_string_pretty(&summary).map_err(Error::failed)?;
            write_atomic(&home.join("summary.json"), text.as_bytes())?;
        }
        Ok(summary)
    }
}

/// Whether a training on these sets would begin.
///
/// # Errors
/// [`ErrorKind::Request`] as [`train`] has before its first step, but for those of a checkpoint.
pub fn check(model: &Model, sets: &Sets, options: &TrainOptions) -> Result<()> {
    if let Some(error) = sets.swapped(options).into_iter().next() {
        return Err(error);
    }
    let templates = templates(model, options)?;
    let parts = parts(model, sets, options, &templates)?;
    check_lengths(&parts, model, sets, options)?;
    adapter(model, options).map(|_| ())
}

/// The adapter at the first step.
fn adapter(model: &Model, options: &TrainOptions) -> Result<Adapter> {
    let looked_at = options.loss_layers(model.config.num_layers);
    let terms = options.terms();
    let of_states = |term: &Term| matches!(term.loss, Loss::States(_));
    let (of_states, only) = (terms.iter().any(of_states), terms.iter().all(of_states));
    let device = model.decoder.device();
    let mut adapter = if let Some(dir) = &options.init_adapter {
        let adapter = Adapter::load(dir, &model.config, device)?;
        if adapter.is_whole_in_part() {
            return Err(Error::request(format!("init_adapter: {} holds whole weights only in part", dir.display()))
                .hint("a GGUF file does not keep which they are: take the adapter's directory"));
        }
        if adapter.is_whole() != options.full {
            let [kind, hint] = if options.full {
                ["an adapter of low rank, not changes of whole weights", "leave out --full"]
            } else {
                ["changes of whole weights, not an adapter of low rank", "add --full"]
            };
            return Err(Error::request(format!("init_adapter: {} holds {kind}", dir.display())).hint(hint));
        }
        adapter
    } else {
        let mut config = options.lora_config();
        if let (None, Some(top), true) = (&config.layers, looked_at.iter().max(), only) {
            // Harmful answers change nothing above.
            config.layers = Some((0..=*top.min(&(model.config.num_layers - 1))).collect());
        }
        if options.full {
            Adapter::whole(config, &model.config, device)?
        } else {
            Adapter::new(config, &model.config, options.seed, device)?
        }
    };
    adapter.config.dropout = options.dropout();
    let (blocks, first) = (model.config.num_layers, adapter.first_block());
    if let Some(layer) = looked_at.iter().find(|&&layer| layer >= blocks) {
        return Err(Error::request(format!("loss_layers: the model has no layer {layer}"))
            .hint(format!("its layers are 0 to {}", blocks - 1)));
    }
    if let Some(layer) = looked_at.iter().find(|&&layer| layer < first && of_states) {
        return Err(Error::request(format!("loss_layers: behind layer {layer} nothing is adapted")).hint(format!(
            "the first adapted layer is {first}: change --layers, or look behind it with --loss-layers"
        )));
    }
    Ok(adapter)
}

/// Whether `dir` holds a training run that can be resumed.
///
/// # Errors
/// The directory cannot be read.
pub fn resumable(dir: &Path) -> Result<bool> {
    let home = dir.join("train");
    let finished = dir.join("adapter").exists();
    // A run that was stopped before its first checkpoint begins again at its first step.
    Ok(checkpoint::exists(&home.join("checkpoints"))? || (home.join("metrics.jsonl").exists() && !finished))
}

/// Gives a resumed run another length, where that is allowed.
fn resize(position: &mut Position, total: usize, options: &TrainOptions) -> Result<()> {
    let Some(before) = position.horizons.last().map(|horizon| horizon.steps).filter(|&before| before != total) else {
        return Ok(());
    };
    let done = position.step;
    if total < done {
        return Err(Error::request(format!("steps: {total} are fewer than the {done} that are done"))
            .hint(format!("ask for at least {done}, or start again in another directory or with --force")));
    }
    let ramps = options.terms().iter().any(|term| term.ramp != Ramp::None);
    if ramps && !options.extend {
        return Err(Error::request(format!("steps was {before}, is {total}: the weights of the terms depend on it"))
            .hint(format!(
                "--extend continues from step {done} with the weights of a run of {}",
                counted(total, "step")
            )));
    }
    if options.schedule != Schedule::Constant && !options.extend {
        return Err(Error::request(format!("steps was {before}, is {total}: the learning rate depends on it"))
            .hint(format!(
                "--extend continues from step {done} with the learning rate of a run of {}",
                counted(total, "step")
            ))
            .hint("with --schedule constant, from the first step on, the number of steps can be changed freely"));
    }
    position.horizons.push(Horizon { from: done, steps: total });
    Ok(())
}

/// The file of the frozen model's states that this rank writes: what it finds there are the states that it computed.
fn of_rank(states: &Path, group: &dyn Group) -> PathBuf {
    if group.size() == 1 {
        return states.to_owned();
    }
    let stem = states.file_stem().unwrap_or_default().to_string_lossy();
    states.with_file_name(format!("{stem}-rank-{}-of-{}.bin", group.rank(), group.size()))
}

/// Everything that the steps of a run work on.
struct Run<'a> {
    model: &'a Model,
    options: &'a TrainOptions,
    adapter: Adapter,
    parameters: Vec<(String, Var)>,
    optimiser: AdamW,
    reference: Reference<'a>,
    parts: Vec<Part<'a>>,
    group: &'a dyn Group,
    /// What takes gradients from device to device; None: they go through the host.
    transport: Option<Box<dyn Transport + 'a>>,
}

impl<'a> Run<'a> {
    fn new(training: &Training<'a>, parts: Vec<Part<'a>>) -> Result<Self> {
        let Training { model, options, states, group, .. } = *training;
        let adapter = adapter(model, options)?;
        let parameters = adapter.parameters();
        let config = AdamWConfig {
            beta1: options.adam_beta1,
            beta2: options.adam_beta2,
            epsilon: options.adam_epsilon,
            weight_decay: options.weight_decay,
        };
        let optimiser = AdamW::new(parameters.iter().map(|(_, v)| v.clone()).collect(), config)?;
        Ok(Self {
            model,
            options,
            reference: Reference::open(model, adapter.first_block(), &of_rank(states, group))?,
            adapter,
            parameters,
            optimiser,
            parts,
            group,
            transport: None,
        })
    }

    /// Goes on from the newest checkpoint, if there is one; what the user should know of it.
    fn resume(&mut self, checkpoints: &Path, position: &mut Position, total: usize) -> Result<Option<String>> {
        let (group, options) = (self.group, self.options);
        let names: Vec<String> = self.parameters.iter().map(|(n, _)| n.clone()).collect();
        let newest = if group.rank() == 0 { checkpoint::newest(checkpoints)? } else { None };
        let Some((path, bytes)) = agree::on_checkpoint(group, newest)? else { return Ok(None) };
        let found = checkpoint::read(&path, &bytes, &position.settings, &names)?;
        for (name, variable) in &self.parameters {
            if let Some(value) = found.parameters.get(name) {
                variable.set(&value.to_device(variable.device())?)?;
            }
        }
        self.optimiser.restore(found.moments, found.position.optimiser_steps)?;
        *position = found.position;
        resize(position, total, options)?;
        let (before, ranks) = (position.ranks, group.size());
        position.ranks = ranks;
        let deals = [before, ranks].map(|ranks| Deal { ranks, ..deal(group, options) });
        Ok((before != ranks).then(|| agree::other_ranks(deals, position.step, options.dropout())))
    }

    /// Rows of an epoch: those of the help set, or of the first set of a method that does not see it.
    fn epoch_rows(&self) -> usize {
        let part = self.parts.iter().find(|p| p.term.set == SetName::Help).or(self.parts.first());
        part.map_or(1, |p| p.feed.rows())
    }

    /// The term that has a hinge, if the method has one.
    fn hinge(&self) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| part.term.loss == Loss::Hinge)
    }

    /// The threshold of the hinge, if the method has one.
    fn threshold(&mut self) -> Result<Option<Threshold>> {
        let part = self.parts.iter_mut().find(|part| part.term.loss == Loss::Hinge);
        part.map(|part| Threshold::new(self.model, &mut part.feed, self.options, self.group)).transpose()
    }

    /// The dual variables of terms that are constraints, at the start.
    fn duals(&mut self) -> Result<BTreeMap<String, Dual>> {
        let (model, options, group) = (self.model, self.options, self.group);
        let constrained = self.parts.iter_mut().filter(|part| part.term.constrained);
        let dual = |part: &mut Part<'a>| {
            let bound = match options.retain_eps {
                Some(bound) => bound,
                None => base_loss(model, &mut part.feed, options.micro_batch, "retain_eps", group)?.nll,
            };
            Ok((part.term.label(), Dual { value: part.weight, bound }))
        };
        constrained.map(dual).collect()
    }

    /// Gives the terms the weights of the next step.
    fn weigh(&mut self, position: &Position, total: usize) {
        for part in &mut self.parts {
            let weight = position.duals.get(&part.term.label()).map_or(part.weight, |dual| dual.value);
            part.term.weight = weight * part.term.ramp.factor(position.step, total);
        }
    }

    /// Moves the dual variables by what the terms of a step were worth, once the first part of the run is over.
    fn move_duals(&self, position: &mut Position, sums: &[Sum]) {
        // Of the length that was asked for first: another one later must not change the steps that are done.
        let half = position.horizons.first().map_or(0, |first| first.steps / 2);
        if position.step < self.options.dual_warmup.unwrap_or(half) {
            return;
        }
        for (part, sum) in self.parts.iter().zip(sums).filter(|(_, sum)| sum.counted > 0) {
            if let Some(dual) = position.duals.get_mut(&part.term.label()) {
                dual.update(sum.value, self.options.dual_step);
            }
        }
    }

    fn save(&self, checkpoints: &Path, position: &mut Position) -> Result<()> {
        agree::on_values(self.group, &self.parameters)?;
        if self.group.rank() != 0 {
            return Ok(());
        }
        let (moments, steps) = self.optimiser.state()?;
        position.optimiser_steps = steps;
        checkpoint::save(checkpoints, position, &self.parameters, &moments)
    }

    /// One optimiser step; its metrics, and the result of each term.
    fn step(&mut self, position: &Position, total: usize) -> Result<(StepMetrics, Vec<Sum>)> {
        let started = Instant::now();
        let (options, group) = (self.options, self.group);
        let (number, threshold) = (position.step, position.threshold);
        let gamma = threshold.map_or(0.0, |threshold| threshold.gamma);
        let step = Step { model: self.model, adapter: &self.adapter, options, group, gamma, number };
        let Done { sums, gradients, operations } = step.run(&mut self.parts, &mut self.reference)?;
        let grads = self.parameters.iter().map(|(_, v)| gradients.get(v).cloned()).collect();
        let mut grads = sum_gradients(group, self.transport.as_deref(), &self.parameters, grads)?;
        if let (0, 0, Some(path)) = (group.rank(), number, &options.dump_grads) {
            dump(path, &self.parameters, &grads)?;
        }
        let norm = norm(&grads)?;
        let terms = || self.parts.iter().map(|part| &part.term).zip(&sums);
        let loss: f64 = terms().map(|(term, sum)| term.weight * sum.value).sum();
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::failed(format!("the loss or its gradient is not finite at step {}", number + 1))
                .hint("lower --lr, or clip with --max-grad-norm 1"));
        }
        if let Some(most) = options.max_grad_norm.filter(|&most| norm > most) {
            for grad in grads.iter_mut().flatten() {
                *grad = grad.affine(most / norm, 0.0)?;
            }
        }
        let lr = learning_rate(options.schedule, options.lr, number, options.warmup_steps, total);
        self.optimiser.step(&grads, lr)?;
        let values: Vec<Option<Tensor>> = self.parameters.iter().map(|(_, v)| Some(v.as_tensor().clone())).collect();
        if !self::norm(&values)?.is_finite() {
            let what =
                format!("the adapter's values are not finite, or too large to compute with, after step {}", number + 1);
            return Err(Error::failed(what).hint("lower --lr, or clip with --max-grad-norm 1"));
        }
        let seen = (number + 1) * options.grad_accum * options.micro_batch;
        let duals = position.duals.iter().map(|(name, dual)| (dual::key(name), dual.value));
        // A mean over no token is no value: a step without a supervised token has no value of the term.
        let measured = || terms().filter(|(_, sum)| sum.counted > 0);
        let metrics = StepMetrics {
            step: number + 1,
            epoch: seen as f64 / self.epoch_rows() as f64,
            lr,
            loss,
            nll_harm: measured().find(|(t, _)| t.loss.unlearns()).map(|(_, sum)| sum.mean),
            terms: measured().map(|(term, sum)| (term.key(), sum.value)).chain(duals).collect(),
            grad_norm: norm,
            tokens: sums.iter().map(|sum| sum.tokens).sum(),
            seconds: started.elapsed().as_secs_f64(),
            gflop: operations / 1e9,
        };
        Ok((metrics, sums))
    }

    /// Adds what the terms of a step counted.
    fn count(&self, position: &mut Position, sums: &[Sum]) {
        for (part, sum) in self.parts.iter().zip(sums) {
            position.capped.0 += sum.capped.0;
            position.capped.1 += sum.capped.1;
            position.samples.entry(part.term.label()).or_default().add(sum.seen);
        }
    }

    /// An error when a term with a weight saw no token in a whole epoch of its set.
    fn check_supervised(&self, position: &Position, sets: &Sets) -> Result<()> {
        for part in self.parts.iter().filter(|part| part.weight != 0.0) {
            let seen = position.samples.get(&part.term.label()).copied().unwrap_or_default();
            if seen.empty == seen.samples && seen.samples >= part.feed.rows() {
                let set = sets.describe(part.term.set);
                return Err(nothing_supervised(&set, seen.samples, self.model, self.options));
            }
        }
        Ok(())
    }
}

/// The Euclidean norm of all gradients together.
fn norm(grads: &[Option<Tensor>]) -> Result<f64> {
    let found: Vec<&Tensor> = grads.iter().flatten().collect();
    if found.first().is_some_and(|grad| device::has_operations(grad.device())) {
        return Ok(device::norm(&found)?);
    }
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
