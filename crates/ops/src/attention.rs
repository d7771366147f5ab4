//! stub
use crate::Segments;
use candle_core::{Result, Tensor};

/// Heads and masking of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Sliding window: a position sees itself and the `window - 1` positions before it. None sees all.
    pub window: Option<usize>,
}

/// Block-causal attention over packed sequences, scaled by `1/sqrt(head_dim)`.
/// `q` `[T, heads * head_dim]`, `k` and `v` `[T, kv_heads * head_dim]`, result `[T, heads * head_dim]`.
pub fn attention(_q: &Tensor, _k: &Tensor, _v: &Tensor, _segments: &Segments, _shape: AttentionShape) -> Result<Tensor> {
    todo!()
}

/// One sequence's view for inference: `out` (`[n, heads * head_dim]`) from its `n` new queries at positions
/// `total - n .. total` and all `total` keys and values, each `[total, kv_heads * head_dim]`, row-major. CPU only.
pub struct CachedSequence<'a> {
    /// New queries, `[n, heads * head_dim]`.
    pub q: &'a [f32],
    /// All keys so far, the new ones included.
    pub k: &'a [f32],
    /// All values so far, the new ones included.
    pub v: &'a [f32],
    /// Where the result goes.
    pub out: &'a mut [f32],
}

/// Attention of new tokens against cached keys and values, for many sequences at once, in parallel over
/// (sequence, kv head). No backward. Lengths are derived from the slices.
pub fn attention_cached(_sequences: &mut [CachedSequence<'_>], _shape: AttentionShape) {
    todo!()
}
