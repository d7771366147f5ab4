//! Where tensors come from and go to: safetensors and GGUF in, safetensors out, always by Hugging Face names and in
//! Hugging Face layout. Invariant: a tensor is returned only in the shape that was asked for.

mod bnb;
mod fp8;
mod gguf;
mod hf;
mod save;

pub use gguf::GgufWeights;
pub(crate) use gguf::{apart, gguf_name, half_split_rows, is_interleaved, is_of_experts, to_gguf};
pub use hf::HfDirectory;
pub use save::save_safetensors;

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, WithDType};
use eraser_ops::Stored;
use half::{bf16, f16};
use rayon::prelude::*;
use std::path::Path;

/// A source of tensors under Hugging Face names (`model.layers.0.self_attn.q_proj.weight`), in Hugging Face layout.
pub trait TensorSource {
    /// The tensor, converted to `dtype`. An error names the file, the tensor, and the shape when it differs from
    /// `shape`.
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor>;
    /// A matrix in the blocks that it is stored in; None when it is stored as f32, or the source has no bytes.
    fn stored(&self, name: &str, shape: [usize; 2]) -> Result<Option<Stored>> {
        let _ = (name, shape);
        Ok(None)
    }
    /// Whether the source holds a tensor of this name.
    fn contains(&self, name: &str) -> bool;
}

pub(crate) fn missing(file: &Path, name: &str) -> Error {
    Error::request(format!("{}: tensor `{name}` is missing", file.display()))
        .hint("the file is incomplete, or its configuration is that of another model")
}

pub(crate) fn check_shape(file: &Path, name: &str, found: &[usize], wanted: &[usize]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let path = file.display();
    Err(Error::request(format!("{path}: tensor `{name}` has shape {found:?}, the configuration needs {wanted:?}"))
        .hint("the weights and the configuration are of different models"))
}

/// Elements that one task converts at least: enough work to be worth a thread.
const MIN_TASK: usize = 1 << 15;

/// Decodes `B`-byte little-endian elements, in parallel.
pub(crate) fn decode<const B: usize, T: Send>(bytes: &[u8], read: impl Fn([u8; B]) -> T + Sync) -> Vec<T> {
    bytes.as_chunks::<B>().0.par_iter().with_min_len(MIN_TASK).map(|element| read(*element)).collect()
}

/// A tensor of `values`, converted to `dtype` in parallel.
pub(crate) fn from_f32(values: Vec<f32>, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    fn convert<T: WithDType>(values: &[f32], shape: &[usize], device: &Device, to: fn(f32) -> T) -> Result<Tensor> {
        let values: Vec<T> = values.par_iter().with_min_len(MIN_TASK).map(|x| to(*x)).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }
    match dtype {
        DType::F32 => Ok(Tensor::from_vec(values, shape, device)?),
        DType::BF16 => convert(&values, shape, device, bf16::from_f32),
        DType::F16 => convert(&values, shape, device, f16::from_f32),
        other => Err(Error::request(format!("weights of type {other:?} are not supported (f32, f16 and bf16 are)"))),
    }
}

#[cfg(test)]
mod tests;
