//! Heads and masking of an attention layer. In: numbers of a configuration; out: what scores are made of. Invariant: a shape
//! that no layer can have is told before anything is computed.

use candle_core::{Result, Tensor};

/// Heads and masking of an attention layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Sliding window: a position sees itself and the `window - 1` positions before it. None sees all.
    pub window: Option<usize>,
    /// What scores are multiplied by; None is `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Soft cap: a score `s` becomes `cap * tanh(s / cap)` before it is masked.
    pub cap: Option<f32>,
}

impl AttentionShape {
    /// Scores of products of queries and keys: scaled, and capped where they are. Composed of candle's operations.
    pub fn finish(&self, products: &Tensor) -> Result<Tensor> {
        let scale = self.scale.map_or_else(|| (self.head_dim as f64).sqrt().recip(), f64::from);
        let scores = (products * scale)?;
        match self.cap {
            None => Ok(scores),
            Some(cap) => (scores / f64::from(cap))?.tanh()? * f64::from(cap),
        }
    }

    /// False when no attention layer can have this shape.
    pub(crate) fn is_sound(&self) -> bool {
        self.head_dim > 0
            && self.kv_heads > 0
            && self.heads > 0
            && self.heads.is_multiple_of(self.kv_heads)
            && self.window != Some(0)
            && self.cap.is_none_or(|cap| cap > 0.0)
    }
}
