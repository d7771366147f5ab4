//! The values of terms, and how much each token's loss changes them. In: per-token negative log-likelihoods or KLs;
//! out: the value of the term and its derivative by each of them. Invariant: derivatives are exact, and zero where a
//! hinge is closed.
//!
//! The method decides which terms there are.

use crate::method::{Npo, Preference};
use eraser_ops::Segments;
use std::ops::Range;

/// Tokens that cost more, in nats, are not made less likely (`log p < -5` in the authors' code of LAT).
const UNLIKELY: f32 = 5.0;

/// A term's value and `d value / d loss_i` for each scored token.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// The value.
    pub value: f64,
    /// The derivative by each token's loss.
    pub weights: Vec<f32>,
    /// Hinges that were closed, and hinges in all.
    pub capped: (usize, usize),
}

/// `max(0, gamma - nll)`: `gamma + L_f`, since `L_f = -nll`.
pub fn hinge(gamma: f64, nll: f64) -> f64 {
    (gamma - nll).max(0.0)
}

/// The hinge of the mean of per-token losses `nll`.
pub fn hinge_of_mean(nll: &[f32], gamma: f64) -> Value {
    let value = mean(nll).map_or(0.0, |m| hinge(gamma, m));
    let open = value > 0.0;
    let weight = if open { -1.0 / nll.len() as f32 } else { 0.0 };
    Value { value, weights: vec![weight; nll.len()], capped: (usize::from(!open), 1) }
}

/// The mean of the hinges of the samples `samples` of per-token losses `nll`; one without a token does not count.
pub fn sample_hinges(nll: &[f32], samples: &Segments, gamma: f64) -> Value {
    let mut term = Value { value: 0.0, weights: vec![0.0; nll.len()], capped: (0, 0) };
    let counted = samples.iter().filter(|r| !r.is_empty()).count();
    for range in samples.iter().filter(|r| !r.is_empty()) {
        let value = mean(&nll[range.clone()]).map_or(0.0, |m| hinge(gamma, m));
        term.capped.1 += 1;
        if value > 0.0 {
            term.value += value / counted as f64;
            let weight = -1.0 / (counted * range.len()) as f32;
            term.weights[range].fill(weight);
        } else {
            term.capped.0 += 1;
        }
    }
    term
}

/// The mean of the hinges of single tokens: each is open until its own loss has reached `gamma`.
pub fn token_hinges(nll: &[f32], gamma: f64) -> Value {
    let share = 1.0 / nll.len().max(1) as f64;
    let hinges: Vec<f64> = nll.iter().map(|&x| hinge(gamma, f64::from(x))).collect();
    let weights = hinges.iter().map(|&h| if h > 0.0 { -share as f32 } else { 0.0 }).collect();
    let closed = hinges.iter().filter(|&&h| h <= 0.0).count();
    Value { value: hinges.iter().sum::<f64>() * share, weights, capped: (closed, nll.len()) }
}

/// The hinge of the mean over all micro-batches of a step. Only their end shows whether it is open, so gradients are
/// summed with -1 for each token, and [`Self::finish`] says what that sum weighs.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepHinge {
    total: f64,
    count: usize,
}

/// A [`StepHinge`] over a whole step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepValue {
    /// The value.
    pub value: f64,
    /// The mean of the tokens' losses.
    pub mean: f64,
    /// What the summed gradient is divided by; None: the hinge is closed, and there is no gradient.
    pub divisor: Option<f64>,
    /// Hinges that were closed, and hinges in all.
    pub capped: (usize, usize),
}

impl StepValue {
    /// What each of `tokens` losses weighs in it.
    pub(crate) fn value(&self, tokens: usize) -> Value {
        let weight = self.divisor.map_or(0.0, |divisor| -1.0 / divisor as f32);
        Value { value: self.value, weights: vec![weight; tokens], capped: (0, 0) }
    }
}

impl StepHinge {
    /// The sum of the losses and their number, as ranks add them up.
    pub(crate) fn sums(&self) -> [f64; 2] {
        [self.total, self.count as f64]
    }

    /// That of losses with these sums.
    pub(crate) fn of([total, count]: [f64; 2]) -> Self {
        Self { total, count: count as usize }
    }

    /// Takes a micro-batch in: each of its tokens adds -1 times its gradient to the sum.
    pub fn add(&mut self, nll: &[f32]) -> Value {
        self.total += nll.iter().map(|&x| f64::from(x)).sum::<f64>();
        self.count += nll.len();
        Value { value: 0.0, weights: vec![-1.0; nll.len()], capped: (0, 0) }
    }

    /// The value over all micro-batches so far.
    pub fn finish(&self, gamma: f64) -> StepValue {
        if self.count == 0 {
            return StepValue { value: 0.0, mean: 0.0, divisor: None, capped: (0, 0) };
        }
        let mean = self.total / self.count as f64;
        let value = hinge(gamma, mean);
        let open = value > 0.0;
        StepValue { value, mean, divisor: open.then_some(self.count as f64), capped: (usize::from(!open), 1) }
    }
}

/// The mean of per-position KLs, pooled over the micro-batch. A position counts as often as samples have it in common:
/// `counts`.
pub fn kl(per_position: &[f32], counts: &[f32]) -> Value {
    let total: f64 = counts.iter().map(|&c| f64::from(c)).sum::<f64>().max(1.0);
    let sum: f64 = per_position.iter().zip(counts).map(|(&x, &c)| f64::from(x) * f64::from(c)).sum();
    let weights = counts.iter().map(|&c| (f64::from(c) / total) as f32).collect();
    Value { value: sum / total, weights, capped: (0, 0) }
}

/// `sign` times the mean of the tokens' losses: -1 for ascent.
pub fn signed(nll: &[f32], sign: f32) -> Value {
    let weights = vec![sign / nll.len().max(1) as f32; nll.len()];
    Value { value: f64::from(sign) * mean(nll).unwrap_or(0.0), weights, capped: (0, 0) }
}

/// `-mean(p^a (1 - p)^b nll)`, with `p = exp(-nll)` a constant: the weights are the derivatives without that of `p`.
pub fn weighted_ascent(nll: &[f32], a: f64, b: f64) -> Value {
    let n = nll.len().max(1) as f64;
    let factor = |x: f32| {
        let p = (-f64::from(x)).exp();
        p.powf(a) * (1.0 - p).max(0.0).powf(b)
    };
    let value = -nll.iter().map(|&x| factor(x) * f64::from(x)).sum::<f64>() / n;
    Value { value, weights: nll.iter().map(|&x| (-factor(x) / n) as f32).collect(), capped: (0, 0) }
}

/// `-scale mean_b log sigma(beta (l_b - l0_b))` over the answers `samples`, with `l` an answer's sum or mean of `nll`,
/// and `l0` that of `base`, or 0; an answer without a token does not count. By each token of an answer of `m` tokens the
/// derivative is `-scale beta (1 - sigma) / n`, or an `m`th of that.
pub fn npo(nll: &[f32], base: Option<&[f32]>, samples: &Segments, form: Npo) -> Value {
    let mut term = Value { value: 0.0, weights: vec![0.0; nll.len()], capped: (0, 0) };
    let counted = samples.iter().filter(|r| !r.is_empty()).count();
    for range in samples.iter().filter(|r| !r.is_empty()) {
        let tokens = if form.per_token { range.len() as f64 } else { 1.0 };
        let loss = |of: &[f32]| of[range.clone()].iter().map(|&x| f64::from(x)).sum::<f64>() / tokens;
        let log_sigma = log_sigma(form.beta * (loss(nll) - base.map_or(0.0, loss)));
        term.value -= form.scale * log_sigma / counted as f64;
        let slope = -form.scale * form.beta * (1.0 - log_sigma.exp()) / (counted as f64 * tokens);
        term.weights[range].fill(slope as f32);
    }
    term
}

/// `-scale mean_b log sigma(beta ((l_b - l0_b) - (w_b - w0_b)))` over pairs of answers: of the answers `samples`, those
/// of the first half are `l`, those of the second, in the same order, are `w`, each a sum of `nll`, and of `base`. A pair
/// of which an answer has no token does not count.
pub fn preference(nll: &[f32], base: &[f32], samples: &Segments, form: Preference) -> Value {
    let mut term = Value { value: 0.0, weights: vec![0.0; nll.len()], capped: (0, 0) };
    let answers: Vec<_> = samples.iter().collect();
    let (rejected, preferred) = answers.split_at(answers.len() / 2);
    let pairs = || rejected.iter().zip(preferred).filter(|(l, w)| !l.is_empty() && !w.is_empty());
    let counted = pairs().count() as f64;
    for (l, w) in pairs() {
        let risen = |of: &Range<usize>| {
            let sum = |x: &[f32]| x[of.clone()].iter().map(|&x| f64::from(x)).sum::<f64>();
            sum(nll) - sum(base)
        };
        let log_sigma = log_sigma(form.beta * (risen(l) - risen(w)));
        term.value -= form.scale * log_sigma / counted;
        let slope = (-form.scale * form.beta * (1.0 - log_sigma.exp()) / counted) as f32;
        term.weights[l.clone()].fill(slope);
        term.weights[w.clone()].fill(-slope);
    }
    term
}

/// `mean_b (mean NLL of one answer + mean -log(1 - p) of the other) / 2` over pairs of answers, which `samples` has as
/// [`preference`] does; the first is the `preferred` one, or else the row's own. Of the other, tokens of which `nll` is
/// above 5 count as 0. A pair of which an answer has no token does not count.
pub fn toward_and_away(nll: &[f32], samples: &Segments, preferred: bool) -> Value {
    let mut term = Value { value: 0.0, weights: vec![0.0; nll.len()], capped: (0, 0) };
    let answers: Vec<_> = samples.iter().collect();
    let (own, other) = answers.split_at(answers.len() / 2);
    let pairs = || own.iter().zip(other).filter(|(l, w)| !l.is_empty() && !w.is_empty());
    let counted = 2.0 * pairs().count() as f64;
    for (l, w) in pairs() {
        let (toward, away) = if preferred { (w, l) } else { (l, w) };
        let share = |of: &Range<usize>| 1.0 / (counted * of.len() as f64);
        let (near, far) = (share(toward), share(away));
        term.value += near * nll[toward.clone()].iter().map(|&x| f64::from(x)).sum::<f64>();
        term.weights[toward.clone()].fill(near as f32);
        for (weight, &x) in term.weights[away.clone()].iter_mut().zip(&nll[away.clone()]) {
            if x > UNLIKELY {
                continue;
            }
            // 1 - p = 1 - e^-x, of which the logarithm has the derivative 1 / (e^x - 1).
            let x = f64::from(x.max(f32::EPSILON));
            term.value -= far * (-(-x).exp_m1()).ln();
            *weight = (-far / x.exp_m1()) as f32;
        }
    }
    term
}

/// The mean of `losses` without the first of each of `samples`.
pub fn after_first(losses: &[f32], samples: &Segments) -> Value {
    let counted: usize = samples.iter().map(|r| r.len().saturating_sub(1)).sum();
    let mut term = Value { value: 0.0, weights: vec![0.0; losses.len()], capped: (0, 0) };
    for range in samples.iter().filter(|r| r.len() > 1) {
        let rest = range.start + 1..range.end;
        term.value += losses[rest.clone()].iter().map(|&x| f64::from(x)).sum::<f64>() / counted as f64;
        term.weights[rest].fill(1.0 / counted as f32);
    }
    term
}

/// `log sigma(z)`, without overflow on either side.
fn log_sigma(z: f64) -> f64 {
    z.min(0.0) - (-z.abs()).exp().ln_1p()
}

/// The mean; None where there are no values.
pub fn mean(values: &[f32]) -> Option<f64> {
    let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
    (!values.is_empty()).then(|| sum / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central differences of the value by each token's loss.
    fn differs(nll: &[f32], term: impl Fn(&[f32]) -> Value) -> f64 {
        let weights = term(nll).weights;
        let h = 1e-3f32;
        (0..nll.len())
            .map(|i| {
                let at = |delta: f32| {
                    let mut moved = nll.to_vec();
                    moved[i] += delta;
                    term(&moved).value
                };
                ((at(h) - at(-h)) / f64::from(2.0 * h) - f64::from(weights[i])).abs()
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn weights_are_the_derivatives_of_the_value() {
        let samples = Segments::from_lengths([2, 0, 3]);
        let nll = [1.0, 1.5, 3.0, 3.5, 2.0];
        for gamma in [1.0, 1.8, 2.5, 9.0] {
            assert!(differs(&nll, |nll| hinge_of_mean(nll, gamma)) < 1e-3, "{gamma}");
            assert!(differs(&nll, |nll| sample_hinges(nll, &samples, gamma)) < 1e-3, "{gamma}");
            assert!(differs(&nll, |nll| token_hinges(nll, gamma + 0.1)) < 1e-3, "{gamma}");
            // Over a step the derivatives are those of the sum, divided at its end.
            let whole = |nll: &[f32]| {
                let mut hinge = StepHinge::default();
                let parts = [hinge.add(&nll[..2]), hinge.add(&nll[2..])];
                let end = hinge.finish(gamma);
                let divisor = end.divisor.map_or(f32::INFINITY, |d| d as f32);
                let weights = parts.iter().flat_map(|part| &part.weights).map(|w| w / divisor).collect();
                Value { value: end.value, weights, capped: end.capped }
            };
            assert!(differs(&nll, whole) < 1e-3, "{gamma}");
        }
    }

    #[test]
    fn weights_of_npo_are_the_derivatives_of_its_value() {
        let samples = Segments::from_lengths([2, 0, 3]);
        let (nll, base) = ([1.0, 1.5, 3.0, 3.5, 2.0], [0.5, 1.0, 4.0, 3.0, 3.5]);
        for (beta, scale, per_token) in [(0.1, 20.0, false), (4.5, 4.0 / 9.0, true), (1.0, 1.0, true)] {
            for base in [None, Some(&base[..])] {
                let form = Npo { beta, scale, per_token, reference: base.is_some() };
                assert!(differs(&nll, |nll| npo(nll, base, &samples, form)) < 1e-3, "{form:?}");
            }
        }
        // At the base model's own likelihood sigma is a half, whatever the answer costs.
        let form = Npo { beta: 0.1, scale: 20.0, per_token: false, reference: true };
        let start = npo(&base, Some(&base), &samples, form);
        assert!((start.value - 20.0 * 2f64.ln()).abs() < 1e-9);
        assert_eq!(start.weights, [-0.5; 5]);
        // An answer that is all but impossible has no gradient left, and one that is certain a whole one.
        let far = npo(&[1e6, 0.0], None, &Segments::from_lengths([1, 1]), Npo { reference: false, ..form });
        assert!(far.value.is_finite());
        assert_eq!(far.weights, [0.0, -0.5]);
    }

    #[test]
    fn weights_of_a_preference_are_the_derivatives_of_its_value() {
        let samples = Segments::from_lengths([2, 1, 1, 3, 0, 0]);
        let (nll, base) = ([1.0, 1.5, 3.0, 3.5, 2.0, 0.5, 1.0], [0.5, 1.0, 4.0, 3.0, 3.5, 1.0, 1.0]);
        let form = Preference { beta: 0.4, scale: 5.0 };
        let found = preference(&nll, &base, &samples, form);
        assert!(differs(&nll, |nll| preference(nll, &base, &samples, form)) < 1e-3);
        // The other pairs have no preferred answer: only the first counts.
        assert_eq!(found.weights.iter().map(|w| w.signum()).collect::<Vec<_>>()[..2], [-1.0, -1.0]);
        assert_eq!(found.weights[2..4], [0.0, 0.0]);
        let start = preference(&base, &base, &Segments::from_lengths([2, 1, 3, 1]), form);
        assert!((start.value - 5.0 * 2f64.ln()).abs() < 1e-9);
        assert_eq!(start.weights, [-0.5, -0.5, -0.5, 0.5, 0.5, 0.5, 0.5]);
    }

    #[test]
    fn weights_toward_one_answer_and_away_from_the_other_are_derivatives() {
        let samples = Segments::from_lengths([2, 1, 1, 3, 0, 0]);
        let nll = [1.0, 0.2, 3.0, 5.5, 2.0, 0.5, 1.0];
        for preferred in [false, true] {
            assert!(differs(&nll, |nll| toward_and_away(nll, &samples, preferred)) < 1e-3, "{preferred}");
        }
        // Of the second half the first answer is the first one's pair; a token that is unlikely already does not count.
        let found = toward_and_away(&[0.7, 5.5], &Segments::from_lengths([1, 1]), false);
        assert_eq!(found.weights, [0.5, 0.0]);
        assert!((found.value - 0.35).abs() < 1e-6);
        let even = toward_and_away(&[2f32.ln(), 1.0], &Segments::from_lengths([1, 1]), true);
        assert!((even.value - (0.5 + 0.5 * 2f64.ln())).abs() < 1e-6, "{even:?}");
        // A token that is certain has a value and a slope that can be computed with.
        let certain = toward_and_away(&[0.0, 1.0], &Segments::from_lengths([1, 1]), true);
        assert!(certain.value.is_finite() && certain.weights[0].is_finite());
    }

    #[test]
    fn the_first_token_of_an_answer_can_be_left_out() {
        let samples = Segments::from_lengths([2, 0, 1, 3]);
        let found = after_first(&[9.0, 1.0, 9.0, 9.0, 2.0, 3.0], &samples);
        assert!((found.value - 2.0).abs() < 1e-9);
        let third = 1.0 / 3.0;
        assert_eq!(found.weights, [0.0, third, 0.0, 0.0, third, third]);
        assert_eq!(after_first(&[1.0], &Segments::from_lengths([1])).value.to_bits(), 0f64.to_bits());
    }

    #[test]
    fn a_weighted_ascent_leaves_alone_what_is_unlikely_already() {
        let nll = [0.0, 2f32.ln(), 40.0];
        let first = weighted_ascent(&nll, 1.0, 0.0);
        assert!((first.value + 0.5 * 2f64.ln() / 3.0).abs() < 1e-7);
        let close = |found: &[f32], expected: [f32; 3]| found.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6);
        assert!(close(&first.weights, [-1.0 / 3.0, -0.5 / 3.0, 0.0]), "{first:?}");
        // With (1 - p) what is certain is left alone too.
        let second = weighted_ascent(&nll, 5.0, 1.0);
        assert!(close(&second.weights, [0.0, -0.5f32.powi(6) / 3.0, 0.0]), "{second:?}");
    }

    #[test]
    fn a_step_of_nothing_has_no_hinge() {
        let end = StepHinge::default().finish(1.8);
        assert_eq!((end.divisor, end.capped), (None, (0, 0)));
    }

    #[test]
    fn a_closed_hinge_is_worth_nothing() {
        let term = hinge_of_mean(&[2.0, 2.0], 1.8);
        assert_eq!(term, Value { value: 0.0, weights: vec![0.0, 0.0], capped: (1, 1) });
    }

    #[test]
    fn the_sample_scope_closes_one_hinge_and_leaves_the_other() {
        let term = sample_hinges(&[1.0, 4.0], &Segments::from_lengths([1, 1]), 1.8);
        assert!((term.value - 0.4).abs() < 1e-9);
        assert_eq!(term.weights, [-0.5, 0.0]);
        assert_eq!(term.capped, (1, 2));
    }

    #[test]
    fn a_likely_token_keeps_its_hinge_open_beside_one_that_is_very_unlikely() {
        assert_eq!(hinge_of_mean(&[0.5, 9.0], 1.5).capped, (1, 1));
        let term = token_hinges(&[0.5, 9.0], 1.5);
        assert_eq!((term.value, term.weights, term.capped), (0.5, vec![-0.5, 0.0], (1, 2)));
    }

    #[test]
    fn a_shared_position_counts_for_all_that_share_it() {
        let term = kl(&[1.0, 4.0], &[3.0, 1.0]);
        assert!((term.value - 7.0 / 4.0).abs() < 1e-9);
        assert_eq!(term.weights, [0.75, 0.25]);
    }

    #[test]
    fn ascent_is_the_mean_turned_round() {
        let (up, down) = (signed(&[1.0, 3.0], -1.0), signed(&[1.0, 3.0], 1.0));
        assert_eq!((up.value, up.weights), (-2.0, vec![-0.5, -0.5]));
        assert_eq!((down.value, down.weights), (2.0, vec![0.5, 0.5]));
    }

    #[test]
    fn no_position_is_no_loss() {
        assert!(kl(&[], &[]).value.abs() < f64::EPSILON);
        assert!(mean(&[]).is_none());
    }
}
