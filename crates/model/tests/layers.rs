//! Families whose layers differ from Llama's: tiny random checkpoints against logits and gradients that transformers
//! and PEFT computed for them (recorded by tests/fixtures/layers.py), in every way the decoder can be run.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{device, fixtures};
use eraser_model::{
    Adapter, Decoder, GenerateOptions, ModelConfig, ScoreRequest,
    adapter::Module,
    cache::KvCache,
    generate, score, token_gradient,
    trace::{Checkpoint, Gradients, TraceOptions},
    weights::{HfDirectory, TensorSource},
};
use eraser_ops::{Segments, form::with_composed};
use safetensors::SafeTensors;
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// Logits are of order 10, those of Gemma up to 100.
const TOLERANCE: f32 = 2e-3;

struct Fixture {
    name: String,
    config: ModelConfig,
    decoder: Decoder,
    adapter: Adapter,
    sequences: Vec<Vec<u32>>,
    base: Vec<Vec<f32>>,
    adapted: Vec<Vec<f32>>,
    loss: f32,
    gradients: BTreeMap<String, Vec<f32>>,
}

fn root() -> PathBuf {
    fixtures("layers")
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(root()).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 26, "{names:?}");
    names
}

fn fixture(name: &str) -> Fixture {
    let dir = root().join(name);
    let config = ModelConfig::from_hf_dir(&dir).unwrap();
    let decoder = Decoder::load(&config, &HfDirectory::open(&dir).unwrap(), DType::F32, device()).unwrap();
    let adapter = Adapter::load(&dir.join("adapter"), &config, device()).unwrap();
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let lengths: Vec<usize> = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["lengths"]).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| {
        let view = file.tensor(name).unwrap();
        let dtype = if view.dtype() == safetensors::Dtype::BF16 { DType::BF16 } else { DType::F32 };
        Tensor::from_raw_buffer(view.data(), dtype, view.shape(), device()).unwrap().to_dtype(DType::F32).unwrap()
    };
    let ids = file.tensor("ids").unwrap();
    let mut ids = ids.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
    let sequences = lengths.iter().map(|n| ids.by_ref().take(*n).collect()).collect();
    let gradient = |name: &str| tensor(name).flatten_all().unwrap().to_vec1().unwrap();
    let gradients = file
        .names()
        .into_iter()
        .filter_map(|name| name.strip_prefix("grad.").map(|own| (own.to_owned(), gradient(name))));
    let gradients = gradients.collect();
    Fixture {
        name: name.to_owned(),
        base: tensor("base").to_vec2().unwrap(),
        adapted: tensor("adapted").to_vec2().unwrap(),
        loss: tensor("loss").to_scalar().unwrap(),
        config,
        decoder,
        adapter,
        sequences,
        gradients,
    }
}

fn each(mut check: impl FnMut(Fixture)) {
    for name in names() {
        check(fixture(&name));
    }
}

impl Fixture {
    fn pack(&self) -> (Vec<u32>, Segments) {
        (self.sequences.concat(), Segments::from_lengths(self.sequences.iter().map(Vec::len)))
    }

    fn logits(&self, adapter: Option<&Adapter>) -> Vec<Vec<f32>> {
        let (ids, segments) = self.pack();
        let hidden = self.decoder.hidden(&ids, &segments, adapter).unwrap();
        self.decoder.logits(&hidden).unwrap().to_vec2().unwrap()
    }

    fn close(&self, ours: &[Vec<f32>], theirs: &[Vec<f32>], what: &str) {
        assert_eq!(ours.len(), theirs.len(), "{}, {what}", self.name);
        let apart = ours.iter().flatten().zip(theirs.iter().flatten()).map(|(a, b)| (a - b).abs());
        // Written so that a NaN fails.
        let worst = apart.fold(0.0, |m: f32, x| if x <= m { m } else { x });
        assert!(worst < TOLERANCE, "{}, {what}: {worst} apart", self.name);
    }

    /// The loss of every position's own token, and the gradient of every tensor of the adapter.
    fn gradients(&self, checkpoint: Checkpoint) -> (f32, Vec<(String, Vec<f32>)>) {
        let (ids, segments) = self.pack();
        let options = TraceOptions { checkpoint, ..TraceOptions::default() };
        let trace = self.decoder.trace(&ids, &segments, Some(&self.adapter), options).unwrap();
        let rows: Vec<u32> = (0..ids.len() as u32).collect();
        let hidden = self.decoder.final_hidden(trace.output(), &rows).unwrap();
        let nll = self.decoder.cross_entropy(&hidden, &ids).unwrap();
        let loss = nll.sum_all().unwrap().to_scalar().unwrap();
        let ones = Tensor::ones(ids.len(), DType::F32, device()).unwrap();
        let mut gradients = Gradients::default();
        trace.backward_losses(&nll, &ones, &mut gradients).unwrap();
        let flat = |v: &Var| gradients.get(v).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (loss, self.adapter.parameters().iter().map(|(name, v)| (name.clone(), flat(v))).collect())
    }
}

#[test]
fn logits_equal_those_of_transformers_and_peft() {
    each(|f| {
        f.close(&f.logits(None), &f.base, "base");
        f.close(&f.logits(Some(&f.adapter)), &f.adapted, "adapted");
        f.close(&with_composed(|| f.logits(Some(&f.adapter))), &f.adapted, "composed");
    });
}

#[test]
fn gradients_equal_those_of_peft() {
    each(|f| {
        let (loss, ours) = f.gradients(Checkpoint::Never);
        assert!((loss - f.loss).abs() < 1e-3 * f.loss.abs(), "{}: loss {loss}, not {}", f.name, f.loss);
        let names: Vec<&String> = ours.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), f.gradients.len(), "{}: {names:?}", f.name);
        for (name, ours) in &ours {
            let theirs = f.gradients.get(name).unwrap_or_else(|| panic!("{}: PEFT has no {name}", f.name));
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            };
            let (norm, expected) = (dot(ours, ours).sqrt(), dot(theirs, theirs).sqrt());
            let cosine = dot(ours, theirs) / (norm * expected);
            assert!(cosine > 0.9999, "{}, {name}: cosine {cosine}", f.name);
            assert!((norm - expected).abs() < 1e-3 * expected, "{}, {name}: norm {norm}, not {expected}", f.name);
        }
    });
}

#[test]
fn gradients_are_the_same_from_checkpoints_and_in_the_composed_form() {
    each(|f| {
        let (_, plain) = f.gradients(Checkpoint::Never);
        assert_eq!(f.gradients(Checkpoint::Always).1, plain, "{}, checkpointed", f.name);
        for ((name, a), (_, b)) in plain.iter().zip(with_composed(|| f.gradients(Checkpoint::Beyond(20_000))).1) {
            let size = a.iter().fold(1e-2f32, |m, x| m.max(x.abs()));
            let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-3 * size, "{}, {name}: {apart} of {size}", f.name);
        }
    });
}

/// Token by token after a prompt, both long sequences in one call.
fn cached(f: &Fixture) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let start = 3;
    let long: Vec<(usize, &Vec<u32>)> = f.sequences.iter().enumerate().filter(|(_, s)| s.len() > start).collect();
    let mut caches: Vec<KvCache> = long.iter().map(|_| KvCache::new(&f.decoder)).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let shortest = long.iter().map(|(_, s)| s.len()).min().unwrap();
    let rows = std::iter::once(0..start).chain((start..shortest).map(|at| at..at + 1));
    for rows in rows {
        let ids: Vec<u32> = long.iter().flat_map(|(_, s)| &s[rows.clone()]).copied().collect();
        let segments = Segments::from_lengths(long.iter().map(|_| rows.len()));
        let hidden = f.decoder.extend(&ids, &segments, &mut caches, Some(&f.adapter)).unwrap();
        ours.extend(f.decoder.logits(&hidden).unwrap().to_vec2::<f32>().unwrap());
        theirs.extend(long.iter().map(|(i, _)| {
            let first: usize = f.sequences[..*i].iter().map(Vec::len).sum();
            f.adapted[first + rows.end - 1].clone()
        }));
    }
    (ours, theirs)
}

#[test]
fn decoding_with_a_cache_equals_the_whole_pass() {
    each(|f| {
        let (ours, theirs) = cached(&f);
        f.close(&ours, &theirs, "cached");
        let (ours, theirs) = with_composed(|| cached(&f));
        f.close(&ours, &theirs, "cached, composed");
    });
}

#[test]
fn greedy_text_with_a_cache_is_that_without() {
    each(|f| {
        let prompt = f.sequences[0][..4].to_vec();
        let options = GenerateOptions::greedy(12, &[]);
        let go = &mut |_: usize, _: u32| ControlFlow::Continue(());
        let found = generate(&f.decoder, Some(&f.adapter), std::slice::from_ref(&prompt), &options, 1, go).unwrap();
        let mut ids = prompt;
        for token in &found[0].tokens {
            let segments = Segments::from_lengths([ids.len()]);
            let hidden = f.decoder.hidden(&ids, &segments, Some(&f.adapter)).unwrap();
            let last = hidden.narrow(0, ids.len() - 1, 1).unwrap();
            let logits = f.decoder.logits(&last).unwrap().to_vec2::<f32>().unwrap().remove(0);
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(best - logits[*token as usize] < 1e-3, "{}: {token} after {ids:?}", f.name);
            ids.push(*token);
        }
        assert_eq!(ids.len(), 16, "{}", f.name);
    });
}

#[test]
fn scores_through_a_prefix_tree_equal_the_log_softmax_of_logits() {
    each(|f| {
        let ids = &f.sequences[0];
        let scores = |requests: &[ScoreRequest]| {
            score(&f.decoder, Some(&f.adapter), requests, &mut |_| ControlFlow::Continue(())).unwrap().unwrap()
        };
        let forks = (7..10).map(|at| [&ids[..at], &[1, 2, 3, 4, 5, 6, 7, 8]].concat());
        let requests: Vec<ScoreRequest> =
            std::iter::once(ids.clone()).chain(forks).map(|ids| ScoreRequest { scored: ids.len() - 2, ids }).collect();
        let expected: Vec<f32> = (2..ids.len())
            .map(|at| {
                let row = &f.adapted[at - 1];
                let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
                (f64::from(row[ids[at] as usize]) - sum.ln()) as f32
            })
            .collect();
        let together = scores(&requests);
        f.close(&together[..1], &[expected], "scores");
        let alone: Vec<Vec<f32>> = requests.chunks(1).flat_map(scores).collect();
        f.close(&together, &alone, "scores together and alone");
        f.close(&with_composed(|| scores(&requests)), &alone, "scores, composed");
    });
}

#[test]
fn a_merged_adapter_is_the_adapter_and_can_be_taken_out_again() {
    each(|mut f| {
        f.decoder.merge(&f.adapter).unwrap();
        f.close(&f.logits(None), &f.adapted, "merged");
        f.decoder.unmerge(&f.adapter).unwrap();
        f.close(&f.logits(None), &f.base, "un-merged");
    });
}

/// Names and shapes of the tensors of a safetensors file.
fn contents(path: &Path) -> BTreeMap<String, Vec<usize>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect()
}

#[test]
fn adapters_have_the_names_and_shapes_of_peft() {
    each(|f| {
        let dir = tempfile::tempdir().unwrap();
        let fresh = Adapter::new(f.adapter.config.clone(), &f.config, 1, device()).unwrap();
        for adapter in [&f.adapter, &fresh] {
            adapter.save(dir.path(), "base").unwrap();
            let theirs = contents(&root().join(&f.name).join("adapter/adapter_model.safetensors"));
            assert_eq!(contents(&dir.path().join("adapter_model.safetensors")), theirs, "{}", f.name);
        }
        let read = Adapter::load(dir.path(), &f.config, device()).unwrap();
        assert_eq!(read.config, f.adapter.config, "{}", f.name);
        let every = eraser_model::LoraConfig { targets: Module::SINGLE.to_vec(), ..f.adapter.config.clone() };
        let every = Adapter::new(every, &f.config, 1, device()).unwrap();
        assert_eq!(every.config.targets, fresh.config.targets, "{}", f.name);
    });
}

#[test]
fn what_is_exported_is_what_was_read() {
    each(|f| {
        let file = HfDirectory::open(&root().join(&f.name)).unwrap();
        let all = f.decoder.named_tensors().unwrap();
        let own = contents(&root().join(&f.name).join("model.safetensors"));
        if !f.config.layer.nested {
            let names: Vec<&String> = all.iter().map(|(name, _)| name).collect();
            assert_eq!(own.len(), all.len(), "{}: {names:?}", f.name);
            assert!(names.iter().all(|name| own.contains_key(*name)), "{}: {names:?}", f.name);
        }
        for (name, tensor) in all {
            let read = file.tensor(&name, tensor.dims(), DType::F32, device()).unwrap();
            let apart = (read - &tensor).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(apart < 1e-6, "{}, {name}: {apart}", f.name);
        }
        let json = f.config.to_hf_json(DType::F32, [Some(1), Some(2), None]).unwrap();
        let read = ModelConfig::from_hf_json(&json).unwrap_or_else(|e| panic!("{}: {e}: {json:#}", f.name));
        let mut expected = f.config.clone();
        // The text part is exported as a model of its own.
        expected.layer.nested = false;
        assert_eq!(read, expected, "{}", f.name);
    });
}

/// Weights as variables: training from scratch.
struct Trained(HfDirectory);

impl TensorSource for Trained {
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> eraser_model::Result<Tensor> {
        Ok(Var::from_tensor(&self.0.tensor(name, shape, dtype, device)?)?.into_inner())
    }
    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

#[test]
fn full_training_reaches_every_weight_with_the_same_gradient_in_both_forms() {
    each(|f| {
        let source = Trained(HfDirectory::open(&root().join(&f.name)).unwrap());
        let decoder = Decoder::load(&f.config, &source, DType::F32, device()).unwrap();
        let run = || {
            let (ids, segments) = f.pack();
            let trace = decoder.trace(&ids, &segments, None, TraceOptions::default()).unwrap();
            let rows: Vec<u32> = (0..ids.len() as u32).collect();
            let hidden = decoder.final_hidden(trace.output(), &rows).unwrap();
            let nll = decoder.cross_entropy(&hidden, &ids).unwrap();
            let ones = Tensor::ones(ids.len(), DType::F32, device()).unwrap();
            let mut gradients = Gradients::default();
            trace.backward_losses(&nll, &ones, &mut gradients).unwrap();
            let flat = |(name, t): (String, Tensor)| {
                let gradient = gradients.get(&t).unwrap_or_else(|| panic!("{}, {name}", f.name));
                (name, gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            };
            decoder.named_tensors().unwrap().into_iter().map(flat).collect::<Vec<_>>()
        };
        for ((name, a), (_, b)) in run().iter().zip(with_composed(run)) {
            let size = a.iter().fold(1e-2f32, |m, x| m.max(x.abs()));
            let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-3 * size, "{}, {name}: {apart} of {size}", f.name);
        }
    });
}

#[test]
fn the_gradient_of_one_hot_tokens_equals_finite_differences_behind_scaled_embeddings() {
    for name in ["gemma2", "granite"] {
        let f = fixture(name);
        let ids = f.sequences[0].clone();
        let (input, scored) = (&ids[..ids.len() - 1], 4);
        let segments = Segments::from_lengths([input.len()]);
        let table = f.decoder.named_tensors().unwrap().remove(0).1;
        let factor = f64::from(f.config.layer.embedding_multiplier.unwrap());
        let (place, token, step) = (4, 17, 1e-3f64);
        let (_, gradient) = token_gradient(&f.decoder, Some(&f.adapter), &ids, place..place + 1, scored).unwrap();
        let loss = |by: f64| {
            let x = f.decoder.embed(input, false).unwrap();
            let more = (table.narrow(0, token, 1).unwrap() * (by * factor)).unwrap();
            let moved = (x.narrow(0, place, 1).unwrap() + more).unwrap();
            let x = x.slice_assign(&[place..place + 1, 0..x.dim(1).unwrap()], &moved).unwrap();
            let x = f.decoder.run(x, 0..f.config.num_layers, &segments, Some(&f.adapter)).unwrap();
            let rows: Vec<u32> = (input.len() - scored..input.len()).map(|r| r as u32).collect();
            let hidden = f.decoder.final_hidden(&x, &rows).unwrap();
            let nll = f.decoder.cross_entropy(&hidden, &ids[ids.len() - scored..]).unwrap();
            f64::from(nll.mean_all().unwrap().to_scalar::<f32>().unwrap())
        };
        let difference = (loss(step) - loss(-step)) / (2.0 * step);
        let ours = f64::from(gradient[0][token]);
        assert!((difference - ours).abs() < 2e-2 * ours.abs().max(0.05), "{name}: {difference} {ours}");
    }
}

/// Experts are quantised with the rest, and no adapter is made or read for them.
#[test]
fn experts_are_quantised_and_have_no_adapters() {
    let mut f = fixture("mixtral");
    let weights = |f: &Fixture| f.decoder.named_tensors().unwrap().into_iter().collect::<BTreeMap<_, _>>();
    let before = weights(&f);
    f.decoder.quantise(eraser_ops::quant::TensorType::Q8_0).unwrap();
    let changed = |name: &str| {
        let (a, b) = (&before[name], &weights(&f)[name]);
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    };
    // Rows of 20 are no whole blocks: they are rounded to f16, and the checkpoint's numbers are of bf16.
    let of = |part: &str| format!("model.layers.1.block_sparse_moe.{part}.weight");
    assert!(changed(&of("experts.2.w2")) < 1e-3 && changed(&of("gate")) == 0.0);
    assert!(f.logits(None).iter().flatten().zip(f.base.iter().flatten()).all(|(a, b)| (a - b).abs() < 1.0));
    let targets = vec![Module::Gate, Module::Down];
    let config = eraser_model::LoraConfig { targets, ..f.adapter.config.clone() };
    let error = Adapter::new(config, &f.config, 1, device()).unwrap_err();
    assert!(error.hints()[1].contains("experts and their router have no adapters"), "{error:?}");
}

#[test]
fn the_divergence_from_a_reference_is_that_of_capped_logits() {
    each(|f| {
        let (ids, segments) = f.pack();
        let of = |adapter| f.decoder.hidden(&ids, &segments, adapter).unwrap();
        let kl = f.decoder.kl_divergence(&of(Some(&f.adapter)), &of(None)).unwrap().to_vec1::<f32>().unwrap();
        for (kl, (p, r)) in kl.iter().zip(f.adapted.iter().zip(&f.base)) {
            let log_softmax = |z: &[f32]| -> Vec<f64> {
                let sum: f64 = z.iter().map(|&z| f64::from(z).exp()).sum();
                z.iter().map(|&z| f64::from(z) - sum.ln()).collect()
            };
            let (p, r) = (log_softmax(p), log_softmax(r));
            let expected: f64 = r.iter().zip(&p).map(|(r, p)| r.exp() * (r - p)).sum();
            assert!((f64::from(*kl) - expected).abs() < 1e-3 * expected.max(1.0), "{}: {kl} {expected}", f.name);
        }
    });
}
