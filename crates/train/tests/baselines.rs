//! What methods of the field have besides terms: state that a resumed run needs, weights that change over the steps, layers
//! that a loss looks at. On the built-in model.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use candle_core::Device;
use common::{model, organism};
use eraser_data::{Record, read_set};
use eraser_model::adapter::Module;
use eraser_model::{Adapter, ErrorKind, Model};
use eraser_ops::Segments;
use eraser_train::{Control, Method, Observer, SetName, Sets, StepMetrics, Templates, TrainOptions, check, train};
use std::path::Path;

fn sets() -> Sets {
    let read = |set: SetName| {
        let mut records: Vec<Record> = read_set(&organism().join("sets").join(set.file())).unwrap();
        records.truncate(6);
        (set, records)
    };
    [SetName::Harm, SetName::Help, SetName::Align].map(read).into_iter().collect()
}

fn options(method: &str) -> TrainOptions {
    TrainOptions {
        method: Method::named(method).unwrap(),
        steps: Some(4),
        micro_batch: 2,
        grad_accum: 1,
        max_length: 96,
        lr: 1e-3,
        templates: Templates::Model,
        checkpoint_every: 1,
        ..TrainOptions::default()
    }
}

/// Keeps every step, and stops behind one.
struct Steps {
    seen: Vec<StepMetrics>,
    stop: usize,
}

impl Observer for Steps {
    fn start(&mut self, _: usize, _: usize) {}
    fn step(&mut self, metrics: &StepMetrics) -> Control {
        self.seen.push(StepMetrics { seconds: 0.0, gflop: 0.0, ..metrics.clone() });
        if metrics.step == self.stop { Control::Stop } else { Control::Continue }
    }
}

/// The steps of a training in `dir` and its adapter, if it was not stopped behind step `stop`.
fn run(model: &Model, options: &TrainOptions, dir: &Path, stop: usize, resume: bool) -> (Vec<StepMetrics>, Vec<u8>) {
    let mut steps = Steps { seen: Vec::new(), stop };
    let done = train(model, &sets(), options, dir, &dir.join("states"), resume, &mut steps);
    assert_eq!(done.err().map(|e| e.kind()), (stop > 0).then_some(ErrorKind::Interrupted));
    (steps.seen, std::fs::read(dir.join("adapter/adapter_model.safetensors")).unwrap_or_default())
}

/// A new adapter changes nothing, so every cosine is 1 and has no gradient: nothing was learnt, however many steps.
#[test]
fn circuit_breakers_leave_the_point_where_an_adapter_begins() {
    let dir = tempfile::tempdir().unwrap();
    let options = TrainOptions { steps: Some(12), lr: 1e-2, ..options("circuit-breakers") };
    let (steps, _) = run(&model(), &options, dir.path(), 0, false);
    let harm = |step: &StepMetrics| step.terms["l_harm"];
    let (first, last) = (harm(&steps[0]), harm(&steps[11]));
    assert!(first - last > 1e-4, "{first} {last}");
}

/// LAT with so many steps of an attack.
fn attacked(steps: usize) -> TrainOptions {
    TrainOptions { attack_steps: Some(steps), ..options("lat") }
}

/// RMU as it is published: a module of some blocks is trained itself.
fn in_full() -> TrainOptions {
    TrainOptions {
        full: true,
        targets: vec![Module::Down],
        layers: Some(vec![0, 1]),
        loss_layers: Some(vec![1]),
        ..options("rmu")
    }
}

/// A dual variable that began again at 1, or a ramp that began again at 0, would give other bytes.
#[test]
fn a_resumed_run_takes_the_steps_of_one_that_was_not_stopped() {
    let model = model();
    let pdu = TrainOptions { dual_warmup: Some(1), retain_eps: Some(0.5), dual_step: 0.3, ..options("pdu") };
    for options in [pdu, options("circuit-breakers"), options("dpo"), options("rmu"), attacked(3), in_full()] {
        let [whole, parts] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (steps, adapter) = run(&model, &options, whole.path(), 0, false);
        let (first, _) = run(&model, &options, parts.path(), 3, false);
        let (last, resumed) = run(&model, &options, parts.path(), 0, true);
        assert_eq!([first, last].concat(), steps, "{}", options.method.name);
        assert_eq!(resumed, adapter, "{}", options.method.name);
    }
}

#[test]
fn a_dual_variable_moves_after_its_warm_up_by_what_answers_cost_above_the_bound() {
    let model = model();
    let dir = tempfile::tempdir().unwrap();
    let options = TrainOptions { retain_eps: Some(0.25), dual_step: 2.0, lora_dropout: 0.0, ..options("pdu") };
    let (steps, _) = run(&model, &options, dir.path(), 0, false);
    let dual: Vec<f64> = steps.iter().map(|step| step.terms["dual_help"]).collect();
    // Half of four steps.
    assert_eq!(dual[..3], [1.0, 1.0, 1.0]);
    let expected = (1.0 + 2.0 * (steps[2].terms["l_help"] - 0.25)).max(0.0);
    assert_eq!(dual[3].to_bits(), expected.to_bits(), "{dual:?}");
    let last = &steps[3];
    assert!((last.loss - last.terms["l_harm"] - expected * last.terms["l_help"]).abs() < 1e-9, "{last:?}");

    // Without a bound it is what the answers cost the base model, which an adapter begins as.
    let dir = tempfile::tempdir().unwrap();
    let options = TrainOptions { dual_warmup: Some(0), retain_eps: None, micro_batch: 6, ..options };
    let (steps, _) = run(&model, &options, dir.path(), 0, false);
    assert!((steps[1].terms["dual_help"] - 1.0).abs() < 1e-4, "{:?}", steps[1].terms);
}

#[test]
fn a_run_whose_weights_depend_on_its_length_is_not_given_another() {
    let model = model();
    let dir = tempfile::tempdir().unwrap();
    let options = TrainOptions { schedule: eraser_train::Schedule::Constant, ..options("circuit-breakers") };
    run(&model, &options, dir.path(), 2, false);
    let longer = TrainOptions { steps: Some(8), ..options };
    let mut steps = Steps { seen: Vec::new(), stop: 0 };
    let error = train(&model, &sets(), &longer, dir.path(), &dir.path().join("states"), true, &mut steps);
    assert!(error.unwrap_err().to_string().contains("the weights of the terms depend on it"));
}

#[test]
fn only_layers_that_hidden_states_depend_on_are_adapted() {
    let model = model();
    let dir = tempfile::tempdir().unwrap();
    run(&model, &options("rmu"), dir.path(), 0, false);
    let adapter = Adapter::load(&dir.path().join("adapter"), &model.config, &Device::Cpu).unwrap();
    let blocks = model.config.num_layers;
    let top = options("rmu").loss_layers(blocks)[0];
    assert_eq!(adapter.config.layers, Some((0..=top).collect()));
    assert!(top + 1 < blocks);

    let refused = |change: TrainOptions| check(&model, &sets(), &change).unwrap_err().to_string();
    let above = TrainOptions { layers: Some(vec![blocks - 1]), ..options("rmu") };
    assert!(refused(above).contains("nothing is adapted"));
    let beyond = TrainOptions { loss_layers: Some(vec![blocks]), ..options("circuit-breakers") };
    assert!(refused(beyond).contains(&format!("the model has no layer {blocks}")));
}

#[test]
fn whole_weights_are_trained_and_merged() {
    let mut model = model();
    let dir = tempfile::tempdir().unwrap();
    let options = TrainOptions { steps: Some(1), lr: 1e-3, ..in_full() };
    run(&model, &options, dir.path(), 0, false);
    let adapter = Adapter::load(&dir.path().join("adapter"), &model.config, &Device::Cpu).unwrap();
    assert!(adapter.is_whole() && !adapter.is_noop().unwrap());
    assert_eq!((adapter.parameters().len(), adapter.tensors().len()), (2, 4));
    // The first step of AdamW moves every value by the rate.
    for (name, change) in adapter.parameters() {
        let flat = change.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let moved = flat.iter().filter(|x| (x.abs() - 1e-3).abs() < 1e-5).count();
        assert!(moved * 10 > flat.len() * 9, "{name}: {moved} of {}", flat.len());
    }
    let tokens = [5u32, 9, 14, 3, 8, 21];
    let logits = |model: &Model, adapter: Option<&Adapter>| -> Vec<f32> {
        let whole = Segments::from_lengths([tokens.len()]);
        let states = model.decoder.hidden(&tokens, &whole, adapter).unwrap();
        model.decoder.logits(&states).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let (base, beside) = (logits(&model, None), logits(&model, Some(&adapter)));
    model.decoder.merge(&adapter).unwrap();
    let merged = logits(&model, None);
    let apart = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(apart(&beside, &merged) < 1e-3 && apart(&base, &merged) > 1e-2, "{}", apart(&beside, &merged));
}

#[test]
fn whole_weights_are_not_gone_on_with_as_low_rank_nor_the_other_way() {
    let model = model();
    let [whole, low] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let refused = |options: TrainOptions| check(&model, &sets(), &options).unwrap_err().to_string();
    for (dir, full) in [(&whole, true), (&low, false)] {
        let options = TrainOptions { full, steps: Some(1), ..in_full() };
        run(&model, &options, dir.path(), 0, false);
        let init_adapter = Some(dir.path().join("adapter"));
        check(&model, &sets(), &TrainOptions { init_adapter: init_adapter.clone(), ..options.clone() }).unwrap();
        let error = refused(TrainOptions { init_adapter, full: !full, ..options });
        assert!(error.starts_with("init_adapter: ") && error.contains("whole weights"), "{error}");
    }
}

#[test]
fn an_attack_on_hidden_states_makes_refusals_dearer_and_harmful_answers_cheaper() {
    let model = model();
    let first = |options: TrainOptions| {
        let dir = tempfile::tempdir().unwrap();
        run(&model, &TrainOptions { steps: Some(1), lora_dropout: 0.0, ..options }, dir.path(), 0, false).0.remove(0)
    };
    let [plain, short, long] = [0, 2, 8].map(|steps| first(attacked(steps)));
    let value = |step: &StepMetrics| step.terms["l_harm"];
    assert!(value(&plain) < value(&short) && value(&short) < value(&long), "{plain:?} {short:?} {long:?}");
    assert!(long.nll_harm < plain.nll_harm, "{plain:?} {long:?}");
    // Benign answers are not attacked, and all layers are adapted: there is an attack behind each of them.
    assert_eq!(plain.terms["l_help"].to_bits(), long.terms["l_help"].to_bits());
    // A shorter vector does less.
    let near = first(TrainOptions { attack_epsilon: Some(1e-3), ..attacked(8) });
    assert!((value(&near) - value(&plain)).abs() < 0.1 * (value(&long) - value(&plain)), "{near:?} {plain:?}");
}

#[test]
fn hidden_states_are_looked_at_where_they_were_published_to_be() {
    let of = |method: &str, blocks| options(method).loss_layers(blocks);
    assert_eq!((of("rmu", 32), of("circuit-breakers", 32)), (vec![7], vec![9, 19]));
    assert_eq!((of("rmu", 1), of("circuit-breakers", 3)), (vec![0], vec![0, 1]));
    assert_eq!((of("lat", 32), of("lat", 3), of("lat", 1)), (vec![8, 16, 24, 30], vec![0, 1, 2], vec![0]));
    assert!(of("eraser", 32).is_empty());
}
