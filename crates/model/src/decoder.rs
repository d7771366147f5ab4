//! stub
use crate::{Adapter, ModelConfig, Result, weights::TensorSource};
use candle_core::{DType, Device, Tensor};
use eraser_ops::Segments;

/// The network.
pub struct Decoder {}

impl Decoder {
    /// Reads every tensor of the model from `source`.
    pub fn load(_config: &ModelConfig, _source: &dyn TensorSource, _dtype: DType, _device: &Device) -> Result<Self> {
        todo!()
    }
    /// Every weight under its Hugging Face name (the head left out when tied).
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        todo!()
    }
    /// Adds `scale * B A` of every pair into the weights (`sign` 1.0), or takes it out again (-1.0).
    pub fn merge(&mut self, _adapter: &Adapter, _sign: f32) -> Result<()> {
        todo!()
    }
    /// Final hidden states (after the last norm), `[T, d]`, of packed sequences. No gradient.
    pub fn hidden(&self, _ids: &[u32], _segments: &Segments, _adapter: Option<&Adapter>) -> Result<Tensor> {
        todo!()
    }
    /// Logits of some rows of `hidden`, `[n, V]`.
    pub fn logits(&self, _hidden: &Tensor) -> Result<Tensor> {
        todo!()
    }
}
