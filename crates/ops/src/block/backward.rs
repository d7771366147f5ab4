//! The backward of a block. In: its input, what the forward kept, and the gradient of its output; out: the gradients of its
//! input and of the low-rank pairs. Invariant: nothing is computed that no wanted gradient needs.

use super::forward::norm;
use super::{Activations, Block, BlockLinear, Linears, Saved, whole, with_pair};
use crate::attention::flash::Want;
use crate::linear::{Columns, FactorsWanted, product};
use crate::weight::Weight;
use crate::{rms_norm, simd, slices, swiglu};
use candle_core::{Result, Tensor, bail};

/// The gradients of a low-rank pair, `(dA, dB)`; None where there is no pair, or its gradient is not wanted.
pub type PairGradient = Option<(Tensor, Tensor)>;

/// Gradients of a block.
#[derive(Debug, Default)]
pub struct BlockGradients {
    /// Of the input, `[T, d]`; None when not wanted.
    pub input: Option<Tensor>,
    /// Of each pair that there is.
    pub pairs: Linears<PairGradient>,
}

/// Carries `grad`, the gradient of the block's output, back. `x` is the block's input; `want_input` says whether its
/// gradient is needed.
///
/// Errors when shapes do not fit. Cost: as many products as the forward (the output's gradient takes the place of the
/// input), attention's backward, and the pairs.
pub fn backward(
    block: &Block<'_>,
    x: &Tensor,
    saved: Saved,
    grad: &Tensor,
    want_input: bool,
) -> Result<BlockGradients> {
    let (q_width, kv_width, f) = block.widths(x)?;
    if grad.dims() != x.dims() {
        bail!("block: output is {:?} but its gradient {:?}", x.shape(), grad.shape());
    }
    let (d, tokens, l) = (x.dims2()?.1, block.positions.len(), &block.linears);
    let (input, grad) = (slices::read(x), slices::read(grad));
    let (input, grad) = (input.as_slice()?, grad.as_slice()?);
    let adapted = |layers: &[&BlockLinear<'_>]| layers.iter().any(|linear| linear.lora.is_some());
    let (qkv_adapted, gate_up_adapted) = (adapted(&[&l.q, &l.k, &l.v]), adapted(&[&l.gate, &l.up]));
    let Saved { q, k, v, lse, attended, middle, gate_up, low } = saved;
    let mut gate_up = gate_up.into_values();
    let mut found = BlockGradients::default();

    // MLP half: d middle = grad + norm'(Gate, Up).
    let hidden = if adapted(&[&l.down]) { swiglu::of_rows(&gate_up, f) } else { Vec::new() };
    let through = want_input || qkv_adapted || adapted(&[&l.o]);
    if !through && !gate_up_adapted {
        found.pairs.down = pair(&l.down, &hidden, &low.down, (grad, whole(d)), None)?;
        return Ok(found);
    }
    let d_hidden;
    (d_hidden, found.pairs.down) = single(&l.down, &hidden, &low.down, grad, tokens)?;
    drop(hidden);
    swiglu::rows_gradient(&mut gate_up, &d_hidden, f);
    drop(d_hidden);
    let normed = if gate_up_adapted { norm(&middle, block.mlp_norm, block.eps)? } else { Vec::new() };
    let layers = [(&l.gate, 0, &*low.gate), (&l.up, f, &*low.up)];
    let stacked = Stacked { stack: block.gate_up, layers, x: &normed, grad: &gate_up, stride: 2 * f, tokens };
    let (d_normed, [gate, up]) = stacked.backward(through)?;
    (found.pairs.gate, found.pairs.up) = (gate, up);
    drop((gate_up, normed));
    let Some(d_normed) = d_normed else { return Ok(found) };
    let d_middle = norm_gradient(&middle, block.mlp_norm, &d_normed, block.eps, grad)?;
    drop((d_normed, middle));

    // Attention half: d x = d middle + norm'(Q, K, V).
    let attended = attended.into_values();
    if !want_input && !qkv_adapted {
        found.pairs.o = pair(&l.o, &attended, &low.o, (&d_middle, whole(d)), None)?;
        return Ok(found);
    }
    let d_attended;
    (d_attended, found.pairs.o) = single(&l.o, &attended, &low.o, &d_middle, tokens)?;
    drop(attended);
    let wanted = |linear| want_input || adapted(&[linear]);
    let want = Want { q: wanted(&l.q), k: wanted(&l.k), v: wanted(&l.v) };
    let [q, k, v] = [q, k, v].map(Activations::into_values);
    let gradients = block.attention(&q, &k, &v).backward(&d_attended, &lse, want);
    drop(d_attended);
    let stride = q_width + 2 * kv_width;
    let mut d_qkv = vec![0.0; tokens * stride];
    for (gradient, at, width) in [(&gradients.q, 0, q_width), (&gradients.k, q_width, kv_width)] {
        if let Some(gradient) = gradient {
            let to = Columns { stride, at };
            block.rope.rotate((&mut d_qkv, to), (gradient, whole(width)), width, block.positions, -1.0)?;
        }
    }
    if let Some(gradient) = &gradients.v {
        for (row, gradient) in d_qkv.chunks_exact_mut(stride).zip(gradient.chunks_exact(kv_width)) {
            row[q_width + kv_width..].copy_from_slice(gradient);
        }
    }
    drop((gradients, q, k, v));
    let normed = if qkv_adapted { norm(input, block.attention_norm, block.eps)? } else { Vec::new() };
    let layers = [(&l.q, 0, &*low.q), (&l.k, q_width, &*low.k), (&l.v, q_width + kv_width, &*low.v)];
    let stacked = Stacked { stack: block.qkv, layers, x: &normed, grad: &d_qkv, stride, tokens };
    let (d_normed, [q, k, v]) = stacked.backward(want_input)?;
    (found.pairs.q, found.pairs.k, found.pairs.v) = (q, k, v);
    if let Some(d_normed) = d_normed {
        let d_input = norm_gradient(input, block.attention_norm, &d_normed, block.eps, &d_middle)?;
        found.input = Some(slices::tensor(d_input, x.shape()));
    }
    Ok(found)
}

/// The gradient of the input of a linear layer, whose output's gradient is `grad`; its pair's on the way.
fn single(
    linear: &BlockLinear<'_>,
    x: &[f32],
    low: &[f32],
    grad: &[f32],
    tokens: usize,
) -> Result<(Vec<f32>, PairGradient)> {
    let mut dx = linear.weight.with(|rows| product::input_gradient(grad, rows, tokens))?;
    let found = pair(linear, x, low, (grad, whole(linear.weight.dims()?.0)), Some(&mut dx))?;
    Ok((dx, found))
}

/// Linear layers that share their input.
struct Stacked<'a, const N: usize> {
    /// Their weights below each other.
    stack: Option<&'a Weight>,
    /// Each with the column of `grad` where its own begin, and its pair's low-rank part.
    layers: [(&'a BlockLinear<'a>, usize, &'a [f32]); N],
    /// The input; read only where there is a pair.
    x: &'a [f32],
    /// The gradient of their outputs beside each other, in rows of `stride`.
    grad: &'a [f32],
    stride: usize,
    tokens: usize,
}

impl<const N: usize> Stacked<'_, N> {
    /// The gradient of the input, if `want`, and those of the pairs.
    fn backward(&self, want: bool) -> Result<(Option<Vec<f32>>, [PairGradient; N])> {
        let mut dx = if want { Some(self.input_gradient()?) } else { None };
        let mut pairs = [const { None }; N];
        for (&(linear, at, low), found) in self.layers.iter().zip(&mut pairs) {
            let columns = Columns { stride: self.stride, at };
            *found = pair(linear, self.x, low, (self.grad, columns), dx.as_deref_mut())?;
        }
        Ok((dx, pairs))
    }

    fn input_gradient(&self) -> Result<Vec<f32>> {
        if let Some(stack) = self.stack {
            return stack.with(|rows| product::input_gradient(self.grad, rows, self.tokens));
        }
        let mut sum: Option<Vec<f32>> = None;
        for &(linear, at, _) in &self.layers {
            let width = linear.weight.dims()?.0;
            let own: Vec<f32> =
                self.grad.chunks_exact(self.stride).flat_map(|row| row[at..at + width].iter().copied()).collect();
            let dx = linear.weight.with(|rows| product::input_gradient(&own, rows, self.tokens))?;
            match &mut sum {
                Some(sum) => simd::axpy(sum, 1.0, &dx),
                None => sum = Some(dx),
            }
        }
        Ok(sum.unwrap_or_default())
    }
}

/// The gradients of the pair of a linear layer, if it has one; adds the pair's part to `dx`.
fn pair(
    linear: &BlockLinear<'_>,
    x: &[f32],
    low: &[f32],
    (grad, columns): (&[f32], Columns),
    dx: Option<&mut [f32]>,
) -> Result<PairGradient> {
    let Some(lora) = &linear.lora else { return Ok(None) };
    let wanted = FactorsWanted { a: true, b: true };
    let factors = with_pair(lora, |pair| pair.backward(x, low, grad, columns, dx, wanted))?;
    Ok(Some((slices::tensor(factors.a, lora.a.shape()), slices::tensor(factors.b, lora.b.shape()))))
}

fn norm_gradient(x: &[f32], weight: &Tensor, grad: &[f32], eps: f64, also: &[f32]) -> Result<Vec<f32>> {
    let weight = slices::read(weight);
    Ok(rms_norm::input_gradient(x, weight.as_slice()?, grad, eps, Some(also)))
}
