//! stub
use candle_core::{Device, Result, Tensor};

/// Cosines and sines of every position and frequency, half-split (Hugging Face) layout.
#[derive(Clone, Debug)]
pub struct RopeTable {}

impl RopeTable {
    /// A table for `inv_freq` (`head_dim / 2` frequencies, Llama-3 scaling already applied) and positions
    /// `0..max_positions`; `scale` multiplies cosines and sines (1.0 for plain RoPE).
    pub fn new(_inv_freq: &[f32], _max_positions: usize, _scale: f32, _device: &Device) -> Result<Self> {
        todo!()
    }
}

/// Rotates each head of `x` `[T, h * head_dim]` by its token's position. Backward rotates the other way.
pub fn rope(_x: &Tensor, _table: &RopeTable, _positions: &[u32]) -> Result<Tensor> {
    todo!()
}
