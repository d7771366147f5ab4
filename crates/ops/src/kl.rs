//! stub
use candle_core::{Result, Tensor};

/// `KL(softmax(reference W^T) || softmax(hidden W^T))` per row: `hidden` and `reference` `[n, d]`, `head` `[V, d]`;
/// result `[n]`, natural log. `reference` is frozen.
pub fn kl_divergence(_hidden: &Tensor, _reference: &Tensor, _head: &Tensor) -> Result<Tensor> {
    todo!()
}
