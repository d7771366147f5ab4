//! The forward of a block. In: the residual stream; out: the residual stream after the block, and what its backward
//! needs if that is asked for. Invariant: if it is not, no intermediate result outlives the half of the block that made
//! it.

use super::{Activations, Block, BlockLinear, Linears, Saved, Sharing, whole, with_pair};
use crate::attention::flash::Inputs;
use crate::gemm::Update;
use crate::linear::{Columns, product};
use crate::mixture::Routes;
use crate::weight::Weight;
use crate::{RopeTable, activation, rms_norm, simd, slices};
use candle_core::{Result, Tensor};
use std::borrow::Cow;

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
    let attention =
        attention_half(block, x, input.as_slice()?, |[q, k], v| Ok((attend(&q.turned, &k.turned, &v)?, ())))?;
    let middle = attention.output;
    let mlp = mlp_half(block, x, &middle, drop)?;
    Ok(slices::tensor(mlp.output, x.shape()))
}

/// As [`forward`], and what [`super::backward`] needs.
pub fn forward_saving(block: &Block<'_>, x: &Tensor) -> Result<(Tensor, Saved)> {
    let input = slices::read(x);
    let keep = |values| Activations::new(values, block.positions.len(), block.rounds());
    let attention = attention_half(block, x, input.as_slice()?, |[q, k], v| {
        let (out, lse) = block.attention(&q.turned, &k.turned, &v).forward();
        let [q, k] = [q, k].map(|heads| heads.raw.unwrap_or(heads.turned));
        Ok((out, (q, k, keep(v), lse)))
    })?;
    let mlp = mlp_half(block, x, &attention.output, keep)?;
    let (q, k, v, lse) = attention.kept;
    let attended = keep(if block.linears.output()?.lora.is_some() { attention.attended } else { Vec::new() });
    let ([low_q, low_k, low_v, low_qkv], [gate, up, gate_up]) = (attention.low, mlp.low);
    let low = Linears {
        q: low_q,
        k: low_k,
        v: low_v,
        o: attention.low_o,
        gate,
        up,
        down: mlp.low_down,
        qkv: low_qkv,
        gate_up,
    };
    let (projected, down) = (attention.projected, mlp.projected);
    let (middle, gate_up, routes) = (attention.output, mlp.kept, mlp.routes);
    let saved = Saved { q, k, v, lse, attended, projected, middle, gate_up, down, low, routes };
    Ok((slices::tensor(mlp.output, x.shape()), saved))
}

struct AttentionHalf<K> {
    /// The residual stream after attention.
    output: Vec<f32>,
    attended: Vec<f32>,
    /// `O a`, where a norm follows.
    projected: Vec<f32>,
    kept: K,
    low: [Vec<f32>; 4],
    low_o: Vec<f32>,
}

/// Queries or keys as attention takes them, and as they were projected where they were normed.
pub(super) struct Heads {
    pub(super) turned: Vec<f32>,
    pub(super) raw: Option<Vec<f32>>,
}

/// `attend` gets queries, keys and values, and gives the outputs and what it kept.
fn attention_half<K>(
    block: &Block<'_>,
    x: &Tensor,
    input: &[f32],
    attend: impl FnOnce([Heads; 2], Vec<f32>) -> Result<(Vec<f32>, K)>,
) -> Result<AttentionHalf<K>> {
    let w = block.widths(x)?;
    let (tokens, l) = (block.positions.len(), &block.linears);
    let normed = norm(input, block.norms.attention, block.eps)?;
    let stacked = Columns { stride: w.q + 2 * w.kv, at: 0 };
    let (qkv, low) = project(block.qkv, l.of_attention(w), &normed, tokens, stacked.stride)?;
    drop(normed);
    let (rope_q, rope_k) = (block.rope.map(|rope| rope.q), block.rope.map(|rope| rope.k));
    let q = heads(block, (&qkv, stacked), w.q, block.norms.q, rope_q)?;
    let k = heads(block, (&qkv, Columns { at: w.q, ..stacked }), w.kv, block.norms.k, rope_k)?;
    let v = columns(&qkv, Columns { at: w.q + w.kv, ..stacked }, w.kv);
    drop(qkv);
    let (attended, kept) = attend([q, k], v)?;
    let (output, projected, low_o) =
        add_half(block, input, l.output()?, &attended, tokens, block.norms.after_attention)?;
    Ok(AttentionHalf { output, attended, projected, kept, low, low_o })
}

/// Queries or keys, from their columns of the projections: normed and turned.
fn heads(
    block: &Block<'_>,
    (x, from): (&[f32], Columns),
    width: usize,
    norm: Option<&Tensor>,
    rope: Option<&RopeTable>,
) -> Result<Heads> {
    if norm.is_some() {
        let raw = columns(x, from, width);
        return Ok(Heads { turned: turn(block, &raw, width, norm, rope)?, raw: Some(raw) });
    }
    let Some(rope) = rope else { return Ok(Heads { turned: columns(x, from, width), raw: None }) };
    let mut turned = vec![0.0; block.positions.len() * width];
    rope.rotate((&mut turned, whole(width)), (x, from), width, block.positions, 1.0)?;
    Ok(Heads { turned, raw: None })
}

/// Queries or keys as they were projected, normed and turned.
pub(super) fn turn(
    block: &Block<'_>,
    raw: &[f32],
    width: usize,
    norm: Option<&Tensor>,
    rope: Option<&RopeTable>,
) -> Result<Vec<f32>> {
    let normed = self::norm(raw, norm, block.eps)?;
    let Some(rope) = rope else { return Ok(normed.into_owned()) };
    let mut out = vec![0.0; raw.len()];
    rope.rotate((&mut out, whole(width)), (&normed, whole(width)), width, block.positions, 1.0)?;
    Ok(out)
}

/// Some columns of a matrix, as a matrix of their own.
fn columns(x: &[f32], from: Columns, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / from.stride.max(1) * width);
    x.chunks_exact(from.stride).for_each(|row| out.extend_from_slice(&row[from.at..from.at + width]));
    out
}

struct MlpHalf<K> {
    output: Vec<f32>,
    /// `Down h`, where a norm follows.
    projected: Vec<f32>,
    kept: K,
    low: [Vec<f32>; 3],
    low_down: Vec<f32>,
    routes: Option<Routes>,
}

/// `keep` gets the gate and up projections beside each other, `[T, 2 f]`.
fn mlp_half<K>(block: &Block<'_>, x: &Tensor, middle: &[f32], keep: impl FnOnce(Vec<f32>) -> K) -> Result<MlpHalf<K>> {
    let (tokens, l, w) = (block.positions.len(), &block.linears, block.widths(x)?);
    let normed = norm(middle, block.norms.mlp, block.eps)?;
    if let Some(experts) = &block.experts {
        let (sum, routes) = experts.forward(block.activation, &normed, tokens)?;
        let mut output = middle.to_vec();
        simd::axpy(&mut output, block.residual, &norm(&sum, block.norms.after_mlp, block.eps)?);
        let projected = if block.norms.after_mlp.is_some() { sum } else { Vec::new() };
        let (low, low_down) = ([const { Vec::new() }; 3], Vec::new());
        return Ok(MlpHalf { output, projected, kept: keep(Vec::new()), low, low_down, routes: Some(routes) });
    }
    let (gate_up, low) = project(block.gate_up, l.of_mlp(w), &normed, tokens, w.gate_up)?;
    drop(normed);
    let hidden = activation::of_rows(block.activation, &gate_up, w.f);
    let kept = keep(gate_up);
    let (output, projected, low_down) = add_half(block, middle, l.last()?, &hidden, tokens, block.norms.after_mlp)?;
    Ok(MlpHalf { output, projected, kept, low, low_down, routes: None })
}

/// The residual stream `x` with a half's last layer of `inner` added: times the block's factor, after its norm if there
/// is one. Also the layer's output, where it is normed, and its pair's low-rank part.
fn add_half(
    block: &Block<'_>,
    x: &[f32],
    linear: &BlockLinear<'_>,
    inner: &[f32],
    tokens: usize,
    after: Option<&Tensor>,
) -> Result<(Vec<f32>, Vec<f32>, Vec<f32>)> {
    let mut output = x.to_vec();
    if after.is_none() && is_one(block.residual) {
        let low = add_linear(linear, inner, tokens, &mut output)?;
        return Ok((output, Vec::new(), low));
    }
    let mut projected = vec![0.0; x.len()];
    let low = add_linear(linear, inner, tokens, &mut projected)?;
    simd::axpy(&mut output, block.residual, &norm(&projected, after, block.eps)?);
    Ok((output, if after.is_some() { projected } else { Vec::new() }, low))
}

/// Whether multiplying by `x` changes nothing.
#[allow(clippy::float_cmp)] // a value that was given, not computed
pub(super) fn is_one(x: f32) -> bool {
    x == 1.0
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

/// `rms_norm(x) * weight`, of pieces as long as the weight; without one, `x` itself.
pub(super) fn norm<'x>(x: &'x [f32], weight: Option<&Tensor>, eps: f64) -> Result<Cow<'x, [f32]>> {
    let Some(weight) = weight else { return Ok(Cow::Borrowed(x)) };
    let weight = slices::read(weight);
    Ok(Cow::Owned(rms_norm::forward(x, weight.as_slice()?, eps)))
}

/// The linear `layers` of `x`, each from its column on, beside each other in rows of `stride`; and their pairs'
/// low-rank parts.
fn project<const N: usize>(
    stack: Option<&Weight>,
    layers: Sharing<'_, '_, N>,
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
        let Some(linear) = linear else { continue };
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
    let Some(lora) = &linear.lora else { return Ok(Vec::new()) };
    if let Some(owners) = lora.owners {
        let (rank, inputs) = lora.a.dims2()?;
        owners.check(x.len() / inputs.max(1), rank)?;
    }
    with_pair(lora, |pair| pair.forward(x, out, columns))
}
