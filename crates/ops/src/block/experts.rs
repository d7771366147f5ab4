//! A mixture of experts in the place of a block's MLP, on rows in the host's memory. In: the MLP's input; out: the sum
//! of what each token's experts give, and in backward the gradient of that input. Invariant: nothing of an expert is
//! kept between forward and backward; it is computed again.

use super::whole;
use crate::gemm::Update;
use crate::linear::{Columns, product};
use crate::mixture::{Routes, Routing, check};
use crate::weight::Weight;
use crate::{Activation, activation, simd};
use candle_core::{Result, bail};

/// Frozen experts and their router.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// Gives the logit of each expert, `[experts, d]`.
    pub router: &'a Weight,
    /// How logits become weights.
    pub routing: Routing,
    /// Gate, up and down projections of each expert: `[f, d]`, `[f, d]` and `[d, f]`.
    pub each: &'a [[Weight; 3]],
}

impl Experts<'_> {
    /// Width of an expert.
    pub(super) fn width(&self) -> Result<usize> {
        match self.each.first() {
            Some([_, _, down]) => Ok(down.dims()?.1),
            None => bail!("block: a mixture without experts"),
        }
    }

    /// An error unless all fit rows of `d`.
    pub(super) fn check(&self, d: usize) -> Result<()> {
        let f = self.width()?;
        check(0, 0, self.each.len(), self.routing)?;
        if self.router.dims()? != (self.each.len(), d) {
            bail!("block: a router of {:?} for {} experts of rows of {d}", self.router.dims()?, self.each.len());
        }
        for expert in self.each {
            for (weight, shape) in expert.iter().zip([(f, d), (f, d), (d, f)]) {
                if weight.dims()? != shape {
                    bail!("block: an expert's layer of {:?} does not fit {shape:?}", weight.dims()?);
                }
            }
        }
        Ok(())
    }

    /// The sum for each row of `x` `[tokens, d]`, and the routes.
    pub(super) fn forward(&self, activation: Activation, x: &[f32], tokens: usize) -> Result<(Vec<f32>, Routes)> {
        let (f, count) = (self.width()?, self.each.len());
        let logits = self.router.with(|rows| product::forward(x, rows, None, tokens))?;
        let routes = self.routing.routes(logits, count);
        let d = x.len().checked_div(tokens).unwrap_or(0);
        let mut out = vec![0.0; x.len()];
        for (expert, rows) in self.each.iter().zip(routes.by_expert(count, self.routing.used)) {
            if rows.is_empty() {
                continue;
            }
            let gate_up = gate_up(expert, &gathered(x, d, &rows), rows.len(), f)?;
            let hidden = activation::of_rows(activation, &gate_up, f);
            let y = expert[2].with(|weight| product::forward(&hidden, weight, None, rows.len()))?;
            for ((token, place), y) in rows.iter().zip(y.chunks_exact(d.max(1))) {
                let row = *token as usize * d;
                simd::axpy(&mut out[row..row + d], routes.weights[*place], y);
            }
        }
        Ok((out, routes))
    }

    /// The gradient of `x` from that of the sum, `grad`: through the experts, and through the weights.
    pub(super) fn backward(
        &self,
        activation: Activation,
        x: &[f32],
        routes: &Routes,
        grad: &[f32],
        tokens: usize,
    ) -> Result<Vec<f32>> {
        let (f, count) = (self.width()?, self.each.len());
        let d = x.len().checked_div(tokens).unwrap_or(0);
        let mut d_weights = vec![0.0; routes.weights.len()];
        let mut dx = vec![0.0; x.len()];
        for (expert, rows) in self.each.iter().zip(routes.by_expert(count, self.routing.used)) {
            if rows.is_empty() {
                continue;
            }
            let n = rows.len();
            let mut gate_up = gate_up(expert, &gathered(x, d, &rows), n, f)?;
            let hidden = activation::of_rows(activation, &gate_up, f);
            let grad = gathered(grad, d, &rows);
            let mut d_hidden = expert[2].with(|weight| product::input_gradient(&grad, weight, n))?;
            for (((_, place), h), d) in rows.iter().zip(hidden.chunks_exact(f)).zip(d_hidden.chunks_exact_mut(f)) {
                // The product of the output's gradient and the output, without computing the output.
                d_weights[*place] = h.iter().zip(&*d).map(|(h, d)| h * d).sum();
                simd::scale(d, routes.weights[*place]);
            }
            activation::rows_gradient(activation, &mut gate_up, &d_hidden, f);
            for (weight, at) in expert[..2].iter().zip([0, f]) {
                let own: Vec<f32> = gate_up.chunks_exact(2 * f).flat_map(|row| &row[at..at + f]).copied().collect();
                let part = weight.with(|weight| product::input_gradient(&own, weight, n))?;
                for ((token, _), part) in rows.iter().zip(part.chunks_exact(d.max(1))) {
                    let row = *token as usize * d;
                    simd::axpy(&mut dx[row..row + d], 1.0, part);
                }
            }
        }
        let d_logits = self.routing.logits_gradient(routes, &d_weights, count);
        let through = self.router.with(|rows| product::input_gradient(&d_logits, rows, tokens))?;
        simd::axpy(&mut dx, 1.0, &through);
        Ok(dx)
    }
}

/// Gate and up projections of an expert beside each other, `[n, 2 f]`.
fn gate_up(expert: &[Weight; 3], x: &[f32], n: usize, f: usize) -> Result<Vec<f32>> {
    let mut out = vec![0.0; n * 2 * f];
    for (weight, at) in expert[..2].iter().zip([0, f]) {
        let columns = Columns { at, ..whole(2 * f) };
        weight.with(|rows| product::forward_into(x, rows, n, &mut out, columns, Update::Replace))?;
    }
    Ok(out)
}

/// The rows of a matrix that have an expert.
fn gathered(x: &[f32], d: usize, rows: &[(u32, usize)]) -> Vec<f32> {
    rows.iter().flat_map(|(token, _)| &x[*token as usize * d..][..d]).copied().collect()
}
