//! The training loop. In: a model, its sets, options; out: an adapter directory, metrics, checkpoints. Invariant: what
//! a step does depends on the options, the sets, the model and the step's number only, so that a run which was stopped
//! and resumed at any step writes the same adapter as one that was not.

use crate::{
    adamw::{AdamW, AdamWConfig},
    checkpoint::{self, Horizon, Position},
    dual::{self, Dual},
    feed::{Feed, Source, limit, surroundings, templates},
    method::{Given, KlScope, Loss, Ramp},
    metrics::{Log, StepMetrics, TrainSummary},
    options::{Overlong, Schedule, TrainOptions},
    reference::Reference,
    schedule::learning_rate,
    sets::Sets,
    settings::Settings,
    step::{Part, Step, Sum},
    threshold::{Threshold, base_loss},
};
use candle_core::{Tensor, Var};
use eraser_data::{PromptTemplate, SetName};
use eraser_model::{Adapter, Error, ErrorKind, Model, Result, counted, error::PathContext, files::write_atomic};
use eraser_ops::{device, gemm::operations};
use std::{collections::BTreeMap, path::Path, time::Instant};

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

/// Trains an adapter on `model` and writes `dir/adapter/`, `dir/train/metrics.jsonl`, `dir/train/summary.json` and
/// `dir/train/checkpoints/`. With `resume`, continues from the newest checkpoint in `dir`, bit for bit; without one it
/// starts at the beginning. What the frozen model computes is kept in the file `states`, which several runs on one
/// model may share, one after the other.
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
    if let Some(error) = sets.swapped(options).into_iter().next() {
        return Err(error);
    }
    let templates = templates(model, options)?;
    let parts = parts(model, sets, options, &templates)?;
    let notes = check_lengths(&parts, model, sets, options)?;
    let mut run = Run::new(model, options, parts, states)?;
    let home = dir.join("train");
    std::fs::create_dir_all(&home).writing(&home)?;
    let total = options.total_steps(run.epoch_rows());
    let checkpoints = home.join("checkpoints");
    let settings = Settings::new(model, sets, options, &templates, &run.adapter.config)?;
    let horizons = vec![Horizon { from: 0, steps: total }];
    let mut position = Position { horizons, settings, ..Position::default() };
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
        std::fs::remove_dir_all(&checkpoints).writing(&checkpoints)?;
    }
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
    let mut log = Log::open(&home.join("metrics.jsonl"), position.step, run.hinge().map(|part| part.term.key()))?;
    for note in &notes {
        observer.note(note);
    }
    observer.start(total, position.step);
    while position.step < total && !log.settled(options.early_stop) {
        run.weigh(&position, total);
        let (metrics, sums) = run.step(&position, total)?;
        run.move_duals(&mut position, &sums);
        position.step += 1;
        run.count(&mut position, &sums);
        log.push(&metrics)?;
        run.check_supervised(&position, sets)?;
        let stop = observer.step(&metrics) == Control::Stop && position.step < total;
        let due = options.checkpoint_every > 0 && position.step.is_multiple_of(options.checkpoint_every);
        if stop || due {
            run.save(&checkpoints, &mut position)?;
        }
        if stop {
            return Err(Error::new(ErrorKind::Interrupted, format!("stopped after step {} of {total}", position.step))
                .hint("the run was saved: continue with the same command and --resume"));
        }
    }
    run.save(&checkpoints, &mut position)?;
    run.adapter.save(&dir.join("adapter"), &model.name)?;
    let summary = log.summary(&position);
    let text = serde_json::to_string_pretty(&summary).map_err(Error::failed)?;
    write_atomic(&home.join("summary.json"), text.as_bytes())?;
    Ok(summary)
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
    let mut adapter = if let Some(dir) = &options.init_adapter {
        Adapter::load(dir, &model.config, model.decoder.device())?
    } else {
        let mut config = options.lora_config();
        if let (None, Some(top)) = (&config.layers, looked_at.iter().max()) {
            // Harmful answers change nothing above.
            config.layers = Some((0..=*top.min(&(model.config.num_layers - 1))).collect());
        }
        Adapter::new(config, &model.config, options.seed, model.decoder.device())?
    };
    adapter.config.dropout = options.lora_dropout;
    let (blocks, first) = (model.config.num_layers, adapter.first_block());
    if let Some(layer) = looked_at.iter().find(|&&layer| layer >= blocks) {
        return Err(Error::request(format!("loss_layers: the model has no layer {layer}"))
            .hint(format!("its layers are 0 to {}", blocks - 1)));
    }
    if let Some(layer) = looked_at.iter().find(|&&layer| layer < first) {
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

/// Everything that the steps of a run work on.
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
    fn new(model: &'a Model, options: &'a TrainOptions, parts: Vec<Part<'a>>, states: &Path) -> Result<Self> {
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
            reference: Reference::open(model, adapter.first_block(), states)?,
            adapter,
            parameters,
            optimiser,
            parts,
        })
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
        part.map(|part| Threshold::new(self.model, &mut part.feed, self.options)).transpose()
    }

    /// The dual variables of terms that are constraints, at the start.
    fn duals(&mut self) -> Result<BTreeMap<String, Dual>> {
        let (model, options) = (self.model, self.options);
        let constrained = self.parts.iter_mut().filter(|part| part.term.constrained);
        let dual = |part: &mut Part<'a>| {
            let bound = match options.retain_eps {
                Some(bound) => bound,
                None => base_loss(model, &mut part.feed, options.micro_batch, "retain_eps")?.nll,
            };
            Ok((part.term.name.to_owned(), Dual { value: part.weight, bound }))
        };
        constrained.map(dual).collect()
    }

    /// Gives the terms the weights of the next step.
    fn weigh(&mut self, position: &Position, total: usize) {
        for part in &mut self.parts {
            let weight = position.duals.get(part.term.name).map_or(part.weight, |dual| dual.value);
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
            if let Some(dual) = position.duals.get_mut(part.term.name) {
                dual.update(sum.value, self.options.dual_step);
            }
        }
    }

    fn save(&self, checkpoints: &Path, position: &mut Position) -> Result<()> {
        let (moments, steps) = self.optimiser.state()?;
        position.optimiser_steps = steps;
        checkpoint::save(checkpoints, position, &self.parameters, &moments)
    }

    /// One optimiser step; its metrics, and the result of each term.
    fn step(&mut self, position: &Position, total: usize) -> Result<(StepMetrics, Vec<Sum>)> {
        let (started, before) = (Instant::now(), operations());
        let options = self.options;
        let (number, threshold) = (position.step, position.threshold);
        let gamma = threshold.map_or(0.0, |threshold| threshold.gamma);
        let step = Step { model: self.model, adapter: &self.adapter, options, gamma, number };
        let (sums, gradients) = step.run(&mut self.parts, &mut self.reference)?;
        let mut grads: Vec<Option<Tensor>> = self.parameters.iter().map(|(_, v)| gradients.get(v).cloned()).collect();
        if let (0, Some(path)) = (number, &options.dump_grads) {
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
            gflop: (operations() - before) as f64 / 1e9,
        };
        Ok((metrics, sums))
    }

    /// Adds what the terms of a step counted.
    fn count(&self, position: &mut Position, sums: &[Sum]) {
        for (part, sum) in self.parts.iter().zip(sums) {
            position.capped.0 += sum.capped.0;
            position.capped.1 += sum.capped.1;
            position.samples.entry(part.term.name.to_owned()).or_default().add(sum.seen);
        }
    }

    /// An error when a term with a weight saw no token in a whole epoch of its set.
    fn check_supervised(&self, position: &Position, sets: &Sets) -> Result<()> {
        for part in self.parts.iter().filter(|part| part.weight != 0.0) {
            let seen = position.samples.get(part.term.name).copied().unwrap_or_default();
            if seen.empty == seen.samples && seen.samples >= part.feed.rows() {
                let set = sets.describe(part.term.set);
                return Err(nothing_supervised(&set, seen.samples, self.model, self.options));
            }
        }
        Ok(())
    }
}

/// The terms of the method, each with its samples.
fn parts<'a>(
    model: &'a Model,
    sets: &'a Sets,
    options: &'a TrainOptions,
    templates: &'a [PromptTemplate],
) -> Result<Vec<Part<'a>>> {
    let mut parts = Vec::new();
    for term in options.terms() {
        let mut records = sets.rows(term.set);
        if term.set == SetName::Retain {
            let most = options.retain_take.unwrap_or(records.len());
            records = records.get(..most).ok_or_else(|| {
                Error::request(format!(
                    "retain_take: {} asked for, the retain set has {}",
                    counted(most, "row"),
                    records.len()
                ))
                .hint("ask for fewer rows, or give a larger retain set")
            })?;
            if records.is_empty() {
                continue;
            }
        }
        let answers = term.unrelated.then(|| sets.rows(SetName::Help));
        let harmful = sets.rows(SetName::Harm);
        let anchored = matches!(term.loss, Loss::Kl(_)) && (term.noise || term.given != Given::Nothing);
        let noise = term.noise.then(|| surroundings(sets, options));
        let preferred = matches!(term.loss, Loss::Preference(_)).then(|| sets.rows(SetName::Align));
        let given = term.given;
        let source = Source { set: term.set, records, noise, given, harmful, anchored, answers, preferred };
        parts.push(Part { term, weight: term.weight, feed: Feed::new(source, model, templates, options)? });
    }
    Ok(parts)
}

/// Looks for rows that do not fit before the first step: an error, or what the user should know.
fn check_lengths(parts: &[Part<'_>], model: &Model, sets: &Sets, options: &TrainOptions) -> Result<Vec<String>> {
    let most = limit(model, options);
    let allowed = if most < options.max_length {
        format!("{most} tokens (the most that the model takes)")
    } else {
        format!("{most} tokens (max_length)")
    };
    let refuse = options.overlong == Overlong::Refuse;
    let (mut told, mut notes) = (Vec::new(), Vec::new());
    for Part { term, feed, .. } in parts {
        let set = sets.describe(term.set);
        let found = feed.overlong(0);
        let all = feed.rows();
        if term.weight != 0.0 && found.empty == all && term.loss != Loss::Kl(KlScope::All) {
            return Err(nothing_supervised(&set, all, model, options));
        }
        if told.contains(&term.set) {
            continue;
        }
        told.push(term.set);
        let drawn = feed.drawn();
        let (cut, with) = match (refuse, drawn) {
            (true, 1..) => (feed.overlong(drawn).cut, format!(" with {} of prompt noise", counted(drawn, "token"))),
            _ => (found.cut, String::new()),
        };
        let Some(first) = cut.first().and_then(|row| Some((row, sets.rows(term.set).get(*row)?))) else { continue };
        let first = match first {
            (row, record) if record.place.is_empty() => format!("row {}", row + 1),
            (_, record) => record.place.clone(),
        };
        let (n, rows) = (cut.len(), feed.records());
        let what = format!("{set}: rows longer than {allowed}{with}: {n} of {rows}, the first at {first}");
        if refuse {
            return Err(Error::request(what)
                .hint("shorten or remove the rows, or raise --max-length up to what the model takes")
                .hint("--overlong cut trains on what fits, and counts what was cut"));
        }
        let empty = match found.empty {
            0 => String::new(),
            empty => format!("; samples that the cut leaves without a token of the answer: {empty} of {all}"),
        };
        notes.push(format!("{what}; they are cut{empty}"));
    }
    Ok(notes)
}

fn nothing_supervised(set: &str, samples: usize, model: &Model, options: &TrainOptions) -> Error {
    let most = limit(model, options);
    let error = Error::request(format!(
        "{set}: not one of {} has a token of its answer within the first {}: nothing would be learnt",
        counted(samples, "sample"),
        counted(most, "token")
    ));
    if most < options.max_length {
        return error.hint("the model takes no more tokens: shorten the questions or the prompt template");
    }
    error.hint("raise --max-length (in a run file max_length), or shorten the questions or the prompt template")
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
