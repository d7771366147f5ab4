//! The forward of a block. In: the residual stream; out: the residual stream after the block. Invariant: without a place
//! to save to, nothing outlives the half of the block that made it.

use super::{Block, DOWN, GATE, K, LINEARS, O, Q, Saved, UP, V, whole, with_pair};
use crate::attention::flash::Inputs;
use crate::gemm::Update;
use crate::linear::{Columns, product};
use crate::weight::Weight;
use crate::{rms_norm, slices, swiglu};
use candle_core::{Result, Tensor};

/// How attention is computed from rotated queries, keys and values: outputs `[T, heads * head_dim]`.
pub type Attend<'a> = &'a mut dyn FnMut(&[f32], &[f32], &[f32]) -> Result<Vec<f32>>;

/// The block on `x` `[T, d]`, f32 on the CPU. With `keep`, also what [`super::backward`] needs. `attend` replaces attention
/// within the pack, for cached decoding; it cannot be differentiated.
///
/// Errors when shapes do not fit. Cost: 14 products of the weights' sizes and the tokens, two operations each.
pub fn forward(
    block: &Block<'_>,
    x: &Tensor,
    keep: bool,
    attend: Option<Attend<'_>>,
) -> Result<(Tensor, Option<Saved>)> {
    let (q_width, kv_width, f) = block.widths(x)?;
    let tokens = x.dims2()?.0;
    let input = slices::read(x);
    let input = input.as_slice()?;
    let mut low: [Vec<f32>; LINEARS] = Default::default();

    let normed = norm(input, block.attention_norm, block.eps)?;
    let stacked = Columns { stride: q_width + 2 * kv_width, at: 0 };
    let starts = [(Q, 0), (K, q_width), (V, q_width + kv_width)];
    let qkv = project(block, block.qkv, &starts, &normed, stacked.stride, &mut low)?;
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
    let (attended, lse) = match attend {
        Some(attend) => (attend(&q, &k, &v)?, Vec::new()),
        None => Inputs { q: &q, k: &k, v: &v, segments: block.segments, shape: block.shape }.forward(),
    };
    let (q, k, v) = if keep { (q, k, v) } else { Default::default() };
    let mut middle = input.to_vec();
    low[O] = add_linear(block, O, &attended, &mut middle)?;
    let attended = if keep && block.linears[O].lora.is_some() { attended } else { Vec::new() };

    let normed = norm(&middle, block.mlp_norm, block.eps)?;
    let gate_up = project(block, block.gate_up, &[(GATE, 0), (UP, f)], &normed, 2 * f, &mut low)?;
    drop(normed);
    let hidden = swiglu::of_rows(&gate_up, f);
    let gate_up = if keep { gate_up } else { Vec::new() };
    let mut out = middle.clone();
    low[DOWN] = add_linear(block, DOWN, &hidden, &mut out)?;
    let saved = keep.then_some(Saved { q, k, v, lse, attended, middle, gate_up, low });
    Ok((slices::tensor(out, x.shape()), saved))
}

/// `rms_norm(x) * weight`.
pub(super) fn norm(x: &[f32], weight: &Tensor, eps: f64) -> Result<Vec<f32>> {
    let weight = slices::read(weight);
    Ok(rms_norm::forward(x, weight.as_slice()?, eps))
}

/// The linear layers `starts` (which, at which column) of `x`, beside each other in rows of `stride`.
fn project(
    block: &Block<'_>,
    stack: Option<&Weight>,
    starts: &[(usize, usize)],
    x: &[f32],
    stride: usize,
    low: &mut [Vec<f32>; LINEARS],
) -> Result<Vec<f32>> {
    let tokens = block.positions.len();
    let mut out = match stack {
        Some(stack) => stack.with(|rows| product::forward(x, rows, None, tokens))?,
        None => vec![0.0; tokens * stride],
    };
    for &(which, at) in starts {
        let (linear, columns) = (&block.linears[which], Columns { stride, at });
        if stack.is_none() {
            linear.weight.with(|rows| product::forward_into(x, rows, tokens, &mut out, columns, Update::Replace))?;
        }
        if let Some(bias) = linear.bias {
            add_bias(bias, &mut out, columns)?;
        }
        if let Some(lora) = &linear.lora {
            low[which] = with_pair(lora, |pair| pair.forward(x, &mut out, columns))?;
        }
    }
    Ok(out)
}

/// Adds linear layer `which` of `x` to `out`; returns its pair's low-rank part.
fn add_linear(block: &Block<'_>, which: usize, x: &[f32], out: &mut [f32]) -> Result<Vec<f32>> {
    let linear = &block.linears[which];
    let columns = whole(linear.weight.dims()?.0);
    let tokens = block.positions.len();
    linear.weight.with(|rows| product::forward_into(x, rows, tokens, out, columns, Update::Add))?;
    if let Some(bias) = linear.bias {
        add_bias(bias, out, columns)?;
    }
    linear.lora.as_ref().map_or(Ok(Vec::new()), |lora| with_pair(lora, |pair| pair.forward(x, out, columns)))
}

fn add_bias(bias: &Tensor, out: &mut [f32], columns: Columns) -> Result<()> {
    let bias = slices::read(bias);
    let bias = bias.as_slice()?;
    for row in out.chunks_exact_mut(columns.stride) {
        row[columns.at..].iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
    Ok(())
}
