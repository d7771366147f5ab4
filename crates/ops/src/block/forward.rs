//! The forward of a block. In: the residual stream; out: the residual stream after the block, and what its backward needs if
//! that is asked for. Invariant: if it is not, no intermediate result outlives the half of the block that made it.

use super::{Activations, Block, BlockLinear, Linears, Saved, whole, with_pair};
use crate::attention::flash::Inputs;
use crate::gemm::Update;
use crate::linear::{Columns, product};
use crate::weight::Weight;
use crate::{rms_norm, slices, swiglu};
use candle_core::{Result, Tensor};

/// The block on `x` `[T, d]`, f32 on the CPU, each sequence attending to itself.
///
/// Errors when shapes do not fit. Cost: 14 products of the weights' sizes and the tokens, two operations each.
pub fn forward(block: &Block<'_>, x: &Tensor) -> Result<Tensor> {
    forward_attending(block, x, |q, k, v| Ok(block.attention(q, k, v).forward().0))
}

/// As [`forward`], with attention left to `attend`: rotated queries, rotated keys and values in, outputs
/// `[T, heads * head_dim]` out. For cached decoding; it cannot be differentiated.
pub fn forward_attending(
    block: &Block<'_>,
    x: &Tensor,
    attend: impl FnOnce(&[f32], &[f32], &[f32]) -> Result<Vec<f32>>,
) -> Result<Tensor> {
    let input = slices::read(x);
    let attention = attention_half(block, x, input.as_slice()?, |q, k, v| Ok((attend(&q, &k, &v)?, ())))?;
    let middle = attention.output;
    let mlp = mlp_half(block, &middle, drop)?;
    Ok(slices::tensor(mlp.output, x.shape()))
}

/// As [`forward`], and what [`super::backward`] needs.
pub fn forward_saving(block: &Block<'_>, x: &Tensor) -> Result<(Tensor, Saved)> {
    let input = slices::read(x);
    let keep = |values| Activations::new(values, block.positions.len(), block.rounds());
    let attention = attention_half(block, x, input.as_slice()?, |q, k, v| {
        let (out, lse) = block.attention(&q, &k, &v).forward();
        Ok((out, (keep(q), keep(k), keep(v), lse)))
    })?;
    let mlp = mlp_half(block, &attention.output, keep)?;
    let (q, k, v, lse) = attention.kept;
    let attended = keep(if block.linears.o.lora.is_some() { attention.attended } else { Vec::new() });
    let ([low_q, low_k, low_v], [gate, up]) = (attention.low_qkv, mlp.low_gate_up);
    let low = Linears { q: low_q, k: low_k, v: low_v, o: attention.low_o, gate, up, down: mlp.low_down };
    let saved = Saved { q, k, v, lse, attended, middle: attention.output, gate_up: mlp.kept, low };
    Ok((slices::tensor(mlp.output, x.shape()), saved))
}

struct AttentionHalf<K> {
    /// `x + O a`.
    output: Vec<f32>,
    attended: Vec<f32>,
    kept: K,
    low_qkv: [Vec<f32>; 3],
    low_o: Vec<f32>,
}

/// `attend` gets queries, keys and values, and gives the outputs and what it kept.
fn attention_half<K>(
    block: &Block<'_>,
    x: &Tensor,
    input: &[f32],
    attend: impl FnOnce(Vec<f32>, Vec<f32>, Vec<f32>) -> Result<(Vec<f32>, K)>,
) -> Result<AttentionHalf<K>> {
    let (q_width, kv_width, _) = block.widths(x)?;
    let (tokens, l) = (block.positions.len(), &block.linears);
    let normed = norm(input, block.attention_norm, block.eps)?;
    let stacked = Columns { stride: q_width + 2 * kv_width, at: 0 };
    let layers = [(&l.q, 0), (&l.k, q_width), (&l.v, q_width + kv_width)];
    let (qkv, low_qkv) = project(block.qkv, layers, &normed, tokens, stacked.stride)?;
    drop(normed);
    let turned = |width: usize, at: usize| {
        let mut out = vec![0.0; tokens * width];
        let from = Columns { at, ..stacked };
        block.rope.rotate((&mut out, whole(width)), (&qkv, from), width, block.positions, 1.0)?;
        Ok::<_, candle_core::Error>(out)
    };
    let (q, k) = (turned(q_width, 0)?, turned(kv_width, q_width)?);
    let mut v = Vec::with_capacity(tokens * kv_width);
    qkv.chunks_exact(stacked.stride).for_each(|row| v.extend_from_slice(&row[q_width + kv_width..]));
    drop(qkv);
    let (attended, kept) = attend(q, k, v)?;
    let mut output = input.to_vec();
    let low_o = add_linear(&l.o, &attended, tokens, &mut output)?;
    Ok(AttentionHalf { output, attended, kept, low_qkv, low_o })
}

struct MlpHalf<K> {
    output: Vec<f32>,
    kept: K,
    low_gate_up: [Vec<f32>; 2],
    low_down: Vec<f32>,
}

/// `keep` gets the gate and up projections beside each other, `[T, 2 f]`.
fn mlp_half<K>(block: &Block<'_>, middle: &[f32], keep: impl FnOnce(Vec<f32>) -> K) -> Result<MlpHalf<K>> {
    let (tokens, l) = (block.positions.len(), &block.linears);
    let f = l.gate.weight.dims()?.0;
    let normed = norm(middle, block.mlp_norm, block.eps)?;
    let (gate_up, low_gate_up) = project(block.gate_up, [(&l.gate, 0), (&l.up, f)], &normed, tokens, 2 * f)?;
    drop(normed);
    let hidden = swiglu::of_rows(&gate_up, f);
    let kept = keep(gate_up);
    let mut output = middle.to_vec();
    let low_down = add_linear(&l.down, &hidden, tokens, &mut output)?;
    Ok(MlpHalf { output, kept, low_gate_up, low_down })
}

impl<'a> Block<'a> {
    /// Attention within the pack.
    pub(super) fn attention<'b>(&'b self, q: &'b [f32], k: &'b [f32], v: &'b [f32]) -> Inputs<'b>
    where
        'a: 'b,
    {
        Inputs { q, k, v, segments: self.segments, shape: self.shape }
    }
}

/// `rms_norm(x) * weight`.
pub(super) fn norm(x: &[f32], weight: &Tensor, eps: f64) -> Result<Vec<f32>> {
    let weight = slices::read(weight);
    Ok(rms_norm::forward(x, weight.as_slice()?, eps))
}

/// The linear `layers` of `x`, each from its column on, beside each other in rows of `stride`; and their pairs' low-rank
/// parts.
fn project<const N: usize>(
    stack: Option<&Weight>,
    layers: [(&BlockLinear<'_>, usize); N],
    x: &[f32],
    tokens: usize,
    stride: usize,
) -> Result<(Vec<f32>, [Vec<f32>; N])> {
    let mut out = match stack {
        Some(stack) => stack.with(|rows| product::forward(x, rows, None, tokens))?,
        None => vec![0.0; tokens * stride],
    };
    let mut low = [const { Vec::new() }; N];
    for ((linear, at), low) in layers.into_iter().zip(&mut low) {
        let columns = Columns { stride, at };
        if stack.is_none() {
            linear.weight.with(|rows| product::forward_into(x, rows, tokens, &mut out, columns, Update::Replace))?;
        }
        *low = add_bias_and_pair(linear, x, &mut out, columns)?;
    }
    Ok((out, low))
}

/// Adds a linear layer of `x` to `out`; returns its pair's low-rank part.
fn add_linear(linear: &BlockLinear<'_>, x: &[f32], tokens: usize, out: &mut [f32]) -> Result<Vec<f32>> {
    let columns = whole(linear.weight.dims()?.0);
    linear.weight.with(|rows| product::forward_into(x, rows, tokens, out, columns, Update::Add))?;
    add_bias_and_pair(linear, x, out, columns)
}

/// Adds what a linear layer has besides its weight; returns its pair's low-rank part.
fn add_bias_and_pair(linear: &BlockLinear<'_>, x: &[f32], out: &mut [f32], columns: Columns) -> Result<Vec<f32>> {
    if let Some(bias) = linear.bias {
        let bias = slices::read(bias);
        let bias = bias.as_slice()?;
        for row in out.chunks_exact_mut(columns.stride) {
            row[columns.at..].iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
    linear.lora.as_ref().map_or(Ok(Vec::new()), |lora| with_pair(lora, |pair| pair.forward(x, out, columns)))
}
