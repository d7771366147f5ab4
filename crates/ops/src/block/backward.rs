//! The backward of a block. In: its input, what the forward kept, and the gradient of its output; out: the gradients of
//! its input and of the low-rank pairs. Invariant: nothing is computed that no wanted gradient needs.

use super::forward::{is_one, norm, turn};
use super::{Activations, Block, BlockLinear, Linears, Saved, Sharing, Widths, whole, with_pair};
use crate::attention::flash::Want;
use crate::linear::{Columns, Factor, FactorsWanted, product};
use crate::weight::Weight;
use crate::{activation, rms_norm, simd, slices};
use candle_core::{Result, Tensor, bail};
use std::borrow::Cow;

/// The gradients of a low-rank pair, dA and dB, of those that are trained; None where there is no pair, or its gradient
/// is not wanted.
pub type PairGradient = Option<[Option<Tensor>; 2]>;

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
    let w = block.widths(x)?;
    if grad.dims() != x.dims() {
        bail!("block: output is {:?} but its gradient {:?}", x.shape(), grad.shape());
    }
    let (d, tokens, l, norms) = (x.dims2()?.1, block.positions.len(), &block.linears, &block.norms);
    let (input, grad) = (slices::read(x), slices::read(grad));
    let (input, grad) = (input.as_slice()?, grad.as_slice()?);
    let qkv_adapted = adapted(&[&l.q, &l.k, &l.v, &l.qkv]);
    let Saved { q, k, v, lse, attended, projected, middle, gate_up, down, low, routes } = saved;
    let mut found = BlockGradients::default();

    // MLP half: d middle = grad + norm'(Gate, Up).
    let through = want_input || qkv_adapted || adapted(&[&l.o]);
    let d_last = before_sum(block, grad, norms.after_mlp, &down)?;
    drop(down);
    let d_normed = match (&block.experts, &routes) {
        (Some(_), _) if !through => None,
        (Some(experts), Some(routes)) => {
            let normed = norm(&middle, norms.mlp, block.eps)?;
            Some(experts.backward(block.activation, &normed, routes, &d_last, tokens)?)
        }
        _ => mlp_gradient(block, w, &middle, (gate_up, &low), d_last, through, &mut found)?,
    };
    let Some(d_normed) = d_normed else { return Ok(found) };
    let d_middle = norm_gradient(&middle, norms.mlp, d_normed, block.eps, Some(grad))?;
    drop(middle);

    // Attention half: d x = d middle + norm'(Q, K, V).
    let d_last = before_sum(block, &d_middle, norms.after_attention, &projected)?;
    drop(projected);
    let attended = attended.into_values();
    if !want_input && !qkv_adapted {
        found.pairs.o = pair(l.output()?, &attended, &low.o, (&d_last, whole(d)), None)?;
        return Ok(found);
    }
    let d_attended;
    (d_attended, found.pairs.o) = single(l.output()?, &attended, &low.o, &d_last, tokens)?;
    drop((attended, d_last));
    let wanted = |linear| want_input || adapted(&[linear, &l.qkv]);
    let want = Want { q: wanted(&l.q), k: wanted(&l.k), v: wanted(&l.v) };
    let stride = w.q + 2 * w.kv;
    let mut d_qkv = vec![0.0; tokens * stride];
    attention_gradient(block, w, ([q, k], v), &lse, &d_attended, want, &mut d_qkv)?;
    drop(d_attended);
    let normed = if qkv_adapted { norm(input, norms.attention, block.eps)? } else { Cow::Borrowed(&[][..]) };
    let low_parts = [&*low.q, &*low.k, &*low.v, &*low.qkv];
    let stacked = Stacked {
        stack: block.qkv,
        layers: l.of_attention(w),
        low: low_parts,
        x: &normed,
        grad: &d_qkv,
        stride,
        tokens,
    };
    let d_normed;
    (d_normed, [found.pairs.q, found.pairs.k, found.pairs.v, found.pairs.qkv]) = stacked.backward(want_input)?;
    if let Some(d_normed) = d_normed {
        let d_input = norm_gradient(input, norms.attention, d_normed, block.eps, Some(&d_middle))?;
        found.input = Some(slices::tensor(d_input, x.shape()));
    }
    Ok(found)
}

/// Whether any of these layers has a pair.
fn adapted(layers: &[&Option<BlockLinear<'_>>]) -> bool {
    layers.iter().any(|linear| linear.is_some_and(|linear| linear.lora.is_some()))
}

/// The gradient of the MLP's input from that of its last layer, and those of its pairs; None where `through` says that
/// it is not needed, and no pair of the first layers needs it.
fn mlp_gradient(
    block: &Block<'_>,
    w: Widths,
    middle: &[f32],
    (gate_up, low): (Activations, &Linears<Vec<f32>>),
    d_last: Cow<'_, [f32]>,
    through: bool,
    found: &mut BlockGradients,
) -> Result<Option<Vec<f32>>> {
    let (d, tokens, l) = (d_last.len() / block.positions.len().max(1), block.positions.len(), &block.linears);
    let gate_up_adapted = adapted(&[&l.gate, &l.up, &l.gate_up]);
    let mut gate_up = gate_up.into_values();
    let hidden = if adapted(&[&l.down]) { activation::of_rows(block.activation, &gate_up, w.f) } else { Vec::new() };
    if !through && !gate_up_adapted {
        found.pairs.down = pair(l.last()?, &hidden, &low.down, (&d_last, whole(d)), None)?;
        return Ok(None);
    }
    let d_hidden;
    (d_hidden, found.pairs.down) = single(l.last()?, &hidden, &low.down, &d_last, tokens)?;
    drop((hidden, d_last));
    activation::rows_gradient(block.activation, &mut gate_up, &d_hidden, w.f);
    drop(d_hidden);
    let normed = if gate_up_adapted { norm(middle, block.norms.mlp, block.eps)? } else { Cow::Borrowed(&[][..]) };
    let stacked = Stacked {
        stack: block.gate_up,
        layers: l.of_mlp(w),
        low: [&*low.gate, &*low.up, &*low.gate_up],
        x: &normed,
        grad: &gate_up,
        stride: w.gate_up,
        tokens,
    };
    let d_normed;
    (d_normed, [found.pairs.gate, found.pairs.up, found.pairs.gate_up]) = stacked.backward(through)?;
    Ok(d_normed)
}

/// The gradient of a half's last layer, from that of the residual stream: through the factor, and the norm if there is
/// one.
fn before_sum<'g>(
    block: &Block<'_>,
    grad: &'g [f32],
    after: Option<&Tensor>,
    projected: &[f32],
) -> Result<Cow<'g, [f32]>> {
    let mut grad = Cow::Borrowed(grad);
    if !is_one(block.residual) {
        simd::scale(grad.to_mut(), block.residual);
    }
    Ok(match after {
        None => grad,
        Some(_) => Cow::Owned(norm_gradient(projected, after, grad.into_owned(), block.eps, None)?),
    })
}

/// Fills `d_qkv`, rows of queries', keys' and values' columns, with the gradients of the projections where they are
/// wanted.
fn attention_gradient(
    block: &Block<'_>,
    w: Widths,
    ([q, k], v): ([Vec<f32>; 2], Activations),
    lse: &[f32],
    d_attended: &[f32],
    want: Want,
    d_qkv: &mut [f32],
) -> Result<()> {
    let norms = &block.norms;
    let v = v.into_values();
    let (rope_q, rope_k) = (block.rope.map(|rope| rope.q), block.rope.map(|rope| rope.k));
    let turned = |raw: &[f32], width, norm: Option<&Tensor>, rope| {
        norm.map(|norm| turn(block, raw, width, Some(norm), rope)).transpose()
    };
    let (turned_q, turned_k) = (turned(&q, w.q, norms.q, rope_q)?, turned(&k, w.kv, norms.k, rope_k)?);
    let inputs = block.attention(turned_q.as_deref().unwrap_or(&q), turned_k.as_deref().unwrap_or(&k), &v);
    let gradients = inputs.backward(d_attended, lse, want);
    drop((turned_q, turned_k));
    let stride = w.q + 2 * w.kv;
    let sides = [(gradients.q, 0, w.q, norms.q, rope_q, &q), (gradients.k, w.q, w.kv, norms.k, rope_k, &k)];
    for (gradient, at, width, norm, rope, raw) in sides {
        let Some(gradient) = gradient else { continue };
        let to = Columns { stride, at };
        match (norm, rope) {
            (None, Some(rope)) => rope.rotate((d_qkv, to), (&gradient, whole(width)), width, block.positions, -1.0)?,
            (None, None) => put_columns(d_qkv, to, &gradient, width),
            (Some(_), rope) => {
                let mut straight = gradient;
                if let Some(rope) = rope {
                    let from = std::mem::replace(&mut straight, vec![0.0; raw.len()]);
                    let (out, from) = ((&mut *straight, whole(width)), (&*from, whole(width)));
                    rope.rotate(out, from, width, block.positions, -1.0)?;
                }
                put_columns(d_qkv, to, &norm_gradient(raw, norm, straight, block.eps, None)?, width);
            }
        }
    }
    if let Some(gradient) = &gradients.v {
        put_columns(d_qkv, Columns { stride, at: w.q + w.kv }, gradient, w.kv);
    }
    Ok(())
}

/// Copies a matrix `width` wide into columns of another.
fn put_columns(out: &mut [f32], to: Columns, x: &[f32], width: usize) {
    for (row, x) in out.chunks_exact_mut(to.stride).zip(x.chunks_exact(width)) {
        row[to.at..to.at + width].copy_from_slice(x);
    }
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
    /// Each with the column of `grad` where its own begin.
    layers: Sharing<'a, 'a, N>,
    /// The low-rank part of each one's pair.
    low: [&'a [f32]; N],
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
        for ((&(linear, at), low), found) in self.layers.iter().zip(self.low).zip(&mut pairs) {
            let Some(linear) = linear else { continue };
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
        for &(linear, at) in &self.layers {
            let Some(linear) = linear else { continue };
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
    let trained = |factor| lora.identity != Some(factor);
    let wanted = FactorsWanted { a: trained(Factor::A), b: trained(Factor::B) };
    let factors = with_pair(lora, |pair| pair.backward(x, low, grad, columns, dx, wanted))?;
    let a = wanted.a.then(|| slices::tensor(factors.a, lora.a.shape()));
    Ok(Some([a, wanted.b.then(|| slices::tensor(factors.b, lora.b.shape()))]))
}

/// The gradient of `x` from that of its norm, plus `also`; without a norm, that is the sum of the two.
fn norm_gradient(
    x: &[f32],
    weight: Option<&Tensor>,
    mut grad: Vec<f32>,
    eps: f64,
    also: Option<&[f32]>,
) -> Result<Vec<f32>> {
    if let Some(weight) = weight {
        let weight = slices::read(weight);
        return Ok(rms_norm::input_gradient(x, weight.as_slice()?, &grad, eps, also));
    }
    if let Some(also) = also {
        simd::axpy(&mut grad, 1.0, also);
    }
    Ok(grad)
}
