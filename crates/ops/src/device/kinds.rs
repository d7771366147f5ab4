//! What operations of a device are told. In: numbers and tensors of the caller; out: the same, by name. Invariant: nothing is
//! computed here.

use candle_core::Tensor;
use std::ops::Range;

/// The numbers of a step of `AdamW`, after what depends on the step alone has been computed.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// `lr / (1 - beta1^t)`.
    pub size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub correction: f32,
    /// `1 - lr * weight_decay`.
    pub keep: f32,
    /// `1 - beta1`.
    pub less_beta1: f32,
    /// The decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`.
    pub less_beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
}

/// Rows of a pass that are appended to a cache `[layers, 2, capacity, width]`: keys and values of each layer.
#[derive(Clone, Copy, Debug)]
pub struct Appended<'a> {
    /// The cache.
    pub cache: &'a Tensor,
    /// The rows that it holds.
    pub at: usize,
    /// The rows that come.
    pub count: usize,
}

/// Keys and values that follow each other: rows of a cache, or of the pass itself (None).
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// The cache, `[layers, 2, capacity, width]`.
    pub cache: Option<&'a Tensor>,
    /// Its rows.
    pub rows: Range<usize>,
}

/// What rows of a pass that follow each other see: the keys of all spans up to their own, which are the last of them.
#[derive(Clone, Debug)]
pub struct Reads<'a> {
    /// In the order of positions.
    pub spans: Vec<Span<'a>>,
    /// The number of rows.
    pub rows: usize,
    /// The keys before the first of them.
    pub past: usize,
}
