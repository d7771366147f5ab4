//! A whole decoder block as one operation with its analytic backward: what training and inference run on the CPU when
//! nothing but an adapter is trained. In: the residual stream `[T, d]` and the block's weights; out: the residual
//! stream after the block, and in backward the gradients of its input and of every low-rank pair. Invariant: equal to
//! the same block composed of this crate's single operations. It is faster than those for several reasons: there is no
//! tape, no gradient is filled with zeros and added to, weights that share an input take one product, and what is cheap
//! to compute again (norms, the gated activation, attention's probabilities) is not kept.
//!
//! `x2 = x + s post(O a)`, `a = attention(rope(norm(Q n)), rope(norm(K n)), V n)`, `n = pre(x)`; then `y = x2 + s
//! post(Down h)`, `h = act(Gate m) * Up m`, `m = pre(x2)`. Each norm and the rotation are there or not, and each linear
//! layer has a low-rank pair or not. Llama has the two norms before, and `s` is 1.

mod backward;
mod experts;
mod forward;
#[cfg(test)]
mod tests;

pub use backward::{BlockGradients, PairGradient, backward};
pub use experts::Experts;
pub use forward::{forward, forward_attending, forward_saving};

use crate::bf16::Rounded;
use crate::linear::{Columns, LoraInput, Pair};
use crate::mixture::Routes;
use crate::weight::Weight;
use crate::{Activation, AttentionShape, RopeTable, Segments, slices};
use candle_core::{Result, Tensor, bail};
use half::bf16;

/// One of something for each linear layer that a block can have. A block has `q`, `k` and `v` or, as one layer, `qkv`;
/// and `gate` and `up`, or `gate_up`, or `up` alone.
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
    pub qkv: T,
    pub gate_up: T,
}

impl<T> Linears<T> {
    /// All of them, in the order of the forward pass, those of several layers in one last.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let Self { q, k, v, o, gate, up, down, qkv, gate_up } = self;
        [q, k, v, o, gate, up, down, qkv, gate_up].into_iter()
    }

    /// What `f` gives for each.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Linears<U> {
        let Self { q, k, v, o, gate, up, down, qkv, gate_up } = self;
        Linears {
            q: f(q),
            k: f(k),
            v: f(v),
            o: f(o),
            gate: f(gate),
            up: f(up),
            down: f(down),
            qkv: f(qkv),
            gate_up: f(gate_up),
        }
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

/// The weights of a block's norms, each there or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Norms<'a> {
    /// Before attention, `[d]`.
    pub attention: Option<&'a Tensor>,
    /// After the output projection, `[d]`.
    pub after_attention: Option<&'a Tensor>,
    /// Before the MLP, `[d]`.
    pub mlp: Option<&'a Tensor>,
    /// After the down projection, `[d]`.
    pub after_mlp: Option<&'a Tensor>,
    /// Of queries before their rotation: of each head, `[head_dim]`, or of the whole row.
    pub q: Option<&'a Tensor>,
    /// Of keys.
    pub k: Option<&'a Tensor>,
}

/// Rotary tables; that of the queries can scale them by their position.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Of the queries.
    pub q: &'a RopeTable,
    /// Of the keys.
    pub k: &'a RopeTable,
}

/// A block's weights and what it is applied to.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Its norms.
    pub norms: Norms<'a>,
    /// Its linear layers.
    pub linears: Linears<Option<BlockLinear<'a>>>,
    /// The weights of query, key and value below each other, for one product instead of three.
    pub qkv: Option<&'a Weight>,
    /// The weights of gate and up below each other.
    pub gate_up: Option<&'a Weight>,
    /// A mixture of experts in the place of the MLP's linear layers, which are then not there.
    pub experts: Option<Experts<'a>>,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Heads and masking.
    pub shape: AttentionShape,
    /// The rotation of queries and keys; None where they are not rotated.
    pub rope: Option<Rope<'a>>,
    /// What the MLP does between its projections.
    pub activation: Activation,
    /// What both halves' outputs are multiplied by before they are added to the residual stream.
    pub residual: f32,
    /// Position of each token.
    pub positions: &'a [u32],
    /// Sequences of the pack.
    pub segments: &'a Segments,
}

/// What a forward leaves for its backward: about `2 d + 2 kv + d + 2 f` numbers a token, and `2 d` where there are
/// norms after the halves.
#[derive(Debug)]
pub struct Saved {
    /// Rotated queries and keys (as they were projected, where they are normed). Never rounded: with the keys of Qwen2,
    /// whose biases are in the hundreds, rounding moves scores by more than 1, and probabilities that are made again
    /// from them would not belong to `lse`.
    q: Vec<f32>,
    k: Vec<f32>,
    v: Activations,
    /// Logarithms of the softmax's normalisers, `[T, heads]`.
    lse: Vec<f32>,
    /// Output of attention; kept only for the pair of the output projection.
    attended: Activations,
    /// Output of the output projection; kept only for the norm after it.
    projected: Vec<f32>,
    /// The residual stream between attention and MLP.
    middle: Vec<f32>,
    /// Gate and up projections beside each other, `[T, 2 f]`.
    gate_up: Activations,
    /// Output of the down projection; kept only for the norm after it.
    down: Vec<f32>,
    /// Each pair's `dropout(x) A^T`.
    low: Linears<Vec<f32>>,
    /// Of a mixture of experts.
    routes: Option<Routes>,
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

/// Sizes of a block.
#[derive(Clone, Copy)]
struct Widths {
    /// Of queries and of keys.
    q: usize,
    kv: usize,
    /// Of the MLP.
    f: usize,
    /// Of what the MLP's first projections give: gate and up.
    gate_up: usize,
}

/// Linear layers that share an input: each that there is, and the column of the common output where its own begin.
type Sharing<'a, 'b, const N: usize> = [(&'b Option<BlockLinear<'a>>, usize); N];

impl Block<'_> {
    /// True when products are in bf16: then activations are kept in bf16, all but queries and keys.
    fn rounds(&self) -> bool {
        self.linears.o.is_some_and(|linear| linear.weight.is_bf16())
    }

    /// Bytes that a forward keeps per token.
    pub fn bytes_kept_per_token(&self) -> Result<usize> {
        let (w, d) = (self.sizes()?, self.linears.output()?.weight.dims()?.0);
        let attended = if self.linears.output()?.lora.is_some() { w.q } else { 0 };
        let probabilities = self.experts.map_or(0, |experts| experts.each.len() + 2 * experts.routing.used);
        let activations = if self.rounds() { size_of::<bf16>() } else { size_of::<f32>() };
        let after = [self.norms.after_attention, self.norms.after_mlp].iter().flatten().count();
        // The caller keeps the input.
        let whole = (2 + after) * d + self.shape.heads;
        let scored = w.q + w.kv;
        Ok(activations * (w.kv + attended + w.gate_up) + size_of::<f32>() * (whole + scored + probabilities))
    }

    fn sizes(&self) -> Result<Widths> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        if let Some(experts) = &self.experts {
            // Nothing of what they compute is kept.
            let (q, kv) = (heads * head_dim, kv_heads * head_dim);
            return Ok(Widths { q, kv, f: experts.width()?, gate_up: 0 });
        }
        let f = self.linears.last()?.weight.dims()?.1;
        let gate_up = if self.activation.is_gated() { 2 * f } else { f };
        Ok(Widths { q: heads * head_dim, kv: kv_heads * head_dim, f, gate_up })
    }

    /// The block's sizes, checked against `x` `[T, d]`.
    fn widths(&self, x: &Tensor) -> Result<Widths> {
        let (tokens, d) = x.dims2()?;
        let w = self.sizes()?;
        let l = &self.linears;
        let all = Linears {
            q: (w.q, d),
            k: (w.kv, d),
            v: (w.kv, d),
            o: (d, w.q),
            gate: (w.f, d),
            up: (w.f, d),
            down: (d, w.f),
            qkv: (w.q + 2 * w.kv, d),
            gate_up: (2 * w.f, d),
        };
        for (linear, &shape) in l.iter().zip(all.iter()) {
            let Some(linear) = linear else { continue };
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
        let apart = [&l.q, &l.k, &l.v].map(Option::is_none);
        let fused = l.gate.is_none() && l.up.is_none() && l.gate_up.is_some();
        let gated = l.gate.is_some() && l.up.is_some() && l.gate_up.is_none();
        let ungated = l.gate.is_none() && l.up.is_some() && l.gate_up.is_none();
        let mlp = [&l.gate, &l.up, &l.down, &l.gate_up];
        let complete = match &self.experts {
            Some(experts) => {
                experts.check(d)?;
                self.activation.is_gated() && mlp.iter().all(|linear| linear.is_none())
            }
            None if self.activation.is_gated() => fused || gated,
            None => ungated,
        };
        if apart != [l.qkv.is_some(); 3] || !complete {
            bail!("block: a linear layer is missing or there is one too many");
        }
        self.check_norms(d, w)?;
        if self.segments.tokens() != tokens || self.positions.len() != tokens || d == 0 || w.f == 0 {
            bail!("block: {tokens} tokens of width {d}, {} positions", self.positions.len());
        }
        for table in self.rope.iter().flat_map(|rope| [rope.q, rope.k]) {
            if self.positions.iter().any(|&p| p as usize >= table.max_positions()) {
                bail!("block: a position lies beyond the {} of the rotary table", table.max_positions());
            }
            if table.head_dim() != self.shape.head_dim {
                bail!("block: the rotary table is for heads of {}", table.head_dim());
            }
        }
        Ok(w)
    }

    fn check_norms(&self, d: usize, w: Widths) -> Result<()> {
        let Norms { attention, after_attention, mlp, after_mlp, q, k } = self.norms;
        for norm in [attention, after_attention, mlp, after_mlp].into_iter().flatten() {
            if norm.dims() != [d] {
                bail!("block: a norm of {:?} on rows of {d}", norm.dims());
            }
        }
        for (norm, width) in [(q, w.q), (k, w.kv)] {
            if let Some(norm) = norm
                && norm.dims() != [self.shape.head_dim]
                && norm.dims() != [width]
            {
                bail!("block: a norm of {:?} on heads of {} in rows of {width}", norm.dims(), self.shape.head_dim);
            }
        }
        Ok(())
    }
}

impl<'a> Linears<Option<BlockLinear<'a>>> {
    /// The output projection of attention.
    fn output(&self) -> Result<&BlockLinear<'a>> {
        self.o.as_ref().map_or_else(|| bail!("block: there is no output projection"), Ok)
    }

    /// The down projection of the MLP.
    fn last(&self) -> Result<&BlockLinear<'a>> {
        self.down.as_ref().map_or_else(|| bail!("block: there is no down projection"), Ok)
    }

    /// Those that read attention's input.
    fn of_attention(&self, w: Widths) -> Sharing<'a, '_, 4> {
        [(&self.q, 0), (&self.k, w.q), (&self.v, w.q + w.kv), (&self.qkv, 0)]
    }

    /// Those that read the MLP's input.
    fn of_mlp(&self, w: Widths) -> Sharing<'a, '_, 3> {
        [(&self.gate, 0), (&self.up, w.gate_up - w.f), (&self.gate_up, 0)]
    }
}

/// Runs `f` on a pair's factors as slices.
fn with_pair<R>(lora: &LoraInput<'_>, f: impl FnOnce(Pair<'_>) -> R) -> Result<R> {
    let (a, b) = (slices::read(lora.a), slices::read(lora.b));
    let (a, b, rank) = (a.as_slice()?, b.as_slice()?, lora.a.dims2()?.0);
    let dropout = lora.dropout.filter(|dropout| dropout.p != 0.0);
    Ok(f(Pair { a, b, rank, scale: lora.scale, dropout, owners: lora.owners, identity: lora.identity }))
}

/// All columns of a matrix `width` wide.
fn whole(width: usize) -> Columns {
    Columns { stride: width, at: 0 }
}
