//! One training by several ranks, on the built-in model: the values, the gradients and the adapter of one process.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/threads.rs"]
mod threads;

use candle_core::Device;
use common::{model, organism};
use eraser_data::{Record, read_set};
use eraser_model::{ErrorKind, Model, Result};
use eraser_train::{
    Alone, CheckpointActivations, Control, Gamma, GammaScope, Group, KlScope, METHODS, Method, Observer, SetName, Sets,
    StepMetrics, Templates, TrainOptions, TrainSummary, Training,
};
use std::collections::BTreeMap;
use std::path::Path;
use threads::{Through, ranks_through};

const ADAPTER: &str = "adapter/adapter_model.safetensors";

fn sets(rows: usize) -> Sets {
    let read = |set: SetName| {
        let file = if set == SetName::Wrapped { SetName::Align } else { set }.file();
        let mut records: Vec<Record> = read_set(&organism().join("sets").join(file)).unwrap();
        records.truncate(rows);
        (set, records)
    };
    SetName::ALL.map(read).into_iter().collect()
}

fn options(method: &str) -> TrainOptions {
    TrainOptions {
        method: Method::named(method).unwrap(),
        micro_batch: 4,
        grad_accum: 1,
        max_length: 96,
        lr: 1e-3,
        templates: Templates::Model,
        checkpoint_every: 2,
        allow_swapped: true,
        ..TrainOptions::default()
    }
}

/// Keeps every step, and stops behind one.
#[derive(Default)]
struct Steps {
    seen: Vec<StepMetrics>,
    notes: Vec<String>,
    stop: usize,
}

impl Observer for Steps {
    fn start(&mut self, _: usize, _: usize) {}
    fn step(&mut self, metrics: &StepMetrics) -> Control {
        self.seen.push(StepMetrics { seconds: 0.0, gflop: 0.0, ..metrics.clone() });
        if metrics.step == self.stop { Control::Stop } else { Control::Continue }
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

struct Run<'a> {
    model: &'a Model,
    sets: Sets,
    options: TrainOptions,
    stop: usize,
    resume: bool,
}

/// Ranks whose gradients go through the hosts.
fn ranks<T: Send>(n: usize, work: impl Fn(&dyn Group) -> T + Sync) -> Vec<T> {
    ranks_through(n, Through::Hosts, work)
}

impl Run<'_> {
    fn at(&self, group: &dyn Group, dir: &Path) -> (Result<TrainSummary>, Steps) {
        // Where rank 0 stops, the others do, whatever they would.
        let stop = if group.rank() == 0 { self.stop } else { 0 };
        let mut steps = Steps { stop, ..Steps::default() };
        let Self { model, sets, options, resume, .. } = self;
        let states = dir.join("states.bin");
        let training = Training { model, sets, options, dir, states: &states, resume: *resume, group };
        (training.run(&mut steps), steps)
    }

    /// At `n` ranks; what rank 0 gives.
    fn by(&self, n: usize, dir: &Path) -> (Result<TrainSummary>, Steps) {
        self.through(Through::Hosts, n, dir)
    }

    fn through(&self, through: Through, n: usize, dir: &Path) -> (Result<TrainSummary>, Steps) {
        if n == 1 {
            return self.at(&Alone, dir);
        }
        let all = ranks_through(n, through, |group| self.at(group, dir));
        for (result, steps) in &all[1..] {
            assert_eq!(
                result.as_ref().err().map(ToString::to_string),
                all[0].0.as_ref().err().map(ToString::to_string)
            );
            assert_eq!(steps.seen, all[0].1.seen, "ranks have the same figures");
        }
        all.into_iter().next().unwrap()
    }
}

fn tensors(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    tensors.into_iter().map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

fn cosine(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> f64 {
    assert!(a.keys().eq(b.keys()));
    let pairs = || a.values().flatten().zip(b.values().flatten()).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let sum = |of: fn((f64, f64)) -> f64| pairs().map(of).sum::<f64>();
    sum(|(a, b)| a * b) / (sum(|(a, _)| a * a) * sum(|(_, b)| b * b)).sqrt()
}

fn close(what: &str, a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-5 * a.abs().max(1e-3), "{what}: {a} and {b}");
}

/// The metrics and the gradient of the first step.
fn first_step(
    model: &Model,
    options: TrainOptions,
    n: usize,
) -> (StepMetrics, TrainSummary, BTreeMap<String, Vec<f32>>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gradients.safetensors");
    let options = TrainOptions { steps: Some(1), dump_grads: Some(file.clone()), ..options };
    let run = Run { model, sets: sets(6), options, stop: 0, resume: false };
    let (summary, steps) = run.by(n, dir.path());
    let summary = summary.unwrap();
    (steps.seen[0].clone(), summary, tensors(&file))
}

fn same_step(what: &str, model: &Model, options: &TrainOptions, n: usize) {
    let (one, summary, gradients) = first_step(model, options.clone(), 1);
    let (several, of_several, other) = first_step(model, options.clone(), n);
    let what = format!("{what}, {n} ranks");
    assert_eq!(one.tokens, several.tokens, "{what}");
    assert_eq!((summary.samples, summary.capped_share), (of_several.samples, of_several.capped_share), "{what}");
    assert!(one.terms.keys().eq(several.terms.keys()), "{what}");
    for (term, value) in &one.terms {
        close(&format!("{what}, {term}"), *value, several.terms[term]);
    }
    close(&what, one.loss, several.loss);
    close(&what, one.nll_harm.unwrap_or_default(), several.nll_harm.unwrap_or_default());
    let size = |of: &[f32]| of.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let apart: f64 = gradients
        .iter()
        .map(|(name, a)| size(&a.iter().zip(&other[name]).map(|(a, b)| a - b).collect::<Vec<_>>()).powi(2))
        .sum();
    assert!(apart.sqrt() <= 2e-5 * one.grad_norm, "{what}: {} of {}", apart.sqrt(), one.grad_norm);
}

/// A value of a share that was not weighed by what is in it would change the loss of all methods whose answers differ
/// in length.
#[test]
fn micro_batches_that_ranks_share_give_every_method_its_loss_and_gradient() {
    let model = model();
    for method in METHODS {
        let options = TrainOptions {
            method,
            lora_dropout: 0.0,
            // Open for some samples, closed for others.
            gamma: Gamma::Nats(4.0),
            // An attack magnifies rounding: the first step of its AdamW is as long as its rate, whatever the gradient.
            attack_steps: Some(0),
            ..options(method.name)
        };
        same_step(method.name, &model, &options, 3);
    }
}

#[test]
fn hinges_of_every_scope_are_those_of_one_process() {
    let model = model();
    for gamma_scope in [GammaScope::MicroBatch, GammaScope::Sample, GammaScope::Token, GammaScope::Batch] {
        for (gamma, kl_scope) in [(0.5, KlScope::Response), (2.0, KlScope::All), (9.0, KlScope::Response)] {
            let options = TrainOptions { gamma: gamma.into(), gamma_scope, kl_scope, ..options("eraser") };
            let shared = TrainOptions { lora_dropout: 0.0, ..options.clone() };
            same_step(&format!("{gamma_scope:?}, gamma {gamma}"), &model, &shared, 4);
            // With dropout, where micro-batches stay whole: masks are theirs.
            let whole = TrainOptions { micro_batch: 2, grad_accum: 3, ..options };
            same_step(&format!("{gamma_scope:?}, gamma {gamma}, whole"), &model, &whole, 2);
            let unequal = TrainOptions { lora_dropout: 0.0, ..whole };
            same_step(&format!("{gamma_scope:?}, gamma {gamma}, unequal"), &model, &unequal, 4);
        }
    }
}

/// A rank whose rows have nothing to learn from waited for nobody, and the others for it.
#[test]
fn a_rank_without_a_supervised_token_takes_part() {
    let model = model();
    for gamma_scope in [GammaScope::MicroBatch, GammaScope::Batch] {
        // Some answers lie beyond the cut.
        for max_length in [24, 30, 36] {
            let options = TrainOptions {
                gamma_scope,
                max_length,
                lora_dropout: 0.0,
                noise: false,
                gamma: Gamma::Nats(9.0),
                checkpoint_activations: CheckpointActivations::Off,
                ..options("eraser")
            };
            let dir = tempfile::tempdir().unwrap();
            let run = Run { model: &model, sets: sets(6), options: options.clone(), stop: 0, resume: false };
            let steps = |n| {
                let (result, steps) = run.by(n, &dir.path().join(n.to_string()));
                (result.map_err(|e| e.to_string()).map(|summary| summary.samples), steps.seen.len())
            };
            assert_eq!(steps(1), steps(4), "{gamma_scope:?}, {max_length}");
        }
    }
}

#[test]
fn ranks_make_the_adapter_of_one_process_and_the_same_bytes_each_time() {
    let model = model();
    let auto = TrainOptions { steps: Some(50), gamma: Gamma::Auto, gamma_margin: 0.5, ..options("eraser") };
    let whole = TrainOptions { micro_batch: 1, grad_accum: 4, ..auto.clone() };
    let shared = TrainOptions { lora_dropout: 0.0, ..auto };
    for (options, n) in [(whole, 2), (shared, 4)] {
        let run = Run { model: &model, sets: sets(8), options, stop: 0, resume: false };
        let made = |n| {
            let dir = tempfile::tempdir().unwrap();
            let (summary, _) = run.by(n, dir.path());
            let summary = summary.unwrap();
            let traffic = summary.traffic.unwrap_or_default();
            assert_eq!((summary.ranks, traffic.steps), (n, if n == 1 { 0 } else { 50 }));
            // Twice the gradients, but for what stays: each rank adds one part and gives it to the others.
            let least =
                50 * 2 * 4 * tensors(&dir.path().join(ADAPTER)).values().map(Vec::len).sum::<usize>() * (n - 1) / n;
            assert!((least as u64..least as u64 * 11 / 10 + 1).contains(&traffic.bytes), "{traffic:?}, {least}");
            (std::fs::read(dir.path().join(ADAPTER)).unwrap(), tensors(&dir.path().join(ADAPTER)))
        };
        let (_, one) = made(1);
        let ((first, several), (second, _)) = (made(n), made(n));
        assert!(first == second, "{n} ranks");
        let cosine = cosine(&one, &several);
        assert!(cosine >= 0.99999, "{n} ranks: {cosine}");
    }
}

#[test]
fn gradients_that_go_from_device_to_device_make_the_same_bytes() {
    let model = model();
    for (n, gamma) in [(2, 4.0), (3, 9.0), (4, 0.5)] {
        let options = TrainOptions { steps: Some(6), gamma: Gamma::Nats(gamma), ..options("eraser") };
        let run = Run { model: &model, sets: sets(8), options, stop: 0, resume: false };
        let made = |through| {
            let dir = tempfile::tempdir().unwrap();
            let (summary, steps) = run.through(through, n, dir.path());
            let bytes = summary.unwrap().traffic.unwrap().bytes;
            let values: usize = tensors(&dir.path().join(ADAPTER)).values().map(Vec::len).sum();
            // What a rank gives of gradients; flags, counts and losses are less than a tenth of it here.
            let least = (6 * 2 * 4 * values * (n - 1) / n) as u64;
            assert!((least..least * 11 / 10 + 1).contains(&bytes), "{bytes} bytes, {least}");
            (std::fs::read(dir.path().join(ADAPTER)).unwrap(), steps.seen)
        };
        let ((hosts, seen), (devices, same)) = (made(Through::Hosts), made(Through::Tensors));
        assert!(hosts == devices, "{n} ranks");
        assert_eq!(seen, same, "{n} ranks");
    }
}

#[test]
fn ranks_go_on_bit_for_bit_and_other_ranks_say_that_they_do_not() {
    let model = model();
    for method in ["eraser", "pdu"] {
        let options = TrainOptions { steps: Some(7), dual_warmup: Some(1), ..options(method) };
        let whole = Run { model: &model, sets: sets(8), options, stop: 0, resume: false };
        let stopped = Run { stop: 3, sets: whole.sets.clone(), options: whole.options.clone(), ..whole };
        let resumed = Run { resume: true, sets: whole.sets.clone(), options: whole.options.clone(), ..whole };
        let [all, parts, other] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let (_, steps) = whole.by(3, all.path());
        let (error, first) = stopped.by(3, parts.path());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Interrupted);
        stopped.by(3, other.path()).0.unwrap_err();
        let (_, last) = resumed.by(3, parts.path());
        assert_eq!(last.notes.len(), 0, "{:?}", last.notes);
        assert_eq!([first.seen, last.seen].concat(), steps.seen, "{method}");
        let read = |dir: &Path| std::fs::read(dir.join(ADAPTER)).unwrap();
        assert!(read(all.path()) == read(parts.path()), "{method}");

        let (_, last) = resumed.by(2, other.path());
        assert!(last.notes[0].contains("had 3 ranks and goes on with 2 ranks: from step 4 on"), "{:?}", last.notes);
        assert!(last.notes[0].contains("dropout is drawn anew"), "{:?}", last.notes);
    }
}

#[test]
fn ranks_that_do_not_fit_together_are_refused() {
    let model = model();
    let run = |seed| Run {
        model: &model,
        sets: sets(8),
        options: TrainOptions { steps: Some(1), seed, ..options("eraser") },
        stop: 0,
        resume: false,
    };
    let dir = tempfile::tempdir().unwrap();
    let few = ranks(5, |group| run(1).at(group, dir.path()).0.unwrap_err().to_string());
    assert_eq!(few, ["5 ranks for a step of 4 rows"; 5]);
    let other = ranks(3, |group| {
        let seed = if group.rank() == 1 { 2 } else { 1 };
        run(seed).at(group, dir.path()).0.unwrap_err().to_string()
    });
    assert_eq!(other, ["rank 1 has other settings than rank 0: seed was 1, is 2"; 3]);
}

/// Ranks on processors that round differently would go apart without a word.
#[test]
fn an_adapter_that_has_come_apart_is_found_at_the_next_checkpoint() {
    let model = model();
    let dir = tempfile::tempdir().unwrap();
    let run = Run { model: &model, sets: sets(8), options: options("eraser"), stop: 0, resume: false };
    let errors = ranks(2, |group| {
        let apart = Apart(group);
        run.at(if group.rank() == 1 { &apart } else { group }, dir.path()).0.unwrap_err().to_string()
    });
    assert_eq!(errors, ["the adapter of rank 1 is not that of rank 0"; 2]);
}

/// A rank whose sums are off in the last digit.
struct Apart<'a>(&'a dyn Group);

impl Group for Apart<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }
    fn size(&self) -> usize {
        self.0.size()
    }
    fn exchange(&self, values: &[f32]) -> Result<Vec<f32>> {
        self.0.exchange(values)
    }
    fn gather(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(self.0.gather(values)?.into_iter().map(|x| x * (1.0 + f32::EPSILON)).collect())
    }
    fn gather_f64(&self, values: &[f64]) -> Result<Vec<f64>> {
        self.0.gather_f64(values)
    }
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.0.broadcast(bytes)
    }
}
