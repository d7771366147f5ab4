//! stub
use candle_core::{Result, Tensor};

/// Dropout of the LoRA input. The mask is a pure function of `seed`, so backward regenerates it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is zeroed; kept ones are scaled by `1 / (1 - p)`.
    pub p: f32,
    /// Seed of the mask.
    pub seed: u64,
}

/// The low-rank half of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct LoraInput<'a> {
    /// `[r, in]`.
    pub a: &'a Tensor,
    /// `[out, r]`.
    pub b: &'a Tensor,
    /// `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    pub scale: f32,
    /// Dropout on the input of `a`; None when not training.
    pub dropout: Option<Dropout>,
}

/// `y = x W^T + bias`. `x` `[T, in]`, `weight` `[out, in]`, `bias` `[out]`, result `[T, out]`.
pub fn linear(_x: &Tensor, _weight: &Tensor, _bias: Option<&Tensor>) -> Result<Tensor> {
    todo!()
}

/// `y = x W^T + bias + scale * dropout(x) A^T B^T`.
pub fn lora_linear(_x: &Tensor, _weight: &Tensor, _bias: Option<&Tensor>, _lora: LoraInput<'_>) -> Result<Tensor> {
    todo!()
}
