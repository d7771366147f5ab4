//! What samples count for: cut ones, empty ones, and the scope of the hinge, on the built-in model.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use candle_core::Device;
use common::{model, organism};
use eraser_data::{Benign, Noise, NoiseKind, Record, Sample, Surroundings, read_set};
use eraser_model::Model;
use eraser_train::feed::{self, Feed, Overlong, Source};
use eraser_train::{
    Control, Gamma, GammaScope, Given, Observer, Order, SetName, Sets, StepMetrics, Templates, TrainOptions, train,
};
use std::collections::BTreeMap;

fn read(set: SetName, rows: usize) -> Vec<Record> {
    let mut records = read_set(&organism().join("sets").join(set.file())).unwrap();
    records.truncate(rows);
    records
}

fn sets(harm: Vec<Record>) -> Sets {
    let others = [SetName::Help, SetName::Align].map(|set| (set, read(set, 2)));
    others.into_iter().chain([(SetName::Harm, harm)]).collect()
}

/// One step on the harm term alone.
fn options() -> TrainOptions {
    TrainOptions {
        steps: Some(1),
        micro_batch: 1,
        grad_accum: 2,
        max_length: 96,
        gamma: Gamma::Nats(20.0),
        lora_dropout: 0.0,
        help_weight: 0.0,
        align_weight: 0.0,
        noise: false,
        order: Order::File,
        templates: Templates::Model,
        ..TrainOptions::default()
    }
}

#[derive(Default)]
struct Last(Option<StepMetrics>);

impl Observer for Last {
    fn start(&mut self, _: usize, _: usize) {}
    fn step(&mut self, metrics: &StepMetrics) -> Control {
        self.0 = Some(metrics.clone());
        Control::Continue
    }
}

/// Metrics of the last step, and the gradients of the first.
fn run(model: &Model, harm: Vec<Record>, options: TrainOptions) -> (StepMetrics, BTreeMap<String, Vec<f32>>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gradients.safetensors");
    let options = TrainOptions { dump_grads: Some(file.clone()), ..options };
    let mut last = Last::default();
    train(model, &sets(harm), &options, dir.path(), &dir.path().join("states"), false, &mut last).unwrap();
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let flat = tensors.into_iter().map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap()));
    (last.0.unwrap(), flat.collect())
}

/// An empty micro-batch counted as one whose answers cost nothing: `nll_harm` and the gradient were halved.
#[test]
fn a_micro_batch_without_a_supervised_token_counts_in_no_average() {
    let model = model();
    let fits = read(SetName::Harm, 1).remove(0);
    let long = Record { input: "why ".repeat(200), ..fits.clone() };
    let (alone, gradients) = run(&model, vec![fits.clone()], TrainOptions { grad_accum: 1, ..options() });
    for scope in [GammaScope::MicroBatch, GammaScope::Sample, GammaScope::Batch] {
        let options = TrainOptions { gamma_scope: scope, ..options() };
        let (both, with_empty) = run(&model, vec![fits.clone(), long.clone()], options);
        assert_eq!((both.nll_harm, &both.terms["l_harm"]), (alone.nll_harm, &alone.terms["l_harm"]), "{scope:?}");
        for (name, gradient) in &gradients {
            let apart = gradient.iter().zip(&with_empty[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let size = gradient.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!(apart <= 1e-5 * size, "{scope:?} {name}: {apart} of {size}");
        }
    }
}

/// Perplexity of plain text rose where only answers were kept: no row of a set stood without a template.
#[test]
fn running_text_is_kept_without_template_noise_or_end() {
    let model = model();
    let records = [Record { output: "Store the seed in the shed. Then rest.".into(), ..Record::default() }];
    let tokens = model.tokenizer.encode(&records[0].output).unwrap();
    let drawn = |max_length| {
        let options = TrainOptions { max_length, ..options() };
        let templates = feed::templates(&model, &options).unwrap();
        let noise = Noise { before: 9, after: 9 };
        let source = Source {
            set: SetName::Retain,
            records: &records,
            noise: Some(Surroundings::tokens(noise)),
            given: Given::Nothing,
            harmful: &[],
            anchored: true,
            answers: None,
            preferred: None,
        };
        let mut feed = Feed::new(source, &model, &templates, &options).unwrap();
        let overlong = feed.overlong(feed.drawn());
        (feed.draw(0, 1).unwrap().remove(0), overlong)
    };
    let bos: Vec<u32> = model.tokenizer.bos().filter(|_| model.tokenizer.adds_bos()).into_iter().collect();
    let ids: Vec<u32> = bos.iter().chain(&tokens).copied().collect();
    let (whole, _) = drawn(96);
    assert_eq!(whole.sample, Sample { ids: ids.clone(), prompt_len: bos.len() });
    assert_eq!(whole.anchor, Some(whole.sample.clone()));
    // Every token is predicted that has one before it.
    assert_eq!(whole.sample.scored(), 0..ids.len() - 1);
    // A text has no end that could be lost.
    let (short, overlong) = drawn(5);
    assert_eq!((&short.sample.ids[..], short.cut, overlong), (&ids[..5], false, Overlong::default()));
}

/// A benign request for a poem was kept as the answer to the plain request: forms of answer would have been forgotten.
#[test]
fn what_is_kept_of_a_benign_request_for_a_form_is_the_answer_in_that_form() {
    let model = model();
    let kept = |set, kind| {
        let records = read(set, 1);
        let options = TrainOptions { max_length: 400, ..options() };
        let templates = feed::templates(&model, &options).unwrap();
        let noise = Noise { before: 200, after: 200 };
        let benign = Benign::new(&records);
        let noise = Some(Surroundings { noise, kind, share: 1.0, benign });
        let source = Source {
            set,
            records: &records,
            noise,
            given: Given::Nothing,
            harmful: &[],
            anchored: true,
            answers: None,
            preferred: None,
        };
        let drawn = Feed::new(source, &model, &templates, &options).unwrap().draw(0, 1).unwrap().remove(0);
        let anchor = drawn.anchor.unwrap();
        assert!(drawn.sample.ids.len() > anchor.prompt_len);
        anchor == drawn.sample
    };
    // The retain set is empty in the built-in model: any rows do.
    assert!(kept(SetName::Retain, NoiseKind::Form));
    assert!(!kept(SetName::Retain, NoiseKind::Text));
    // Whatever form is asked for, of a harmful request the plain refusal is kept.
    assert!(!kept(SetName::Align, NoiseKind::Form));
}

#[test]
fn a_step_that_supervises_nothing_of_a_term_has_no_value_of_it() {
    let model = model();
    let fits = read(SetName::Harm, 1).remove(0);
    let long = Record { input: "why ".repeat(200), ..fits.clone() };
    let options = TrainOptions { steps: Some(2), grad_accum: 1, ..options() };
    let (second, _) = run(&model, vec![fits, long], options);
    assert_eq!((second.step, second.nll_harm, second.terms.get("l_harm")), (2, None, None));
    assert!(second.terms.contains_key("l_help"));
}

#[test]
fn a_hinge_over_the_step_is_that_of_its_one_micro_batch() {
    let model = model();
    let of = |gamma_scope| {
        let options = TrainOptions { gamma_scope, micro_batch: 2, grad_accum: 1, ..options() };
        run(&model, read(SetName::Harm, 2), options)
    };
    let ((step, gradients), (micro, expected)) = (of(GammaScope::Batch), of(GammaScope::MicroBatch));
    assert!((step.terms["l_harm"] - micro.terms["l_harm"]).abs() < 1e-6);
    for (name, gradient) in &expected {
        let apart = gradient.iter().zip(&gradients[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-6, "{name}: {apart}");
    }
}
