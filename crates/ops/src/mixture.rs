//! A mixture of experts: a router gives each token a few of them, whose outputs are summed with its weights (Shazeer et
//! al. 2017, arXiv 1701.06538; softmax before the choice, as in Mixtral and Qwen3). In: rows `[T, d]` and what each
//! expert computes of some of them; out: the sum, `[T, d]`. Invariant: an expert computes only the rows that chose it,
//! and of experts with one probability the first is chosen.

use candle_core::{D, DType, Result, Tensor, bail};

/// How a router's logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Experts of a token.
    pub used: usize,
    /// A token's weights add up to 1; else they are what the softmax over all experts gives.
    pub normalised: bool,
}

/// The experts of each token, and their weights.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    /// Probability of each expert, `[T, experts]`.
    pub(crate) probabilities: Vec<f32>,
    /// Numbers of the experts, `[T, used]`, ascending within a token.
    pub(crate) chosen: Vec<u32>,
    /// Their weights, `[T, used]`.
    pub(crate) weights: Vec<f32>,
}

impl Routing {
    /// The routes that `logits` `[T, experts]` give.
    pub(crate) fn routes(self, mut logits: Vec<f32>, experts: usize) -> Routes {
        let (mut chosen, mut weights) = (Vec::new(), Vec::new());
        let mut order: Vec<u32> = Vec::with_capacity(experts);
        for row in logits.chunks_exact_mut(experts.max(1)) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for z in row.iter_mut() {
                *z = (*z - most).exp();
            }
            let sum: f32 = row.iter().sum();
            for p in row.iter_mut() {
                *p /= sum;
            }
            order.clear();
            order.extend(0..experts as u32);
            // Stable: of equals the first.
            order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
            order.truncate(self.used);
            order.sort_unstable();
            let all: f32 = order.iter().map(|&e| row[e as usize]).sum();
            let all = if self.normalised { all } else { 1.0 };
            chosen.extend_from_slice(&order);
            weights.extend(order.iter().map(|&e| row[e as usize] / all));
        }
        Routes { probabilities: logits, chosen, weights }
    }

    /// The gradient of the logits, `[T, experts]`, from that of the weights, `[T, used]`.
    pub(crate) fn logits_gradient(self, routes: &Routes, d_weights: &[f32], experts: usize) -> Vec<f32> {
        let mut out = vec![0.0; routes.probabilities.len()];
        let rows = out.chunks_exact_mut(experts.max(1)).zip(routes.probabilities.chunks_exact(experts.max(1)));
        let own = |t: usize| t * self.used..(t + 1) * self.used;
        for (t, (out, probabilities)) in rows.enumerate() {
            let (chosen, weights, d_weights) = (&routes.chosen[own(t)], &routes.weights[own(t)], &d_weights[own(t)]);
            let mean: f32 = weights.iter().zip(d_weights).map(|(w, d)| w * d).sum();
            let all: f32 = chosen.iter().map(|&e| probabilities[e as usize]).sum();
            for (&e, d) in chosen.iter().zip(d_weights) {
                out[e as usize] = if self.normalised { (d - mean) / all } else { *d };
            }
            let mean: f32 = out.iter().zip(probabilities).map(|(d, p)| d * p).sum();
            out.iter_mut().zip(probabilities).for_each(|(d, p)| *d = p * (*d - mean));
        }
        out
    }
}

impl Routes {
    /// For each expert, the tokens that chose it and the places of their weights.
    pub(crate) fn by_expert(&self, experts: usize, used: usize) -> Vec<Vec<(u32, usize)>> {
        let mut out = vec![Vec::new(); experts];
        for (place, &expert) in self.chosen.iter().enumerate() {
            if let Some(rows) = out.get_mut(expert as usize) {
                rows.push(((place / used.max(1)) as u32, place));
            }
        }
        out
    }
}

/// The mixture of `experts` that `logits` `[T, experts]` give for the rows of `x` `[T, d]`, composed of operations that
/// all have a backward. `expert` computes an expert, by its number, of some rows. The choice itself has no gradient.
///
/// Errors when shapes do not fit, or what `expert` says.
pub fn mixture<E: From<candle_core::Error>>(
    x: &Tensor,
    logits: &Tensor,
    routing: Routing,
    expert: impl Fn(usize, &Tensor) -> std::result::Result<Tensor, E>,
) -> std::result::Result<Tensor, E> {
    let (tokens, experts) = logits.dims2()?;
    check(tokens, x.dims2()?.0, experts, routing)?;
    let logits = logits.to_dtype(DType::F32)?;
    let routes = routing.routes(logits.detach().flatten_all()?.to_vec1()?, experts);
    let by_expert = routes.by_expert(experts, routing.used);
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?.exp()?;
    let mut weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
    if routing.normalised {
        let mut mask = vec![0f32; tokens * experts];
        for (expert, rows) in by_expert.iter().enumerate() {
            for (row, _) in rows {
                mask[*row as usize * experts + expert] = 1.0;
            }
        }
        let mask = Tensor::from_vec(mask, (tokens, experts), x.device())?;
        weights = weights.broadcast_div(&weights.mul(&mask)?.sum_keepdim(D::Minus1)?)?;
    }
    let mut out = x.zeros_like()?.detach();
    for (number, rows) in by_expert.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        let rows: Vec<u32> = rows.iter().map(|(row, _)| *row).collect();
        let rows = Tensor::new(rows, x.device())?;
        let own = weights.narrow(1, number, 1)?.contiguous()?.index_select(&rows, 0)?.to_dtype(x.dtype())?;
        let y = expert(number, &x.index_select(&rows, 0)?)?.broadcast_mul(&own)?;
        out = out.index_add(&rows, &y, 0)?;
    }
    Ok(out)
}

/// An error unless each of the tokens has rows and enough experts.
pub(crate) fn check(tokens: usize, rows: usize, experts: usize, routing: Routing) -> Result<()> {
    if tokens != rows || routing.used == 0 || routing.used > experts {
        bail!("mixture: {} of {experts} experts, logits of {tokens} tokens for {rows} rows", routing.used);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random;
    use candle_core::{Device, Var};

    /// Gradients of the router's logits against finite differences, for both kinds of weights.
    #[test]
    fn the_gradient_of_logits_equals_finite_differences() {
        for normalised in [true, false] {
            let routing = Routing { used: 2, normalised };
            let logits = random((3, 5), 1).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let weight: Vec<f32> = (0..6).map(|i| (i as f32 * 1.7).sin()).collect();
            let value = |logits: Vec<f32>| -> f64 {
                let routes = routing.routes(logits, 5);
                routes.weights.iter().zip(&weight).map(|(w, c)| f64::from(w * c)).sum()
            };
            let routes = routing.routes(logits.clone(), 5);
            let found = routing.logits_gradient(&routes, &weight, 5);
            for i in 0..15 {
                let step = |by: f32| {
                    let mut moved = logits.clone();
                    moved[i] += by;
                    value(moved)
                };
                let difference = (step(1e-3) - step(-1e-3)) / 2e-3;
                assert!((f64::from(found[i]) - difference).abs() < 1e-3, "{normalised} {i}: {} {difference}", found[i]);
            }
        }
    }

    #[test]
    fn of_equals_the_first_are_chosen_and_weights_add_up() {
        let routes = Routing { used: 2, normalised: true }.routes(vec![1.0, 1.0, 1.0, 0.0, 3.0, 3.0], 3);
        assert_eq!(routes.chosen, [0, 1, 1, 2]);
        assert!(routes.weights.iter().all(|w| (w - 0.5).abs() < 1e-6));
        let routes = Routing { used: 1, normalised: false }.routes(vec![0.0, 0.0], 2);
        assert_eq!((routes.chosen, routes.weights), (vec![0], vec![0.5]));
    }

    /// One expert of one is the expert; the sum over all experts is what it says.
    #[test]
    fn a_mixture_is_the_weighted_sum_of_what_experts_give() {
        let (x, logits) = (random((4, 6), 1), random((4, 3), 2));
        let scaled = |expert: usize, x: &Tensor| x.affine((expert + 1) as f64, 0.0);
        let all = mixture(&x, &logits, Routing { used: 3, normalised: false }, scaled).unwrap();
        let logits = logits.to_vec2::<f32>().unwrap();
        for ((row, got), logits) in x.to_vec2::<f32>().unwrap().iter().zip(all.to_vec2::<f32>().unwrap()).zip(logits) {
            let sum: f32 = logits.iter().map(|z| z.exp()).sum();
            let factor: f32 = logits.iter().enumerate().map(|(e, z)| z.exp() / sum * (e + 1) as f32).sum();
            assert!(row.iter().zip(got).all(|(x, y)| (x * factor - y).abs() < 1e-5));
        }
        let nothing = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        for used in [0, 3] {
            assert!(mixture(&x, &nothing, Routing { used, normalised: true }, scaled).is_err());
        }
        let one = Var::from_tensor(&random((4, 1), 3)).unwrap();
        let same = mixture(&x, &one, Routing { used: 1, normalised: true }, scaled).unwrap();
        assert!((same - &x).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }
}
