//! The operations on a CUDA device, in f32 and bf16. In: contiguous tensors of one device; out: the same results as the
//! composed forms, and their gradients. Invariant: sums are in f32 and in a fixed order; no gradient of a frozen weight
//! is computed; nothing waits for the device but what reads numbers from it.
//!
//! Matrix products are cuBLAS's. What is between them are kernels of our own (`cuda/kernels/`), compiled when the first
//! one runs (NVRTC), so that building needs nothing for them. Each operation stands beside its backward.

mod attention;
mod cached;
mod device;
mod linear;
mod losses;
#[cfg(feature = "nccl")]
pub(crate) mod nccl;
mod optimiser;
mod product;
mod rows;

pub(crate) use attention::attention;
pub(crate) use cached::{Plan, Slots};
pub(crate) use device::{count, free_memory, prepare};
pub(crate) use linear::{linear, lora_linear};
pub(crate) use losses::{argmax, cross_entropy, kl_divergence};
pub(crate) use optimiser::{adamw, norm};
pub(crate) use rows::{Rotation, activate, rms_norm, rope};

use crate::form;
use candle_core::{DType, Tensor};

/// True when `x` lives where these operations run.
pub(crate) fn runs(x: &Tensor) -> bool {
    x.device().is_cuda() && matches!(x.dtype(), DType::F32 | DType::BF16) && !form::is_composed()
}
