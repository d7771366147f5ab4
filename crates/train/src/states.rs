//! Losses on hidden states. In: the states of the adapted model behind a block, and what they are compared with; out: a
//! value, and its gradient by the states. Invariant: the gradient is exact, and finite where both are equal.

use crate::method::StateLoss;
use eraser_data::{Scored, stream};
use rand::RngExt as _;

/// How near to 1 a cosine is, where its gradient is nothing that can be followed.
const TOP: f64 = 1e-12;
/// The length of the gradient there, in units of the state's: small beside others, and far above the epsilon of Adam.
const PUSH: f64 = 1e-4;

/// What each row weighs in a term's value, for the rows of `scored`.
pub(crate) fn weights(form: StateLoss, scored: &Scored, blocks: usize) -> Vec<(usize, f64)> {
    let rows = scored.rows.iter().map(|&row| row as usize);
    match form {
        // The mean over each answer, then over answers.
        StateLoss::Steer(_) | StateLoss::Drift => {
            let answers = scored.samples.iter().filter(|rows| !rows.is_empty()).count();
            let of = |sample: usize| 1.0 / (answers * scored.samples[sample].len()) as f64;
            rows.zip(&scored.origins).map(|(row, (sample, _))| (row, of(*sample))).collect()
        }
        // The mean over all tokens, a row that samples share once for each; that of distances over the embedding's
        // output too, where it is 0.
        StateLoss::Reroute | StateLoss::Distance => {
            let layers = if form == StateLoss::Distance { blocks + 1 } else { 1 };
            let total = layers as f64 * scored.counts.iter().map(|&c| f64::from(c)).sum::<f64>();
            rows.zip(&scored.counts).map(|(row, &count)| (row, f64::from(count) / total)).collect()
        }
    }
}

/// The value of the states `h` of rows `width` wide, of which `rows` count with their weights, and its gradient. `other`
/// are the base model's states, or the one state that all are compared with.
pub(crate) fn loss(form: StateLoss, h: &[f32], other: &[f32], width: usize, rows: &[(usize, f64)]) -> (f64, Vec<f32>) {
    let (mut value, mut gradient) = (0.0, vec![0.0; h.len()]);
    for &(row, weight) in rows {
        let range = row * width..(row + 1) * width;
        let (h, gradient) = (&h[range.clone()], &mut gradient[range.clone()]);
        let other = if other.len() == width { other } else { &other[range] };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let apart = || h.iter().zip(other).map(|(&a, &b)| f64::from(a) - f64::from(b));
        let square = || apart().map(|x| x * x).sum::<f64>();
        match form {
            StateLoss::Steer(_) | StateLoss::Drift => {
                value += weight * square() / width as f64;
                let factor = 2.0 * weight / width as f64;
                gradient.iter_mut().zip(apart()).for_each(|(g, x)| *g = (factor * x) as f32);
            }
            StateLoss::Distance => {
                let distance = square().sqrt();
                value += weight * distance;
                if distance > 0.0 {
                    gradient.iter_mut().zip(apart()).for_each(|(g, x)| *g = (weight * x / distance) as f32);
                }
            }
            StateLoss::Reroute => {
                let (length, of_other) = (dot(h, h).sqrt(), dot(other, other).sqrt());
                let cos = dot(h, other) / (length * of_other);
                if cos > 0.0 {
                    value += weight * cos;
                    if 1.0 - cos < TOP {
                        push(gradient, PUSH * weight / length);
                        continue;
                    }
                    for ((g, &h), &other) in gradient.iter_mut().zip(h).zip(other) {
                        let slope = f64::from(other) / of_other - cos * f64::from(h) / length;
                        *g = (weight * slope / length) as f32;
                    }
                }
            }
        }
    }
    (value, gradient)
}

/// A gradient of this length in a drawn direction, the same for every row, wherever it is in its pack. An adapter begins as nothing, where every cosine
/// is 1 and its gradient 0: from there no step would lead anywhere. The published training leaves that point by what
/// rounding makes of the zero, which Adam enlarges to a whole step; in f64 there is no such rounding.
fn push(gradient: &mut [f32], length: f64) {
    let mut rng = stream(0, "reroute", &[]);
    let values: Vec<f64> = gradient.iter().map(|_| f64::from(rng.random::<f32>()) - 0.5).collect();
    let own = values.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    gradient.iter_mut().zip(values).for_each(|(g, x)| *g = (length * x / own) as f32);
}

/// The vector of this length that a run with this seed steers to: uniform in 0..1 in every coordinate, then scaled.
pub(crate) fn control(seed: u64, width: usize, length: f64) -> Vec<f32> {
    let mut rng = stream(seed, "control-vector", &[]);
    let values: Vec<f64> = (0..width).map(|_| f64::from(rng.random::<f32>())).collect();
    let own = values.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    values.iter().map(|x| (length * x / own) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: [f32; 12] = [0.5, -1.0, 2.0, 0.3, 0.7, -0.2, 1.5, 1.0, -0.4, 0.9, 0.1, -2.0];
    const BASE: [f32; 12] = [0.4, -0.5, 1.0, 0.5, -1.0, 0.3, 1.0, 2.0, -0.1, 0.2, 0.3, -1.0];
    const ROWS: [(usize, f64); 3] = [(0, 0.5), (1, 0.2), (3, 0.3)];

    #[test]
    fn gradients_are_the_derivatives_of_the_values() {
        for form in [StateLoss::Steer(2.0), StateLoss::Drift, StateLoss::Reroute, StateLoss::Distance] {
            let other = if form == StateLoss::Steer(2.0) { &BASE[..3] } else { &BASE[..] };
            let gradient = loss(form, &H, other, 3, &ROWS).1;
            for i in 0..H.len() {
                let at = |by: f32| {
                    let mut moved = H;
                    moved[i] += by;
                    loss(form, &moved, other, 3, &ROWS).0
                };
                let found = (at(1e-3) - at(-1e-3)) / 2e-3;
                assert!((found - f64::from(gradient[i])).abs() < 1e-4, "{form:?}, {i}: {found}, {}", gradient[i]);
            }
            // The third row does not count.
            assert_eq!(gradient[6..9], [0.0; 3], "{form:?}");
        }
    }

    #[test]
    fn states_of_an_adapter_that_is_nothing_have_finite_gradients() {
        assert_eq!(loss(StateLoss::Distance, &H, &H, 3, &ROWS), (0.0, vec![0.0; 12]));
        let (value, gradient) = loss(StateLoss::Reroute, &H, &H, 3, &ROWS);
        assert!(
            (value - 1.0).abs() < 1e-9 && gradient.iter().all(|g| f64::from(g.abs()) < PUSH),
            "{value} {gradient:?}"
        );
        // It was zero, and circuit breakers on a new adapter learnt nothing.
        assert!(ROWS.iter().all(|(row, _)| gradient[row * 3..row * 3 + 3].iter().any(|&g| g != 0.0)), "{gradient:?}");
        let (value, gradient) = loss(StateLoss::Reroute, &[0.0; 3], &[0.0; 3], 3, &[(0, 1.0)]);
        assert_eq!((value, gradient), (0.0, vec![0.0; 3]));
    }

    #[test]
    fn the_vector_is_that_of_the_seed() {
        let vector = control(42, 24, 6.5);
        let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        assert!((length - 6.5).abs() < 1e-4 && vector.iter().all(|&x| x >= 0.0));
        assert_eq!(vector, control(42, 24, 6.5));
        assert_ne!(vector, control(43, 24, 6.5));
    }

    #[test]
    fn answers_weigh_alike_and_shared_rows_for_all_that_share_them() {
        let scored = Scored {
            rows: vec![4, 5, 7],
            counts: vec![1.0, 1.0, 2.0],
            origins: vec![(0, 0), (0, 1), (2, 0)],
            samples: vec![vec![4, 5], vec![], vec![7]],
        };
        assert_eq!(weights(StateLoss::Drift, &scored, 3), [(4, 0.25), (5, 0.25), (7, 0.5)]);
        assert_eq!(weights(StateLoss::Reroute, &scored, 3), [(4, 0.25), (5, 0.25), (7, 0.5)]);
        assert_eq!(weights(StateLoss::Distance, &scored, 3), [(4, 0.0625), (5, 0.0625), (7, 0.125)]);
    }
}
