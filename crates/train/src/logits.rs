//! Losses that look at all logits of a position. In: final hidden states, the head, the tokens that come next; out: a
//! value for each row, and its gradient by the row. Invariant: logits are held for a block of rows only.

use crate::method::LogitLoss;
use candle_core::{DType, Tensor, Var};
use eraser_model::{Decoder, Error, Result};
use eraser_ops::backward_from;
use rayon::prelude::*;

/// Logits held at a time, of one model: 16 MB.
const ELEMENTS: usize = 1 << 22;

/// What the rows gave.
pub(crate) struct LogitLosses {
    /// The value of each row.
    pub(crate) values: Vec<f32>,
    /// What the token that comes next costs at each row, in nats.
    pub(crate) nll: Vec<f32>,
    /// The gradient of each row's value by the row, `[n, d]` in f32; None when it was not wanted.
    pub(crate) gradient: Option<Tensor>,
}

/// The loss `form` of each of the hidden states `hidden` `[n, d]`, behind which `targets` come. `reference` are the
/// states of the base model, for a form that compares with it.
pub(crate) fn losses(
    decoder: &Decoder,
    hidden: &Tensor,
    reference: Option<&Tensor>,
    targets: &[u32],
    form: LogitLoss,
    want_gradient: bool,
) -> Result<LogitLosses> {
    let (n, vocabulary) = (hidden.dim(0)?, decoder.head().dim(0)?);
    let rows = (ELEMENTS / vocabulary.max(1)).max(1);
    let mut found = LogitLosses { values: Vec::with_capacity(n), nll: Vec::with_capacity(n), gradient: None };
    let mut gradients = Vec::new();
    for start in (0..n).step_by(rows) {
        let count = rows.min(n - start);
        let x = Var::from_tensor(&hidden.narrow(0, start, count)?.detach().contiguous()?)?;
        let logits = decoder.tracked_logits(x.as_tensor())?;
        let mut z = logits.flatten_all()?.to_vec1::<f32>()?;
        let base = match reference {
            Some(states) => decoder.logits(&states.narrow(0, start, count)?)?.flatten_all()?.to_vec1::<f32>()?,
            None => Vec::new(),
        };
        let mut base: Vec<&[f32]> = base.chunks_exact(vocabulary).collect();
        base.resize(count, &[]);
        let work = z.par_chunks_exact_mut(vocabulary).zip(base).zip(&targets[start..start + count]);
        let values: Vec<(f64, f64)> = work.map(|((z, base), &target)| row(form, z, base, target as usize)).collect();
        found.values.extend(values.iter().map(|(value, _)| *value as f32));
        found.nll.extend(values.iter().map(|(_, nll)| *nll as f32));
        if want_gradient {
            let by_logits = Tensor::from_vec(z, (count, vocabulary), logits.device())?;
            let gradient = backward_from(&logits, &by_logits)?.remove(&x);
            let gradient = gradient.ok_or_else(|| Error::failed("no gradient reached the hidden states"))?;
            gradients.push(gradient.to_dtype(DType::F32)?);
        }
    }
    if !gradients.is_empty() {
        found.gradient = Some(Tensor::cat(&gradients, 0)?);
    }
    Ok(found)
}

/// The value of a row with logits `z`, and the NLL of `target`; `z` becomes the gradient by the logits.
fn row(form: LogitLoss, z: &mut [f32], base: &[f32], target: usize) -> (f64, f64) {
    let log_sum = log_sum(z.iter().map(|&x| f64::from(x)));
    let nll = log_sum - f64::from(z[target]);
    let value = match form {
        LogitLoss::Distilled(beta) => {
            let shift = |(v, &x): (usize, &f32)| f64::from(x) - if v == target { beta } else { 0.0 };
            let of_base = self::log_sum(base.iter().enumerate().map(shift));
            towards(z, log_sum, base.iter().enumerate().map(|x| (shift(x) - of_base).exp()))
        }
        LogitLoss::WithoutToken => {
            let rest = |v: usize, x: f64| if v == target { f64::NEG_INFINITY } else { x };
            let own: Vec<f64> = z.iter().enumerate().map(|(v, &x)| rest(v, f64::from(x))).collect();
            let of_rest = self::log_sum(own.iter().copied());
            towards(z, log_sum, own.iter().map(|x| (x - of_rest).exp()))
        }
        LogitLoss::Flat => {
            let n = z.len() as f64;
            let mean = z.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let (top, max) = z
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |most, (v, &x)| if x > most.1 { (v, x) } else { most });
            let gap = f64::from(max) - mean;
            z.fill((-2.0 * gap / n) as f32);
            z[top] = (2.0 * gap * (1.0 - 1.0 / n)) as f32;
            gap * gap
        }
    };
    (value, nll)
}

/// `-sum_v q_v log p_v` of the distribution `q`; `z` becomes `p - q`.
fn towards(z: &mut [f32], log_sum: f64, q: impl Iterator<Item = f64>) -> f64 {
    let mut value = 0.0;
    for (z, q) in z.iter_mut().zip(q) {
        let cost = log_sum - f64::from(*z);
        if q > 0.0 {
            value += q * cost;
        }
        *z = ((-cost).exp() - q) as f32;
    }
    value
}

/// `ln sum exp(x)`.
fn log_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + values.map(|x| (x - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const Z: [f32; 5] = [0.3, -1.2, 2.0, 0.9, -0.4];
    const BASE: [f32; 5] = [0.1, 0.4, 2.5, -1.0, 0.2];

    fn value(form: LogitLoss, z: &[f32]) -> f64 {
        row(form, &mut z.to_vec(), &BASE, 2).0
    }

    /// Central differences of the value, against the gradient that a row leaves.
    fn differs(of: impl Fn(&[f32]) -> f64, form: LogitLoss) -> f64 {
        let mut gradient = Z.to_vec();
        row(form, &mut gradient, &BASE, 2);
        let h = 1e-3;
        let moved = |v: usize, by: f32| {
            let mut z = Z.to_vec();
            z[v] += by;
            of(&z)
        };
        let errors =
            (0..Z.len()).map(|v| ((moved(v, h) - moved(v, -h)) / f64::from(2.0 * h) - f64::from(gradient[v])).abs());
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn gradients_are_the_derivatives_of_the_values() {
        for form in [LogitLoss::Distilled(3.0), LogitLoss::Flat] {
            assert!(differs(|z| value(form, z), form) < 1e-4, "{form:?}");
        }
        // The distribution without the token is a constant: that of the row where it is.
        let rest: Vec<f64> =
            Z.iter().enumerate().map(|(v, &x)| if v == 2 { 0.0 } else { f64::from(x).exp() }).collect();
        let sum: f64 = rest.iter().sum();
        let constant = |z: &[f32]| -> f64 {
            let all = log_sum(z.iter().map(|&x| f64::from(x)));
            rest.iter().zip(z).map(|(q, &x)| q / sum * (all - f64::from(x))).sum()
        };
        let form = LogitLoss::WithoutToken;
        assert!((constant(&Z) - value(form, &Z)).abs() < 1e-9);
        assert!(differs(constant, form) < 1e-4);
    }

    #[test]
    fn a_token_that_is_all_but_certain_gives_finite_numbers() {
        for form in [LogitLoss::Distilled(10.0), LogitLoss::WithoutToken, LogitLoss::Flat] {
            let mut z = vec![-300.0, 300.0, -300.0];
            let (value, nll) = row(form, &mut z, &[-300.0, 300.0, -300.0], 1);
            assert!(
                value.is_finite() && nll.abs() < 1e-9 && z.iter().all(|x| x.is_finite()),
                "{form:?}: {value} {z:?}"
            );
        }
    }

    #[test]
    fn flat_logits_are_worth_nothing() {
        assert!(value(LogitLoss::Flat, &[1.5; 5]).abs() < 1e-12);
    }
}
