//! Work that training does not do, against the same work done: one test for each saving, on the built-in model.

#![allow(missing_docs, clippy::unwrap_used, clippy::float_cmp)]

mod common;

use candle_core::{Device, Tensor};
use common::{held, model, organism};
use eraser_data::{Batch, Sample, read_set};
use eraser_model::{
    BaseDtype, Model,
    trace::{Gradients, TraceOptions},
};
use eraser_train::{
    CheckpointActivations, Control, GammaScope, KlScope, Observer, SetName, Sets, StepMetrics, Templates, TrainOptions,
    train,
};
use std::{collections::BTreeMap, path::Path};

/// Where a run keeps what the frozen model gives.
const STATES: &str = "states.bin";

fn sets() -> Sets {
    let read = |name: &str| {
        let mut set = read_set(&organism().join("sets").join(format!("{name}.jsonl"))).unwrap();
        set.truncate(8);
        set
    };
    let files = SetName::ALL.into_iter().filter(|&set| set != SetName::Wrapped);
    files.map(|set| (set, read(set.name()))).collect()
}

fn options() -> TrainOptions {
    TrainOptions {
        steps: Some(3),
        micro_batch: 4,
        grad_accum: 1,
        lr: 1e-3,
        noise: false,
        templates: Templates::Both,
        ..TrainOptions::default()
    }
}

#[derive(Default)]
struct Steps(Vec<StepMetrics>);

impl Observer for Steps {
    fn start(&mut self, _total: usize, _done: usize) {}

    fn step(&mut self, metrics: &StepMetrics) -> Control {
        // What a step took is its own; what it computed is compared.
        self.0.push(StepMetrics { seconds: 0.0, gflop: 0.0, ..metrics.clone() });
        Control::Continue
    }
}

/// Metrics of the steps, and the adapter's bytes.
fn run(model: &Model, options: &TrainOptions, dir: &Path) -> (Vec<StepMetrics>, Vec<u8>) {
    let mut steps = Steps::default();
    train(model, &sets(), options, dir, &dir.join(STATES), false, &mut steps).unwrap();
    (steps.0, std::fs::read(dir.join("adapter/adapter_model.safetensors")).unwrap())
}

fn gradients(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    tensors.into_iter().map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    let size = want.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    let apart = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.len() == want.len() && apart < 1e-4 * size, "{what}: {apart} of {size}");
}

#[test]
fn a_later_run_finds_the_states_of_an_earlier_one_and_takes_the_same_steps() {
    let model = model();
    for scope in [KlScope::Response, KlScope::All] {
        let options = TrainOptions { kl_scope: scope, layers: Some(vec![2, 3]), ..options() };
        let (cold, warm) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = run(&model, &options, cold.path());
        std::fs::copy(cold.path().join(STATES), warm.path().join(STATES)).unwrap();
        let again = run(&model, &options, warm.path());
        assert_eq!(first, again);
        let bytes = |dir: &Path| std::fs::read(dir.join(STATES)).unwrap();
        assert_eq!(bytes(cold.path()), bytes(warm.path()), "nothing was computed that was there");
    }
}

/// With one thread terms run in turn. Their gradients are added in the order of the terms, whichever is done first.
#[test]
fn terms_beside_each_other_have_the_bytes_of_terms_in_turn() {
    let model = model();
    for gamma_scope in [GammaScope::MicroBatch, GammaScope::Batch, GammaScope::Token] {
        let options = TrainOptions { gamma_scope, grad_accum: 2, lora_dropout: 0.1, ..options() };
        let with = |threads: usize| {
            let dir = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&model, &options, dir.path()))
        };
        let in_turn = with(1);
        for threads in [2, 4, 4] {
            assert_eq!(with(threads), in_turn, "{gamma_scope:?}, {threads} threads");
        }
    }
}

#[test]
fn running_blocks_again_changes_nothing() {
    let model = model();
    let of = |checkpoint_activations| {
        let dir = tempfile::tempdir().unwrap();
        run(&model, &TrainOptions { checkpoint_activations, ..options() }, dir.path())
    };
    assert_eq!(of(CheckpointActivations::On), of(CheckpointActivations::Off));
}

/// Adapters that start at zero change no output, so those of the upper layers get the same gradients whether or not
/// there are any below; with only the upper ones, the lower blocks run once for all terms and have no backward.
#[test]
fn upper_adapters_get_the_gradients_they_get_among_all() {
    let model = model();
    let of = |layers: Option<Vec<usize>>| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("grads.safetensors");
        let options = TrainOptions { layers, steps: Some(1), dump_grads: Some(file.clone()), ..options() };
        run(&model, &options, dir.path());
        gradients(&file)
    };
    let (all, upper) = (of(None), of(Some(vec![2, 3])));
    assert!(all.len() > upper.len());
    for (name, gradient) in upper {
        assert_close(&name, &gradient, &all[&name]);
    }
}

#[test]
fn a_base_held_as_stored_trains_like_its_expansion() {
    let of = |base_dtype| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("grads.safetensors");
        let options = TrainOptions { dump_grads: Some(file.clone()), ..options() };
        (run(&held(base_dtype), &options, dir.path()).0, gradients(&file))
    };
    let ((plain_steps, plain), (stored_steps, stored)) = (of(BaseDtype::F32), of(BaseDtype::AsStored));
    for (a, b) in plain_steps.iter().zip(&stored_steps) {
        assert!(
            (a.loss - b.loss).abs() < 1e-5 * a.loss.abs() && (a.nll_harm.unwrap() - b.nll_harm.unwrap()).abs() < 1e-5
        );
    }
    for (name, gradient) in stored {
        assert_close(&name, &gradient, &plain[&name]);
    }
}

#[test]
fn a_shared_beginning_gives_the_losses_and_gradients_of_its_copies() {
    let model = model();
    let dir = tempfile::tempdir().unwrap();
    run(&model, &options(), dir.path());
    let adapter = eraser_model::Adapter::load(&dir.path().join("adapter"), &model.config, &Device::Cpu).unwrap();
    let template = eraser_data::PromptTemplate::Chat(model.template.clone().unwrap());
    let encode = |record: &eraser_data::Record| {
        let prompt = template.render(&record.input).unwrap();
        eraser_data::encode(&prompt, &record.output, &model.tokenizer, 512).unwrap()
    };
    let samples: Vec<Sample> = sets().rows(SetName::Harm).iter().map(encode).collect();
    let samples: Vec<&Sample> = samples.iter().collect();
    let of = |batch: &Batch| {
        let trace = model.decoder.trace(&batch.ids, &batch.segments, Some(&adapter), TraceOptions::default()).unwrap();
        let hidden = model.decoder.final_hidden(trace.output(), &batch.supervised().rows).unwrap();
        let nll = model.decoder.cross_entropy(&hidden, &batch.targets()).unwrap();
        let weights = Tensor::ones_like(&nll).unwrap().detach();
        let values = nll.to_vec1::<f32>().unwrap();
        let mut gradients = Gradients::default();
        trace.backward_losses(&nll, &weights, &mut gradients).unwrap();
        let flat = |v: &candle_core::Var| gradients.get(v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (values, adapter.parameters().iter().map(|(name, v)| (name.clone(), flat(v))).collect::<Vec<_>>())
    };
    let (shared, plain) = (Batch::shared(&samples), Batch::new(&samples));
    assert!(shared.ids.len() < plain.ids.len() && shared.tokens == plain.ids.len());
    let ((nll, gradients), (plain_nll, plain_gradients)) = (of(&shared), of(&plain));
    assert_close("losses", &nll, &plain_nll);
    for ((name, a), (_, b)) in gradients.iter().zip(&plain_gradients) {
        assert_close(name, a, b);
    }
}
