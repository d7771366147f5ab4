//! One tiny random checkpoint of each family against logits that transformers and PEFT computed for it (recorded by
//! tests/fixtures/families.py), in every way the decoder can be run; and what training differentiates.

#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{device, fixtures};
use eraser_model::{
    Adapter, Decoder, GenerateOptions, ModelConfig, ScoreRequest, SideBySide,
    adapter::Module,
    batch::{Batch, Emitted, Sequence},
    cache::KvCache,
    generate, score, score_likeliest, token_gradient,
    trace::{Checkpoint, Gradients, TraceOptions},
    weights::{HfDirectory, TensorSource},
};
use eraser_ops::{Segments, form::with_composed};
use std::{ops::ControlFlow, path::PathBuf};

const FAMILIES: [&str; 3] = ["llama", "mistral", "qwen2"];
/// Logits are of order 10 and recorded to six digits.
const TOLERANCE: f32 = 2e-4;

struct Fixture {
    decoder: Decoder,
    adapter: Adapter,
    ids: Vec<Vec<u32>>,
    base: Vec<Vec<f32>>,
    adapted: Vec<Vec<f32>>,
}

fn home(family: &str) -> PathBuf {
    fixtures("families").join(family)
}

fn fixture(family: &str) -> Fixture {
    let dir = home(family);
    let config = ModelConfig::from_hf_dir(&dir).unwrap();
    let source = HfDirectory::open(&dir).unwrap();
    let decoder = Decoder::load(&config, &source, DType::F32, device()).unwrap();
    let adapter = Adapter::load(&dir.join("adapter"), &config, device()).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("logits.json")).unwrap()).unwrap();
    let rows = |key: &str| {
        let sequences: Vec<Vec<Vec<f32>>> = serde_json::from_value(json[key].clone()).unwrap();
        sequences.into_iter().flatten().collect()
    };
    let ids = serde_json::from_value(json["ids"].clone()).unwrap();
    Fixture { decoder, adapter, ids, base: rows("base"), adapted: rows("adapted") }
}

impl Fixture {
    fn pack(&self) -> (Vec<u32>, Segments) {
        (self.ids.concat(), Segments::from_lengths(self.ids.iter().map(Vec::len)))
    }

    fn logits(&self, adapter: Option<&Adapter>) -> Vec<Vec<f32>> {
        let (ids, segments) = self.pack();
        let hidden = self.decoder.hidden(&ids, &segments, adapter).unwrap();
        self.decoder.logits(&hidden).unwrap().to_vec2().unwrap()
    }
}

fn assert_close(ours: &[Vec<f32>], theirs: &[Vec<f32>], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let apart = ours.iter().flatten().zip(theirs.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < TOLERANCE, "{what}: {apart} apart");
}

#[test]
fn packed_logits_equal_transformers_and_peft() {
    for family in FAMILIES {
        let f = fixture(family);
        assert_close(&f.logits(None), &f.base, &format!("{family}, base"));
        assert_close(&f.logits(Some(&f.adapter)), &f.adapted, &format!("{family}, adapted"));
    }
}

#[test]
fn the_composed_form_gives_the_same_logits() {
    for family in FAMILIES {
        let f = fixture(family);
        let composed = with_composed(|| f.logits(Some(&f.adapter)));
        assert_close(&composed, &f.adapted, family);
    }
}

#[test]
fn a_merged_adapter_is_the_adapter_and_can_be_taken_out_again() {
    for family in FAMILIES {
        let mut f = fixture(family);
        f.decoder.merge(&f.adapter).unwrap();
        assert_close(&f.logits(None), &f.adapted, &format!("{family}, merged"));
        f.decoder.unmerge(&f.adapter).unwrap();
        assert_close(&f.logits(None), &f.base, &format!("{family}, un-merged"));
    }
}

/// Token by token after a prompt of several, with other sequences in the call.
fn cached(f: &Fixture) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let start = 7;
    let long: Vec<&Vec<u32>> = f.ids.iter().filter(|ids| ids.len() > start).collect();
    let mut caches: Vec<KvCache> = long.iter().map(|_| KvCache::new(&f.decoder)).collect();
    let prompt: Vec<u32> = long.iter().flat_map(|ids| &ids[..start]).copied().collect();
    let segments = Segments::from_lengths(long.iter().map(|_| start));
    f.decoder.extend(&prompt, &segments, &mut caches, Some(&f.adapter)).unwrap();
    let common = long.iter().map(|ids| ids.len()).min().unwrap();
    let first_row = |which: usize| {
        let at = f.ids.iter().position(|ids| ids == long[which]).unwrap();
        f.ids[..at].iter().map(Vec::len).sum::<usize>()
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for at in start..common {
        let ids: Vec<u32> = long.iter().map(|ids| ids[at]).collect();
        let segments = Segments::from_lengths(long.iter().map(|_| 1));
        let hidden = f.decoder.extend(&ids, &segments, &mut caches, Some(&f.adapter)).unwrap();
        ours.extend(f.decoder.logits(&hidden).unwrap().to_vec2::<f32>().unwrap());
        theirs.extend((0..long.len()).map(|which| f.adapted[first_row(which) + at].clone()));
    }
    (ours, theirs)
}

#[test]
fn decoding_with_a_cache_equals_the_whole_pass() {
    for family in FAMILIES {
        let f = fixture(family);
        let (ours, theirs) = cached(&f);
        assert_close(&ours, &theirs, family);
        let (ours, theirs) = with_composed(|| cached(&f));
        assert_close(&ours, &theirs, &format!("{family}, composed"));
    }
}

/// Scores of the fixture's sequences, and of more that share their beginnings, each from token 5 on. Forty sequences
/// that come in waves, more than a share of a small model's pass holds, some with a beginning in common.
#[test]
fn a_sequence_yields_the_same_tokens_whatever_runs_beside_it() {
    let f = fixture("llama");
    let vocabulary = f.decoder.config().vocab_size as u32;
    let options = GenerateOptions { max_new_tokens: 7, temperature: 0.8, ..GenerateOptions::greedy(7, &[]) };
    let prompt = |i: u32| -> Vec<u32> {
        let start = i.is_multiple_of(3).then_some(0..20).into_iter().flatten();
        start.chain((0..=i % 23).map(|j| i * 7 + j * j)).map(|id| id % vocabulary).collect()
    };
    let prompts: Vec<Vec<u32>> = (0..40).map(prompt).collect();
    let mut batch = Batch::new(&f.decoder, Some(&f.adapter));
    let mut got = vec![Vec::new(); prompts.len()];
    let mut coming: Vec<Sequence> = prompts
        .iter()
        .enumerate()
        .map(|(key, prompt)| Sequence {
            key,
            adapter: 0,
            prompt: prompt.clone(),
            options: options.clone(),
            logits: false,
        })
        .collect();
    while !coming.is_empty() || !batch.is_empty() {
        let wave = coming.split_off(coming.len().saturating_sub(9));
        let mut on_token = |token: Emitted<'_>| {
            got[token.key].push(token.id);
            ControlFlow::Continue(())
        };
        batch.step(wave, None, &mut on_token).unwrap();
    }
    for (prompt, got) in prompts.iter().zip(&got) {
        let alone = std::slice::from_ref(prompt);
        let alone = generate(&f.decoder, Some(&f.adapter), alone, &options, 1, &mut |_, _| ControlFlow::Continue(()));
        assert_eq!(got, &alone.unwrap()[0].tokens, "{prompt:?}");
    }
}

/// The base and two adapters in one batch, on every family: each sequence as with its adapter alone. The second adapter
/// has other modules and, in one layer, another rank.
#[test]
fn adapters_side_by_side_give_what_each_gives_alone() {
    for name in FAMILIES {
        let f = fixture(name);
        let mut other = f.adapter.clone();
        for (layer, pairs) in other.layers.iter_mut().enumerate() {
            for module in Module::ALL {
                if let Some(lora) = &mut pairs[module] {
                    lora.scale *= -3.0;
                    if layer == 1 {
                        lora.a = Var::from_tensor(&lora.a.narrow(0, 0, 1).unwrap()).unwrap();
                        lora.b = Var::from_tensor(&lora.b.narrow(1, 0, 1).unwrap().contiguous().unwrap()).unwrap();
                    }
                }
            }
            if layer == 0 {
                pairs.o = None;
                pairs.down = None;
            }
        }
        let adapters = [None, Some(&f.adapter), Some(&other)];
        let beside = SideBySide::new(&adapters).unwrap();
        let vocabulary = f.decoder.config().vocab_size as u32;
        // Beginnings in common within an adapter and between them.
        let prompt = |i: u32| (0..18).chain([i / 3 * 5, i % 2]).map(|id| id % vocabulary).collect::<Vec<u32>>();
        let options = GenerateOptions::greedy(5, &[]);
        let sequences: Vec<Sequence> = (0..12)
            .map(|i| Sequence {
                key: i,
                adapter: i % 3,
                prompt: prompt(i as u32),
                options: options.clone(),
                logits: true,
            })
            .collect();
        let mut got = vec![Vec::new(); sequences.len()];
        let mut batch = Batch::side_by_side(&f.decoder, &beside);
        let mut wave = sequences.clone();
        let mut far = 0f32;
        while !wave.is_empty() || !batch.is_empty() {
            let mut on_token = |token: Emitted<'_>| {
                got[token.key].push((token.id, token.logits.to_vec()));
                ControlFlow::Continue(())
            };
            batch.step(std::mem::take(&mut wave), None, &mut on_token).unwrap();
        }
        for (sequence, got) in sequences.iter().zip(&got) {
            let mut alone = Batch::new(&f.decoder, adapters[sequence.adapter]);
            let mut want = Vec::new();
            let mut wave = vec![Sequence { adapter: 0, ..sequence.clone() }];
            while !wave.is_empty() || !alone.is_empty() {
                let mut on_token = |token: Emitted<'_>| {
                    want.push((token.id, token.logits.to_vec()));
                    ControlFlow::Continue(())
                };
                alone.step(std::mem::take(&mut wave), None, &mut on_token).unwrap();
            }
            for ((_, got), (_, want)) in got.iter().zip(&want) {
                let size = want.iter().fold(1f32, |size, x| size.max(x.abs()));
                far = got.iter().zip(want).fold(far, |far, (a, b)| far.max((a - b).abs() / size));
            }
            let ids = |all: &[(u32, Vec<f32>)]| all.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(got), ids(&want), "{name}, adapter {}", sequence.adapter);
        }
        assert!(far < 1e-4, "{name}: logits are {far} apart");
        let beyond = vec![Sequence { adapter: 3, ..sequences[0].clone() }];
        assert!(batch.step(beyond, None, &mut |_| ControlFlow::Continue(())).is_err());
    }
}

fn scores(f: &Fixture, alone: bool) -> Vec<Vec<f32>> {
    let long = f.ids.iter().filter(|ids| ids.len() > 8);
    let forks = long.clone().flat_map(|ids| (6..9).map(|at| [&ids[..at], &[1, 2, 3, 4]].concat()));
    let sequences = long.cloned().chain(forks);
    let requests: Vec<ScoreRequest> = sequences.map(|ids| ScoreRequest { scored: ids.len() - 5, ids }).collect();
    let mut on_pack = |_: usize| ControlFlow::Continue(());
    let mut run =
        |requests: &[ScoreRequest]| score(&f.decoder, Some(&f.adapter), requests, &mut on_pack).unwrap().unwrap();
    if alone { requests.chunks(1).flat_map(run).collect() } else { run(&requests) }
}

#[test]
fn scores_equal_the_log_softmax_of_logits_whatever_else_is_scored() {
    for family in FAMILIES {
        let f = fixture(family);
        let found = scores(&f, false);
        let (mut row, mut at) = (0, 0);
        for ids in &f.ids {
            if ids.len() > 8 {
                let expected: Vec<f32> = (5..ids.len())
                    .map(|token| {
                        let logits = &f.adapted[row + token - 1];
                        let sum: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
                        (f64::from(logits[ids[token] as usize]) - sum.ln()) as f32
                    })
                    .collect();
                assert_close(&found[at..=at], &[expected], family);
                at += 1;
            }
            row += ids.len();
        }
        assert_close(&scores(&f, true), &found, &format!("{family}, one by one"));
        assert_close(&with_composed(|| scores(&f, false)), &found, &format!("{family}, composed"));
    }
}

#[test]
fn the_likeliest_token_is_the_one_that_greedy_decoding_takes() {
    let f = fixture("llama");
    let go_on = |_: usize| ControlFlow::Continue(());
    let start = vec![1, 2, 3];
    let options = GenerateOptions::greedy(4, &[]);
    let prompts = std::slice::from_ref(&start);
    let greedy = generate(&f.decoder, None, prompts, &options, 1, &mut |_, _| ControlFlow::Continue(()));
    let mut ids = [start, greedy.unwrap().remove(0).tokens].concat();
    // One token is another.
    ids[4] = (ids[4] + 1) % 61;
    let request = ScoreRequest { ids: ids.clone(), scored: 2 };
    let changed =
        [ScoreRequest { ids: ids[..4].to_vec(), scored: 1 }, ScoreRequest { ids: ids[..5].to_vec(), scored: 2 }];
    let found = score_likeliest(&f.decoder, None, &changed, &mut { go_on }).unwrap().unwrap();
    let likeliest: Vec<Vec<bool>> = found.iter().map(|all| all.iter().map(|(_, is)| *is).collect()).collect();
    assert_eq!(likeliest, [vec![true], vec![true, false]]);
    let all = score_likeliest(&f.decoder, None, std::slice::from_ref(&request), &mut { go_on }).unwrap().unwrap();
    let logprobs: Vec<Vec<f32>> = all.iter().map(|all| all.iter().map(|(logprob, _)| *logprob).collect()).collect();
    assert_close(&logprobs, &score(&f.decoder, None, &[request], &mut { go_on }).unwrap().unwrap(), "both scores");
}

#[test]
fn a_beginning_kept_for_several_packs_changes_no_score() {
    let f = fixture("llama");
    let head: Vec<u32> = (0..70).map(|i| i * 7 % 61).collect();
    // Sequences that need more than one pack, all with the same head.
    let requests: Vec<ScoreRequest> = (0..150u32)
        .map(|i| {
            let ids: Vec<u32> = head.iter().copied().chain((0..50).map(|j| (i * 11 + j * j) % 61)).collect();
            ScoreRequest { ids, scored: 3 }
        })
        .collect();
    let run = |requests: &[ScoreRequest]| {
        let mut packs = 0;
        let mut on_pack = |_: usize| {
            packs += 1;
            ControlFlow::Continue(())
        };
        let found = score(&f.decoder, None, requests, &mut on_pack).unwrap().unwrap();
        (found, packs)
    };
    let (together, packs) = run(&requests);
    assert!(packs > 1);
    let alone: Vec<Vec<f32>> = requests.chunks(1).step_by(30).flat_map(|r| run(r).0).collect();
    assert_close(&together.into_iter().step_by(30).collect::<Vec<_>>(), &alone, "kept beginning");
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let f = fixture("llama");
    for (ids, scored) in
        [(vec![1, 2], 0), (vec![1, 2], 2), (vec![], 0), (vec![1, 61], 1), (vec![61, 1], 1), (vec![1; 200], 1)]
    {
        let request = ScoreRequest { ids, scored };
        let result = score(&f.decoder, None, std::slice::from_ref(&request), &mut |_| ControlFlow::Continue(()));
        assert!(result.is_err(), "{request:?}");
    }
    let request = ScoreRequest { ids: vec![1, 2, 3], scored: 2 };
    let stopped = score(&f.decoder, None, &[request], &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!(stopped, None);
}

/// Gradients of a cross-entropy on every position, by parameter.
fn gradients(f: &Fixture, checkpoint: Checkpoint) -> Vec<(String, Vec<f32>)> {
    let (ids, segments) = f.pack();
    let options = TraceOptions { checkpoint, ..TraceOptions::default() };
    let trace = f.decoder.trace(&ids, &segments, Some(&f.adapter), options).unwrap();
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    let hidden = f.decoder.final_hidden(trace.output(), &rows).unwrap();
    let nll = f.decoder.cross_entropy(&hidden, &ids).unwrap();
    let ones = Tensor::ones(ids.len(), DType::F32, device()).unwrap();
    let mut gradients = Gradients::default();
    trace.backward_losses(&nll, &ones, &mut gradients).unwrap();
    for (name, frozen) in f.decoder.named_tensors().unwrap() {
        assert!(gradients.get(&frozen).is_none(), "{name} is frozen");
    }
    let flat = |v: &Var| gradients.get(v).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    f.adapter.parameters().iter().map(|(name, v)| (name.clone(), flat(v))).collect()
}

#[test]
fn every_trainable_tensor_has_a_gradient_and_no_frozen_one_has() {
    for family in FAMILIES {
        let plain = gradients(&fixture(family), Checkpoint::Never);
        assert_eq!(plain.len(), 3 * 7 * 2);
        for (name, gradient) in &plain {
            assert!(gradient.iter().any(|&g| g != 0.0), "{family}, {name}");
        }
    }
}

#[test]
fn gradients_are_the_same_from_checkpoints_and_in_the_composed_form() {
    for family in FAMILIES {
        let f = fixture(family);
        let plain = gradients(&f, Checkpoint::Never);
        assert_eq!(gradients(&f, Checkpoint::Always), plain, "{family}, checkpointed");
        // Room for about one block of three.
        assert_eq!(gradients(&f, Checkpoint::Beyond(100_000)), plain, "{family}, partly checkpointed");
        for ((name, a), (_, b)) in plain.iter().zip(with_composed(|| gradients(&f, Checkpoint::Never))) {
            let size = a.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(apart < 2e-4 * size, "{family}, {name}: {apart} of {size}");
        }
    }
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
    for family in FAMILIES {
        let f = fixture(family);
        let source = Trained(HfDirectory::open(&home(family)).unwrap());
        let decoder = Decoder::load(f.decoder.config(), &source, DType::F32, device()).unwrap();
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
                let gradient = gradients.get(&t).unwrap_or_else(|| panic!("{family}, {name}")).flatten_all().unwrap();
                (name, gradient.to_vec1::<f32>().unwrap())
            };
            decoder.named_tensors().unwrap().into_iter().map(flat).collect::<Vec<_>>()
        };
        for ((name, a), (_, b)) in run().iter().zip(with_composed(run)) {
            let size = a.iter().fold(0f32, |m, x| m.max(x.abs()));
            let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-3 * size.max(1e-3), "{family}, {name}: {apart} of {size}");
        }
    }
}

/// The gradient with respect to one-hot tokens that PyTorch's autograd gives (recorded by tests/fixtures/gradient.py).
#[derive(serde::Deserialize)]
struct TokenGradient {
    ids: Vec<u32>,
    places: [usize; 2],
    scored: usize,
    loss: f32,
    gradient: Vec<Vec<f32>>,
}

fn token_gradients() -> std::collections::BTreeMap<String, TokenGradient> {
    serde_json::from_slice(&std::fs::read(fixtures("gradient.json")).unwrap()).unwrap()
}

#[test]
fn the_gradient_of_one_hot_tokens_equals_pytorch() {
    for (family, expected) in token_gradients() {
        let f = fixture(&family);
        let TokenGradient { ids, places: [first, end], scored, loss, gradient } = expected;
        let run = || token_gradient(&f.decoder, Some(&f.adapter), &ids, first..end, scored).unwrap();
        for (form, (found, ours)) in [("fused", run()), ("composed", with_composed(run))] {
            assert!((found - loss).abs() < 1e-4, "{family}, {form}: {found} {loss}");
            let size = gradient.iter().flatten().fold(0f32, |m, g| m.max(g.abs()));
            let pairs = ours.iter().flatten().zip(gradient.iter().flatten());
            let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-3 * size, "{family}, {form}: {apart} of {size}");
        }
    }
}

#[test]
fn the_gradient_of_one_hot_tokens_equals_finite_differences() {
    let f = fixture("llama");
    let TokenGradient { ids, scored, .. } = token_gradients().remove("llama").unwrap();
    let input = &ids[..ids.len() - 1];
    let segments = Segments::from_lengths([input.len()]);
    let table = f.decoder.named_tensors().unwrap().remove(0).1;
    let (place, token, step) = (4, 17, 1e-3f64);
    let (_, gradient) = token_gradient(&f.decoder, Some(&f.adapter), &ids, place..place + 1, scored).unwrap();
    // The loss with `by` of the one-hot vector of `token` added at `place`.
    let loss = |by: f64| {
        let x = f.decoder.embed(input, false).unwrap();
        let moved = (x.narrow(0, place, 1).unwrap() + (table.narrow(0, token, 1).unwrap() * by).unwrap()).unwrap();
        let x = x.slice_assign(&[place..place + 1, 0..x.dim(1).unwrap()], &moved).unwrap();
        let x = f.decoder.run(x, 0..f.decoder.config().num_layers, &segments, Some(&f.adapter)).unwrap();
        let rows: Vec<u32> = (input.len() - scored..input.len()).map(|r| r as u32).collect();
        let hidden = f.decoder.final_hidden(&x, &rows).unwrap();
        let nll = f.decoder.cross_entropy(&hidden, &ids[ids.len() - scored..]).unwrap();
        f64::from(nll.mean_all().unwrap().to_scalar::<f32>().unwrap())
    };
    let difference = (loss(step) - loss(-step)) / (2.0 * step);
    let ours = f64::from(gradient[0][token]);
    assert!((difference - ours).abs() < 5e-3 * ours.abs(), "{difference} {ours}");
    assert!(token_gradient(&f.decoder, None, &ids, 0..ids.len(), 1).is_err());
    assert!(token_gradient(&f.decoder, None, &[1], 0..0, 1).is_err());
}
