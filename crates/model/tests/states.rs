//! Gradients that enter the backward at the outputs of blocks, and those of states that are added there, against finite
//! differences, on the tiny models of tests/fixtures/families.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use candle_core::{Device, Tensor, Var};
use eraser_model::load::{BaseDtype, Compute, LoadOptions};
use eraser_model::trace::{Checkpoint, Gradients, Trace, TraceOptions};
use eraser_model::{Adapter, Model};
use eraser_ops::Segments;
use std::path::Path;

const IDS: [u32; 11] = [5, 9, 3, 17, 22, 4, 8, 30, 6, 6, 12];
/// Layers that the loss looks at; the last one of the model is not among them.
const LAYERS: [usize; 2] = [0, 1];

fn family() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/llama")
}

fn model(dir: &Path) -> Model {
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(family().join(file), dir.join(file)).unwrap();
    }
    let tokenizer = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,
        "continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
        "vocab":{"a":0,"b":1,"c":2},"merges":[]}}"#;
    std::fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
    let options =
        LoadOptions { device: Device::Cpu, base_dtype: BaseDtype::F32, compute: Compute::F32, chat_template: None };
    eraser_model::load(dir.to_str().unwrap(), &options).unwrap()
}

fn weights(layer: usize, like: &Tensor) -> Tensor {
    let n = like.elem_count();
    let values = (0..n).map(|i| ((i * 37 + layer * 11) % 19) as f32 / 19.0 - 0.45).collect::<Vec<_>>();
    Tensor::from_vec(values, like.shape(), &Device::Cpu).unwrap()
}

fn trace<'a>(model: &'a Model, adapter: &'a Adapter, options: TraceOptions) -> Trace<'a> {
    model.decoder.trace(&IDS, &Segments::from_lengths([4, 7]), Some(adapter), options).unwrap()
}

/// `sum_l sum(w_l * tanh(state_l))`, and its gradients.
fn loss(model: &Model, adapter: &Adapter, options: TraceOptions) -> (f64, Gradients) {
    let trace = trace(model, adapter, options);
    let (mut value, mut states) = (0.0, Vec::new());
    for layer in LAYERS {
        let state = trace.state(layer).unwrap();
        let (w, t) = (weights(layer, &state), state.tanh().unwrap());
        let product = (&w * &t).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        value += product.iter().map(|&x| f64::from(x)).sum::<f64>();
        let slope = (1.0 - t.sqr().unwrap()).unwrap();
        states.push((layer, (w * slope).unwrap()));
    }
    let mut gradients = Gradients::default();
    trace.backward_states(&states, &mut gradients).unwrap();
    (value, gradients)
}

fn norm(t: &Tensor) -> f64 {
    let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn a_gradient_can_enter_at_the_output_of_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let adapter = Adapter::load(&family().join("adapter"), &model.config, &Device::Cpu).unwrap();
    let all = TraceOptions::default();
    let (_, gradients) = loss(&model, &adapter, all);
    let mut checked = 0;
    for (name, variable) in adapter.parameters() {
        let Some(gradient) = gradients.get(&variable) else {
            assert!(name.contains("layers.2."), "{name} has no gradient");
            continue;
        };
        // The derivative in a direction of length about 1: mostly that of the gradient, where it is largest beside the
        // rounding of f32.
        let before = variable.as_tensor().copy().unwrap();
        let other = weights(7, &before);
        let unit = |t: &Tensor| (t / norm(t)).unwrap();
        let direction = (unit(gradient) + (unit(&other) * 0.5).unwrap()).unwrap();
        let h = 4e-3;
        let at = |by: f64| {
            variable.set(&(&before + (&direction * by).unwrap()).unwrap()).unwrap();
            let value = loss(&model, &adapter, all).0;
            variable.set(&before).unwrap();
            value
        };
        let found = (at(h) - at(-h)) / (2.0 * h);
        let product = (gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let expected = f64::from(product);
        assert!((found - expected).abs() < 5e-3 * norm(gradient).max(0.2), "{name}: {found}, backward {expected}");
        checked += 1;
    }
    assert_eq!(checked, 2 * adapter.parameters().len() / 3);

    // Blocks above the last state change nothing, whether they run or not; nor does it to run blocks again.
    let others = [
        TraceOptions { blocks: Some(2), ..all },
        TraceOptions { checkpoint: Checkpoint::Always, ..all },
        TraceOptions { checkpoint: Checkpoint::Beyond(3000), blocks: Some(2), ..all },
    ];
    for options in others {
        let (_, same) = loss(&model, &adapter, options);
        for (name, variable) in adapter.parameters() {
            let values = |of: &Gradients| of.get(&variable).map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            assert_eq!(values(&same), values(&gradients), "{name}, {options:?}");
        }
    }
    let short = trace(&model, &adapter, TraceOptions { blocks: Some(2), ..all });
    assert!(short.state(2).is_none() && short.state(1).is_some());
}

/// The mean loss of the last tokens with states added to the embedding and behind blocks, and the gradients of what is
/// added.
fn added_loss(model: &Model, adapter: Option<&Adapter>, added: &[(usize, Tensor)], input: &Tensor) -> (f64, Gradients) {
    let segments = Segments::from_lengths([4, 7]);
    let options = TraceOptions::default();
    let trace = model.decoder.trace_adding(0, input.clone(), &segments, adapter, added, options).unwrap();
    let hidden = model.decoder.final_hidden(trace.output(), &[2, 8, 9]).unwrap();
    let losses = model.decoder.cross_entropy(&hidden, &[17, 6, 12]).unwrap();
    let values = losses.to_vec1::<f32>().unwrap();
    let third = Tensor::full(1f32 / 3.0, 3, &Device::Cpu).unwrap();
    let mut gradients = Gradients::default();
    trace.backward_losses(&losses, &third, &mut gradients).unwrap();
    (values.iter().map(|&x| f64::from(x)).sum::<f64>() / 3.0, gradients)
}

#[test]
fn states_added_behind_blocks_have_gradients() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let adapter = Adapter::load(&family().join("adapter"), &model.config, &Device::Cpu).unwrap();
    let embedded = model.decoder.embed(&IDS, false).unwrap();
    let variable = |t: &Tensor| Var::from_tensor(t).unwrap().into_inner();
    let own =
        |layer: usize, by: &Tensor| (layer, variable(&((weights(layer, &embedded) * 0.3).unwrap() + by).unwrap()));
    let zero = embedded.zeros_like().unwrap();
    // Without an adapter the tape begins at the first block behind which something is added.
    for (adapter, layers) in [(Some(&adapter), [0, 2]), (None, [1, 2])] {
        // What moves: the input, or what is added behind one of the two blocks.
        for moved in 0..3 {
            let at = |by: &Tensor| {
                let by = |place: usize| if place == moved { by } else { &zero };
                let added = [own(layers[0], by(0)), own(layers[1], by(1))];
                let input = (&embedded + by(2)).unwrap();
                let input = if moved == 2 { variable(&input) } else { input };
                let (value, gradients) = added_loss(&model, adapter, &added, &input);
                let of = if moved == 2 { &input } else { &added[moved].1 };
                (value, gradients.get(of).cloned())
            };
            let gradient = at(&zero).1.unwrap();
            let direction = ((&gradient / norm(&gradient)).unwrap()
                + (weights(5, &gradient) * (0.5 / norm(&weights(5, &gradient)))).unwrap())
            .unwrap();
            let h = 4e-3;
            let step = |by: f64| at(&(&direction * by).unwrap()).0;
            let found = (step(h) - step(-h)) / (2.0 * h);
            let expected = (&gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let apart = (found - f64::from(expected)).abs();
            assert!(apart < 5e-3 * norm(&gradient).max(0.05), "{moved}: {found}, backward {expected}");
        }
        // What is no variable is added all the same, and has no gradient.
        let added = layers.map(|layer| own(layer, &zero));
        let plain = added.clone().map(|(layer, t)| (layer, t.detach()));
        let (value, _) = added_loss(&model, adapter, &added, &embedded);
        let options = TraceOptions::default();
        let segments = Segments::from_lengths([4, 7]);
        let trace = model.decoder.trace_adding(0, embedded.clone(), &segments, adapter, &plain, options).unwrap();
        let hidden = model.decoder.final_hidden(trace.output(), &[2, 8, 9]).unwrap();
        let losses = model.decoder.cross_entropy(&hidden, &[17, 6, 12]).unwrap().mean_all().unwrap();
        assert!((f64::from(losses.to_scalar::<f32>().unwrap()) - value).abs() < 1e-5);
        let without = model.decoder.trace(&IDS, &segments, adapter, options).unwrap();
        assert!(without.state(2).is_none_or(|own| norm(&(own - trace.state(2).unwrap()).unwrap()) > 0.1));
    }
}
