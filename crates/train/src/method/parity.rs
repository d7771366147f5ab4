//! Methods against PyTorch, for their tests: one step of the trainer, from set files on, on a recorded model. In: a
//! method's name, or that of a variant of it, and the variant's options; out: a panic where a term, the loss or a
//! gradient differs. `tests/fixtures/methods.py` of the workspace records.

use super::Method;
use crate::{Control, Observer, Order, SetName, Sets, StepMetrics, Templates, TrainOptions, train};
use candle_core::{Device, Tensor};
use eraser_data::Record;
use eraser_model::adapter::Module;
use eraser_model::load::{BaseDtype, Compute, LoadOptions};
use serde::Deserialize;
use std::{collections::HashMap, path::Path};

/// Of the larger of 1 and what is compared, or of the norm of its tensor: both sides compute in f32.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Fixture {
    gamma: f64,
    tokenizer: serde_json::Value,
    sets: HashMap<String, Vec<[String; 2]>>,
    methods: HashMap<String, Expected>,
}

#[derive(Deserialize)]
struct Expected {
    loss: f64,
    terms: HashMap<String, f64>,
    norms: HashMap<String, f64>,
    gradients: HashMap<String, Vec<f32>>,
}

/// Keeps the last step.
#[derive(Default)]
struct Last(Option<StepMetrics>);

impl Observer for Last {
    fn start(&mut self, _: usize, _: usize) {}
    fn step(&mut self, metrics: &StepMetrics) -> Control {
        self.0 = Some(metrics.clone());
        Control::Continue
    }
}

pub(super) fn check(name: &str) {
    check_variant(name, TrainOptions { method: Method::named(name).unwrap(), ..TrainOptions::default() });
}

/// As [`check`], for what `options` make of a method.
pub(super) fn check_variant(name: &str, options: TrainOptions) {
    check_within(name, options, TOLERANCE);
}

/// The method with whole weights trained in place of an adapter, as the fixtures have it.
pub(super) fn in_full(options: TrainOptions) -> TrainOptions {
    TrainOptions { full: true, targets: vec![Module::Up, Module::Down], layers: Some(vec![0, 1]), ..options }
}

/// The same with another bound.
pub(super) fn check_within(name: &str, options: TrainOptions, tolerance: f64) {
    let fixture: Fixture = serde_json::from_str(include_str!("../../tests/fixtures/methods.json")).unwrap();
    let family = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families/llama");
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(family.join(file), dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("tokenizer.json"), fixture.tokenizer.to_string()).unwrap();
    std::fs::write(dir.path().join("plain.txt"), "{}").unwrap();
    let load =
        LoadOptions { device: Device::Cpu, base_dtype: BaseDtype::F32, compute: Compute::F32, chat_template: None };
    let model = eraser_model::load(dir.path().to_str().unwrap(), &load).unwrap();

    let records = |set: &str| {
        let record = |[input, output]: &[String; 2]| Record {
            input: input.clone(),
            output: output.clone(),
            ..Record::default()
        };
        fixture.sets[set].iter().map(record).collect::<Vec<_>>()
    };
    let sets: Sets = SetName::ALL.into_iter().map(|set| (set, records(set.name()))).collect();
    let dumped = dir.path().join("gradients.safetensors");
    let options = TrainOptions {
        gamma: fixture.gamma.into(),
        allow_swapped: true,
        lora_dropout: 0.0,
        noise: false,
        order: Order::File,
        steps: Some(1),
        micro_batch: sets.rows(SetName::Harm).len(),
        grad_accum: 1,
        templates: Templates::File(dir.path().join("plain.txt")),
        init_adapter: (!options.full).then(|| family.join("adapter")),
        dump_grads: Some(dumped.clone()),
        ..options
    };
    let mut last = Last::default();
    let states = dir.path().join("states.bin");
    train(&model, &sets, &options, &dir.path().join("run"), &states, false, &mut last).unwrap();
    let (found, expected) = (last.0.unwrap(), &fixture.methods[name]);

    let within = |what: &str, found: f64, expected: f64, size: f64| {
        assert!((found - expected).abs() < tolerance * size.max(1.0), "{name}, {what}: {found}, PyTorch {expected}");
    };
    let close = |what: &str, found: f64, expected: f64| within(what, found, expected, expected.abs());
    close("loss", found.loss, expected.loss);
    assert_eq!(found.terms.len(), expected.terms.len());
    for (term, value) in &expected.terms {
        close(term, found.terms[term], *value);
    }
    let gradients: HashMap<String, Tensor> = candle_core::safetensors::load(&dumped, &Device::Cpu).unwrap();
    assert_eq!(gradients.len(), expected.norms.len());
    let values = |key: &str| gradients[key].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (key, norm) in &expected.norms {
        let square: f64 = values(key).iter().map(|&x| f64::from(x).powi(2)).sum();
        close(key, square.sqrt(), *norm);
    }
    for (key, gradient) in &expected.gradients {
        for (x, y) in values(key).iter().zip(gradient) {
            within(key, f64::from(*x), f64::from(*y), expected.norms[key]);
        }
    }
}
