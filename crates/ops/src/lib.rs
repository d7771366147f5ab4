#![doc = include_str!("../README.md")]

pub mod activation;
pub mod attention;
pub mod bf16;
pub mod block;
#[cfg(test)]
mod conformance;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod embedding;
pub mod form;
pub mod gemm;
mod head;
pub mod kl;
pub mod linear;
pub mod mixture;
pub mod mmap;
pub mod quant;
pub mod rms_norm;
pub mod rope;
pub mod segments;
pub mod simd;
mod slices;
pub mod threads;
pub mod vjp;
pub mod weight;

pub use activation::{Activation, activate};
pub use attention::{AttentionShape, attention, attention_cached};
pub use cross_entropy::{cross_entropy, cross_entropy_capped};
pub use embedding::{embedding, gather_rows};
pub use kl::{kl_divergence, kl_divergence_capped};
pub use linear::{Dropout, Factor, LoraInput, Owners, linear, lora_linear};
pub use mixture::{Routing, mixture};
pub use rms_norm::rms_norm;
pub use rope::{RopeTable, rope};
pub use segments::Segments;
pub use vjp::backward_from;
pub use weight::{Stored, Weight};
