//! A whole decoder block as one operation with its analytic backward: what training and inference run on the CPU when
//! nothing but an adapter is trained. In: the residual stream `[T, d]` and the block's weights; out: the residual
//! stream after the block, and in backward the gradients of its input and of every low-rank pair. Invariant: equal to
//! the same block composed of this crate's single operations. It is faster than those for several reasons: there is no
//! tape, no gradient is filled with zeros and added to, weights that share an input take one product, and what is cheap
//! to compute again (norms, the gated activation, attention's probabilities) is not kept.
//!
//! `x2 = x + O a`, `a = attention(rope(Q n), rope(K n), V n)`, `n = rms_norm(x)`; then `y = x2 + Down h`,
//! `h = silu(Gate m) * Up m`, `m = rms_norm(x2)`; each of the seven linear layers with a low-rank pair if it has one.

mod backward;
mod forward;
#[cfg(test)]
mod tests;

pub use backward::{BlockGradients, PairGradient, backward};
pub use forward::{forward, forward_attending, forward_saving};

use crate::bf16::Rounded;
use crate::linear::{Columns, LoraInput, Pair};
use crate::weight::Weight;
use crate::{AttentionShape, RopeTable, Segments, slices};
use candle_core::{Result, Tensor, bail};
use half::bf16;

/// One of something for each linear layer of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the layers' names
pub struct Linears<T> {
    pub q: T,
    pub k: T,
    pub v: T,
    pub o: T,
    pub gate: T,
    pub up: T,
    pub down: T,
}

impl<T> Linears<T> {
    /// All of them, in the order of the forward pass.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let Self { q, k, v, o, gate, up, down } = self;
        [q, k, v, o, gate, up, down].into_iter()
    }

    /// What `f` gives for each.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Linears<U> {
        let Self { q, k, v, o, gate, up, down } = self;
        Linears { q: f(q), k: f(k), v: f(v), o: f(o), gate: f(gate), up: f(up), down: f(down) }
    }
}

/// A linear layer of a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockLinear<'a> {
    /// `[out, in]`, frozen.
    pub weight: &'a Weight,
    /// `[out]`, frozen.
    pub bias: Option<&'a Tensor>,
    /// Its low-rank pair.
    pub lora: Option<LoraInput<'a>>,
}

/// A block's weights and what it is applied to.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Weight of the norm before attention, `[d]`.
    pub attention_norm: &'a Tensor,
    /// Weight of the norm before the MLP, `[d]`.
    pub mlp_norm: &'a Tensor,
    /// Its linear layers.
    pub linears: Linears<BlockLinear<'a>>,
    /// The weights of query, key and value below each other, for one product instead of three.
    pub qkv: Option<&'a Weight>,
    /// The weights of gate and up below each other.
    pub gate_up: Option<&'a Weight>,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Heads and masking.
    pub shape: AttentionShape,
    /// Rotary tables.
    pub rope: &'a RopeTable,
    /// Position of each token.
    pub positions: &'a [u32],
    /// Sequences of the pack.
    pub segments: &'a Segments,
}

/// What a forward leaves for its backward: about `2 d + 2 kv + d + 2 f` numbers a token.
#[derive(Debug)]
pub struct Saved {
    /// Rotated queries and keys, and values.
    q: Activations,
    k: Activations,
    v: Activations,
    /// Logarithms of the softmax's normalisers, `[T, heads]`.
    lse: Vec<f32>,
    /// Output of attention; kept only for the pair of the output projection.
    attended: Activations,
    /// The residual stream between attention and MLP.
    middle: Vec<f32>,
    /// Gate and up projections beside each other, `[T, 2 f]`.
    gate_up: Activations,
    /// Each pair's `dropout(x) A^T`.
    low: Linears<Vec<f32>>,
}

/// Activations between forward and backward.
#[derive(Debug)]
enum Activations {
    /// As they are.
    Whole(Vec<f32>),
    /// Rounded, where products round them too.
    Rounded(Rounded),
}

impl Activations {
    /// `rows` rows, rounded to bf16 if `round`.
    fn new(values: Vec<f32>, rows: usize, round: bool) -> Self {
        if !round {
            return Self::Whole(values);
        }
        let width = values.len().checked_div(rows).unwrap_or(0);
        Self::Rounded(Rounded::new(&values, rows, width))
    }

    fn into_values(self) -> Vec<f32> {
        match self {
            Self::Whole(values) => values,
            Self::Rounded(rounded) => rounded.expand(),
        }
    }
}

impl Block<'_> {
    /// True when products are in bf16: then activations are kept in bf16.
    fn rounds(&self) -> bool {
        self.linears.gate.weight.is_bf16()
    }

    /// Bytes that a forward keeps per token.
    pub fn bytes_kept_per_token(&self) -> Result<usize> {
        let (q, d) = self.linears.q.weight.dims()?;
        let (kv, f) = (self.linears.k.weight.dims()?.0, self.linears.gate.weight.dims()?.0);
        let attended = if self.linears.o.lora.is_some() { q } else { 0 };
        let activations = if self.rounds() { size_of::<bf16>() } else { size_of::<f32>() };
        // The caller keeps the input.
        Ok(activations * (q + 2 * kv + attended + 2 * f) + size_of::<f32>() * (2 * d + self.shape.heads))
    }

    /// `(queries' width, keys' width, MLP width)`, checked against `x` `[T, d]`.
    fn widths(&self, x: &Tensor) -> Result<(usize, usize, usize)> {
        let (tokens, d) = x.dims2()?;
        let (q, kv) = (self.shape.heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim);
        let f = self.linears.gate.weight.dims()?.0;
        let shapes = Linears { q: (q, d), k: (kv, d), v: (kv, d), o: (d, q), gate: (f, d), up: (f, d), down: (d, f) };
        for (linear, &shape) in self.linears.iter().zip(shapes.iter()) {
            let biased = linear.bias.is_none_or(|bias| bias.dims() == [shape.0]);
            let adapted = linear.lora.is_none_or(|lora| {
                lora.a
                    .dims()
                    .first()
                    .is_some_and(|&r| r > 0 && lora.a.dims() == [r, shape.1] && lora.b.dims() == [shape.0, r])
            });
            if linear.weight.dims()? != shape || !biased || !adapted {
                bail!(
                    "block: a linear layer of {:?} does not fit {shape:?}, its bias or its pair",
                    linear.weight.dims()?
                );
            }
        }
        if self.segments.tokens() != tokens || self.positions.len() != tokens || d == 0 || f == 0 {
            bail!("block: {tokens} tokens of width {d}, {} positions", self.positions.len());
        }
        if self.positions.iter().any(|&p| p as usize >= self.rope.max_positions()) {
            bail!("block: a position lies beyond the {} of the rotary table", self.rope.max_positions());
        }
        Ok((q, kv, f))
    }
}

/// Runs `f` on a pair's factors as slices.
fn with_pair<R>(lora: &LoraInput<'_>, f: impl FnOnce(Pair<'_>) -> R) -> Result<R> {
    let (a, b) = (slices::read(lora.a), slices::read(lora.b));
    let (a, b, rank) = (a.as_slice()?, b.as_slice()?, lora.a.dims2()?.0);
    Ok(f(Pair { a, b, rank, scale: lora.scale, dropout: lora.dropout.filter(|dropout| dropout.p != 0.0) }))
}

/// All columns of a matrix `width` wide.
fn whole(width: usize) -> Columns {
    Columns { stride: width, at: 0 }
}
