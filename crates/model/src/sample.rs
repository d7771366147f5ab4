//! Choosing the next token. In: logits, what the sequence holds, options; out: an id. Invariant: greedy choices need no
//! random number, and of equals the lowest id wins.

use crate::budget::Budget;
use eraser_ops::simd;
use rand::RngExt as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use sha2::{Digest as _, Sha256};
use std::sync::Once;

/// The random stream of one sequence.
pub(crate) fn own_stream(seed: u64, prompt: &[u32]) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for id in prompt {
        hash.update(id.to_le_bytes());
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}

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
    /// Keep what is at least this share as likely as the likeliest; 0 = all.
    pub min_p: f32,
    /// Divides (or multiplies) the logits of tokens seen, prompt included, as transformers; 1.0 = off.
    pub repetition_penalty: f32,
    /// New tokens before `stops` may come.
    pub min_new_tokens: usize,
    /// Ids that end a sequence; not part of the result.
    pub stops: Vec<u32>,
    /// Seed; a sequence draws from a stream of (seed, prompt), whatever else is in the batch.
    pub seed: u64,
    /// Of a model that thinks: what is thought counts here, and only the answer in `max_new_tokens`.
    pub budget: Option<Budget>,
}

impl GenerateOptions {
    /// Whether the next token is the largest logit, unchanged, where `new` tokens are there.
    pub(crate) fn takes_largest(&self, new: usize) -> bool {
        self.temperature <= 0.0 && new >= self.min_new_tokens && !self.penalises()
    }

    fn penalises(&self) -> bool {
        (self.repetition_penalty - 1.0).abs() >= f32::EPSILON
    }

    /// Greedy, at most `max_new_tokens`, ending at `stops`.
    pub fn greedy(max_new_tokens: usize, stops: &[u32]) -> Self {
        Self {
            max_new_tokens,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            min_new_tokens: 0,
            stops: stops.to_vec(),
            seed: 0,
            budget: None,
        }
    }
}

/// It is said once that there are no numbers.
static TOLD: Once = Once::new();

pub(crate) fn tell_of_nan() {
    TOLD.call_once(|| {
        tracing::warn!(
            "the network computes NaN in place of numbers, so answers are empty or meaningless: `eraser doctor`, with \
             model and adapter, looks for the reason"
        );
    });
}

/// The next token: no stop too early, penalty, temperature, min-p, top-k, top-p, then a draw; when greedy the likeliest
/// (of equals the lowest id).
pub(crate) fn sample(
    logits: &[f32],
    prompt: &[u32],
    new: &[u32],
    options: &GenerateOptions,
    rng: &mut ChaCha8Rng,
) -> u32 {
    if logits.first().is_some_and(|z| z.is_nan()) {
        tell_of_nan();
    }
    let unstopped;
    let logits = if new.len() < options.min_new_tokens {
        unstopped = without(logits, &options.stops);
        &unstopped
    } else {
        logits
    };
    let penalised;
    let logits = if options.penalises() {
        penalised = penalise(logits, prompt, new, options.repetition_penalty);
        &penalised
    } else {
        logits
    };
    if options.temperature <= 0.0 {
        return argmax(logits);
    }
    let top = simd::max(logits);
    let mut weights: Vec<f32> = logits.iter().map(|z| (z - top) / options.temperature).collect();
    let mut total = f64::from(simd::exp_sub_sum(&mut weights, 0.0));
    if options.min_p > 0.0 {
        // The likeliest weighs 1.
        weights.iter_mut().filter(|w| **w < options.min_p).for_each(|w| *w = 0.0);
        total = f64::from(simd::sum(&weights));
    }
    if options.top_k == 0 && options.top_p >= 1.0 {
        return pick(&weights, rng.random::<f64>() * total);
    }
    let mut ranked: Vec<(u32, f64)> = weights.iter().enumerate().map(|(i, &w)| (i as u32, f64::from(w))).collect();
    let by_weight = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if options.top_k > 0 && options.top_k < ranked.len() {
        ranked.select_nth_unstable_by(options.top_k - 1, by_weight);
        ranked.truncate(options.top_k);
    }
    let mut kept: f64 = ranked.iter().map(|r| r.1).sum();
    if options.top_p < 1.0 {
        let wanted = f64::from(options.top_p) * kept;
        // All that are lighter than this weigh less than 1 - top_p together: none of them is needed.
        let light = (1.0 - f64::from(options.top_p)) * kept / ranked.len() as f64;
        ranked.retain(|r| r.1 >= light);
        ranked.sort_unstable_by(by_weight);
        kept = 0.0;
        // A token stays while the probability before it is below top_p, so the first always does.
        let count = ranked.iter().take_while(|r| {
            let stays = kept < wanted || kept == 0.0;
            kept += if stays { r.1 } else { 0.0 };
            stays
        });
        let count = count.count();
        ranked.truncate(count);
    } else if options.top_k > 0 {
        // The order decides what a draw means, and selection leaves it open.
        ranked.sort_unstable_by(by_weight);
    }
    let mut draw = rng.random::<f64>() * kept;
    for (id, weight) in &ranked {
        draw -= weight;
        if draw <= 0.0 {
            return *id;
        }
    }
    ranked.last().map_or(0, |r| r.0)
}

/// The first id at which the sum of the weights reaches `draw`; the last with a weight, where rounding leaves the sum
/// short.
fn pick(weights: &[f32], mut draw: f64) -> u32 {
    /// Weights that are passed over together.
    const STRIDE: usize = 64;
    for (i, chunk) in weights.chunks(STRIDE).enumerate() {
        let sum = f64::from(simd::sum(chunk));
        if draw > sum {
            draw -= sum;
            continue;
        }
        for (j, &weight) in chunk.iter().enumerate() {
            draw -= f64::from(weight);
            if draw <= 0.0 && weight > 0.0 {
                return (i * STRIDE + j) as u32;
            }
        }
    }
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0) as u32
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

/// Logits under which `stops` cannot come.
fn without(logits: &[f32], stops: &[u32]) -> Vec<f32> {
    let mut out = logits.to_vec();
    for &id in stops {
        if let Some(z) = out.get_mut(id as usize) {
            *z = f32::NEG_INFINITY;
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
    use proptest::prelude::*;

    fn options(temperature: f32) -> GenerateOptions {
        GenerateOptions { temperature, ..GenerateOptions::greedy(4, &[]) }
    }

    fn rng(stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        rng.set_stream(stream);
        rng
    }

    #[test]
    fn min_p_leaves_what_is_likely_enough_and_stops_wait_for_the_least_number_of_tokens() {
        let logits = [0.0, 3.0, 2.9, -1.0];
        for stream in 0..50 {
            let likely = GenerateOptions { min_p: 0.5, ..options(1.0) };
            assert!([1, 2].contains(&sample(&logits, &[], &[], &likely, &mut rng(stream))));
        }
        let late = GenerateOptions { min_new_tokens: 2, stops: vec![1], ..options(0.0) };
        assert_eq!(sample(&logits, &[], &[7], &late, &mut rng(0)), 2);
        assert_eq!(sample(&logits, &[], &[7, 7], &late, &mut rng(0)), 1);
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

    proptest! {
        /// The set that top-k and top-p leave is that of ranking everything.
        #[test]
        fn what_is_drawn_is_among_the_likeliest(
            logits in proptest::collection::vec(-8.0f32..8.0, 1..200), top_k in 0usize..12, top_p in 0.05f32..1.0, stream in 0u64..9,
        ) {
            let options = GenerateOptions { top_k, top_p, ..options(1.3) };
            let id = sample(&logits, &[], &[], &options, &mut rng(stream));
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            order.truncate(if top_k == 0 { logits.len() } else { top_k });
            let weight = |i: &usize| (f64::from(logits[*i]) / f64::from(1.3f32)).exp();
            let total: f64 = order.iter().map(weight).sum();
            let at = order.iter().position(|&i| i == id as usize);
            prop_assert!(at.is_some(), "{} is not among the first {}", id, order.len());
            let before: f64 = order.iter().take(at.unwrap()).map(weight).sum();
            prop_assert!(before <= f64::from(top_p) * total * (1.0 + 1e-9));
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
    fn a_draw_ends_on_a_weight() {
        let mut weights = vec![0.0; 200];
        (weights[70], weights[150]) = (1.0, 3.0);
        assert_eq!([0.0, 0.5, 1.0, 1.001, 4.0, 5.0].map(|draw| pick(&weights, draw)), [70, 70, 70, 150, 150, 150]);
        for temperature in [f32::MIN_POSITIVE / 8.0, 1e-30] {
            assert_eq!(sample(&[1.0, 3.0, 2.0], &[], &[], &options(temperature), &mut rng(0)), 1);
        }
    }

    #[test]
    fn the_penalty_acts_once_and_by_sign() {
        let out = penalise(&[2.0, -2.0, 1.0], &[0, 0, 1], &[0], 2.0);
        assert_eq!(out, [1.0, -4.0, 1.0]);
    }
}
