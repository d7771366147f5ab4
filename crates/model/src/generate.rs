//! Batched generation. In: prompts as token ids; out: new tokens for each. Invariant: a sequence draws from a random stream
//! that seed and prompt fix and attends to itself only, so what else is generated at the same time changes nothing but
//! rounding.
//!
//! A finished sequence's place is taken at once by the next prompt. Prompts are admitted in lexicographic order, so that
//! those that share a beginning (a system prompt, a jailbreak template) come together and compute it once.

use crate::{Adapter, Decoder, Error, Result, cache::KvCache};
use eraser_ops::Segments;
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;

/// Shared beginnings shorter than this are computed again: copying a cache costs too.
const MIN_SHARED: usize = 16;
/// Most tokens that one prefill pass takes: bounds its activations.
const PREFILL_TOKENS: usize = 2048;

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most new tokens per sequence.
    pub max_new_tokens: usize,
    /// 0 = greedy.
    pub temperature: f32,
    /// Keep the k likeliest; 0 = all.
    pub top_k: usize,
    /// Keep the smallest set with this probability; 1.0 = all.
    pub top_p: f32,
    /// Divides (or multiplies) the logits of tokens seen, prompt included, as transformers; 1.0 = off.
    pub repetition_penalty: f32,
    /// Ids that end a sequence; not part of the result.
    pub stops: Vec<u32>,
    /// Seed; a sequence draws from a stream of (seed, prompt), whatever else is in the batch.
    pub seed: u64,
}

impl GenerateOptions {
    /// Greedy, at most `max_new_tokens`, ending at `stops`.
    pub fn greedy(max_new_tokens: usize, stops: &[u32]) -> Self {
        Self {
            max_new_tokens,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            stops: stops.to_vec(),
            seed: 0,
        }
    }
}

/// What was generated for one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// New tokens, the stop token left out.
    pub tokens: Vec<u32>,
    /// Ended at a stop token, not at the limit.
    pub stopped: bool,
}

/// A sequence that is being generated.
struct Active {
    index: usize,
    last: u32,
    rng: ChaCha8Rng,
}

/// Generates for every prompt, at most `batch` sequences at a time. `on_token(i, id)` sees every new token of sequence i
/// as it comes; Break ends the whole generation early, with what is there so far.
///
/// # Errors
/// An empty prompt, or a prompt that leaves no room within the model's positions.
pub fn generate(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    batch: usize,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    let mut on_done = |_: usize, _: &Generation| Ok(());
    generate_each(decoder, adapter, prompts, options, batch, on_token, &mut on_done)
}

/// As [`generate`]; `on_done(i, generation)` sees every sequence once, when it has ended by itself or at the limit, so that
/// it can be stored before the others end. Its error ends the generation.
pub fn generate_each(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    batch: usize,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    on_done: &mut dyn FnMut(usize, &Generation) -> Result<()>,
) -> Result<Vec<Generation>> {
    let mut done = vec![Generation::default(); prompts.len()];
    if options.max_new_tokens == 0 {
        done.iter().enumerate().try_for_each(|(i, nothing)| on_done(i, nothing))?;
        return Ok(done);
    }
    if prompts.iter().any(Vec::is_empty) {
        return Err(Error::request("a prompt has no tokens"));
    }
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by(|&a, &b| prompts[b].cmp(&prompts[a]));
    let mut shared: Option<(Vec<u32>, KvCache)> = None;
    let mut active: Vec<Active> = Vec::new();
    let mut caches: Vec<KvCache> = Vec::new();
    loop {
        let room = batch.max(1) - active.len();
        if room > 0 && !order.is_empty() {
            let wave = order.split_off(order.len().saturating_sub(room));
            for admitted in admit(decoder, adapter, prompts, wave, order.last().copied(), &mut shared)? {
                let rng = own_stream(options.seed, &prompts[admitted.index]);
                let mut sequence = Active { index: admitted.index, last: 0, rng };
                let id = sample(&admitted.logits, &prompts[sequence.index], &[], options, &mut sequence.rng);
                sequence.last = id;
                let fate = accept(&mut done[sequence.index], id, options);
                if fate != Fate::Stopped && on_token(sequence.index, id).is_break() {
                    return Ok(done);
                }
                if fate == Fate::Goes {
                    active.push(sequence);
                    caches.push(admitted.cache);
                } else {
                    on_done(sequence.index, &done[sequence.index])?;
                }
            }
            continue;
        }
        if active.is_empty() {
            return Ok(done);
        }
        let ids: Vec<u32> = active.iter().map(|s| s.last).collect();
        let segments = Segments::from_lengths(active.iter().map(|_| 1));
        let hidden = decoder.extend(&ids, &segments, &mut caches, adapter)?;
        let logits = decoder.logits(&hidden)?.to_vec2::<f32>()?;
        for (i, row) in logits.iter().enumerate().rev() {
            let sequence = &mut active[i];
            let index = sequence.index;
            let id = sample(row, &prompts[index], &done[index].tokens, options, &mut sequence.rng);
            sequence.last = id;
            let fate = accept(&mut done[index], id, options);
            if fate != Fate::Stopped && on_token(index, id).is_break() {
                return Ok(done);
            }
            if fate != Fate::Goes {
                active.swap_remove(i);
                caches.swap_remove(i);
                on_done(index, &done[index])?;
            }
        }
    }
}

/// A prompt that was run: its cache and the logits of its next token.
struct Admitted {
    index: usize,
    cache: KvCache,
    logits: Vec<f32>,
}

/// Runs the prompts of a wave (last one first), reusing the shared beginning where it is worth it. `after` is the prompt
/// that the next wave begins with.
fn admit(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    prompts: &[Vec<u32>],
    mut wave: Vec<usize>,
    after: Option<usize>,
    shared: &mut Option<(Vec<u32>, KvCache)>,
) -> Result<Vec<Admitted>> {
    let mut admitted = Vec::with_capacity(wave.len());
    while let Some(&first) = wave.last() {
        // The next prompts in order share most with their neighbour; when the kept beginning is worse than that, the
        // first of them runs alone and becomes the kept beginning.
        let prompt = &prompts[first];
        let kept = shared.as_ref().map_or(0, |(ids, _)| common(ids, prompt));
        let next = wave.len().checked_sub(2).map(|at| wave[at]).or(after);
        let neighbour = next.map_or(0, |next| common(prompt, &prompts[next]));
        let renew = neighbour >= MIN_SHARED && neighbour > kept + kept / 4;
        let mut group = Vec::new();
        let mut tokens = 0;
        while let Some(&index) = wave.last() {
            let prompt = &prompts[index];
            let start = shared.as_ref().map_or(0, |(ids, _)| common(ids, prompt)).min(prompt.len() - 1);
            let start = if start < MIN_SHARED { 0 } else { start };
            if !group.is_empty() && (renew || tokens + prompt.len() - start > PREFILL_TOKENS) {
                break;
            }
            tokens += prompt.len() - start;
            group.push((index, start));
            wave.pop();
        }
        let mut caches = Vec::with_capacity(group.len());
        let mut ids = Vec::with_capacity(tokens);
        for &(index, start) in &group {
            ids.extend_from_slice(&prompts[index][start..]);
            caches.push(match shared {
                Some((_, cache)) if start > 0 => cache.prefix(start)?,
                _ => KvCache::new(decoder),
            });
        }
        let segments = Segments::from_lengths(group.iter().map(|&(index, start)| prompts[index].len() - start));
        let hidden = decoder.extend(&ids, &segments, &mut caches, adapter)?;
        let logits = decoder.logits(&hidden)?.to_vec2::<f32>()?;
        if renew && let (Some(&(index, _)), Some(cache)) = (group.first(), caches.first()) {
            *shared = Some((prompts[index].clone(), cache.clone()));
        }
        let run = group.into_iter().zip(caches).zip(logits);
        admitted.extend(run.map(|(((index, _), cache), logits)| Admitted { index, cache, logits }));
    }
    Ok(admitted)
}

/// The random stream of one sequence.
fn own_stream(seed: u64, prompt: &[u32]) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for id in prompt {
        hash.update(id.to_le_bytes());
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// Length of the common beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// What becomes of a sequence after a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Goes,
    Full,
    Stopped,
}

fn accept(generation: &mut Generation, id: u32, options: &GenerateOptions) -> Fate {
    if options.stops.contains(&id) {
        generation.stopped = true;
        return Fate::Stopped;
    }
    generation.tokens.push(id);
    if generation.tokens.len() >= options.max_new_tokens { Fate::Full } else { Fate::Goes }
}

/// The next token: penalty, temperature, top-k, top-p, then a draw; the likeliest when greedy (ties: the lowest id).
fn sample(logits: &[f32], prompt: &[u32], new: &[u32], options: &GenerateOptions, rng: &mut ChaCha8Rng) -> u32 {
    let penalised;
    let logits = if (options.repetition_penalty - 1.0).abs() < f32::EPSILON {
        logits
    } else {
        penalised = penalise(logits, prompt, new, options.repetition_penalty);
        &penalised
    };
    if options.temperature <= 0.0 {
        return argmax(logits);
    }
    let mut ranked: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &z)| (i as u32, z)).collect();
    let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if options.top_k > 0 && options.top_k < ranked.len() {
        ranked.select_nth_unstable_by(options.top_k - 1, by_logit);
        ranked.truncate(options.top_k);
    }
    ranked.sort_unstable_by(by_logit);
    let top = ranked.first().map_or(0.0, |r| r.1);
    let temperature = f64::from(options.temperature);
    let weights: Vec<f64> = ranked.iter().map(|r| (f64::from(r.1 - top) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0.0;
    let mut count = 0;
    for w in &weights {
        // A token stays while the probability before it is below top_p, so the first always does.
        if count > 0 && kept >= f64::from(options.top_p) * total {
            break;
        }
        kept += w;
        count += 1;
    }
    let mut draw = rng.random::<f64>() * kept;
    for (candidate, w) in ranked.iter().zip(&weights).take(count) {
        draw -= w;
        if draw <= 0.0 {
            return candidate.0;
        }
    }
    ranked[count.saturating_sub(1)].0
}

fn penalise(logits: &[f32], prompt: &[u32], new: &[u32], penalty: f32) -> Vec<f32> {
    let mut out = logits.to_vec();
    for &id in prompt.iter().chain(new) {
        if let (Some(z), Some(slot)) = (logits.get(id as usize), out.get_mut(id as usize)) {
            *slot = if *z > 0.0 { z / penalty } else { z * penalty };
        }
    }
    out
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &z) in logits.iter().enumerate() {
        if z > best.1 {
            best = (i as u32, z);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(temperature: f32) -> GenerateOptions {
        GenerateOptions { temperature, ..GenerateOptions::greedy(4, &[]) }
    }

    fn rng(stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        rng.set_stream(stream);
        rng
    }

    #[test]
    fn streams_differ_by_seed_and_prompt() {
        let first = |seed, prompt: &[u32]| own_stream(seed, prompt).random::<u64>();
        assert_eq!(first(1, &[1, 2]), first(1, &[1, 2]));
        assert_ne!(first(1, &[1, 2]), first(1, &[1, 3]));
        assert_ne!(first(1, &[1, 2]), first(2, &[1, 2]));
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(sample(&[0.0, 2.0, 2.0], &[], &[], &options(0.0), &mut rng(0)), 1);
    }

    #[test]
    fn top_k_and_top_p_leave_only_the_likeliest() {
        let logits = [1.0, 4.0, 2.0, 3.9];
        for stream in 0..50 {
            let one = GenerateOptions { top_k: 1, ..options(5.0) };
            assert_eq!(sample(&logits, &[], &[], &one, &mut rng(stream)), 1);
            let most = GenerateOptions { top_p: 0.9, ..options(1.0) };
            assert!([1, 3].contains(&sample(&logits, &[], &[], &most, &mut rng(stream))));
        }
    }

    #[test]
    fn sampling_follows_the_softmax() {
        let logits = [0.0, 1.0];
        let ones: u32 = (0..20_000).map(|s| sample(&logits, &[], &[], &options(1.0), &mut rng(s))).sum();
        let expected = 1.0 / (1.0 + (-1.0f64).exp());
        assert!((f64::from(ones) / 20_000.0 - expected).abs() < 0.012);
    }

    #[test]
    fn the_penalty_acts_once_and_by_sign() {
        let out = penalise(&[2.0, -2.0, 1.0], &[0, 0, 1], &[0], 2.0);
        assert_eq!(out, [1.0, -4.0, 1.0]);
    }
}
