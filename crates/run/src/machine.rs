//! This machine, and what a model needs of it. In: the system, a model's shape; out: cores, instructions, memory.
//! Invariant: what the system does not tell is None, never a guess.

use crate::plan::ModelPlan;
use eraser_model::{BaseDtype, Compute, ModelConfig, counted};
use serde::Serialize;
use std::path::Path;
use std::thread::available_parallelism;

/// What there is to compute with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// Threads that it uses.
    pub threads: usize,
    /// Instructions that the kernels use on this processor: `avx512`, `avx512-bf16`, `amx-bf16`, `avx2`, `neon`, `scalar`.
    pub kernels: Vec<&'static str>,
    /// Memory that is available, in MiB.
    pub available_mb: Option<f64>,
}

/// Instructions that the kernels use on this processor.
pub fn kernels() -> Vec<&'static str> {
    std::iter::once(eraser_ops::simd::instructions()).chain(eraser_ops::bf16::instructions()).collect()
}

/// This machine.
pub fn machine() -> Machine {
    Machine {
        cores: available_parallelism().map_or(1, std::num::NonZero::get),
        threads: eraser_ops::threads::count(),
        kernels: kernels(),
        available_mb: eraser_ops::threads::available_memory_mb(),
    }
}

impl Machine {
    pub(crate) fn cores_in_words(&self) -> String {
        counted(self.cores, "core")
    }

    pub(crate) fn threads_in_words(&self) -> String {
        counted(self.threads, "thread")
    }
}

/// How many weights a model of this shape has, biases and norms left out: they are fewer than one in a thousand.
pub(crate) fn parameters(config: &ModelConfig) -> u64 {
    outer(config) + inner(config)
}

/// Embedding and head.
fn outer(config: &ModelConfig) -> u64 {
    let table = (config.vocab_size * config.hidden_size) as u64;
    if config.tie_word_embeddings { table } else { 2 * table }
}

/// The linear layers, those of all experts.
fn inner(config: &ModelConfig) -> u64 {
    let d = config.hidden_size as u64;
    let (heads, kv) = (config.num_heads as u64, config.num_kv_heads as u64);
    let attention = d * config.head_dim as u64 * (2 * heads + 2 * kv);
    let matrices = if config.layer.mlp.activation().is_gated() { 3 } else { 2 };
    let (experts, router) = config.layer.mixture.map_or((1, 0), |m| (m.experts as u64, d * m.experts as u64));
    config.num_layers as u64 * (attention + experts * matrices * d * config.intermediate_size as u64 + router)
}

/// What the weights take in memory, in MiB, as `plan` holds them.
pub(crate) fn weights_mb(plan: &ModelPlan, config: &ModelConfig, path: &Path) -> f64 {
    let half = matches!(plan.base_dtype, BaseDtype::F16 | BaseDtype::Bf16);
    let in_bf16 = plan.compute == Compute::Bf16
        || plan.compute == Compute::Auto && plan.base_dtype == BaseDtype::Auto && eraser_ops::bf16::is_fast();
    let bytes = if plan.base_dtype == BaseDtype::AsStored {
        let linear =
            std::fs::metadata(path).map_or(inner(config) * 4, |m| if m.is_dir() { inner(config) * 2 } else { m.len() });
        linear + 4 * outer(config)
    } else if in_bf16 {
        2 * parameters(config)
    } else if half {
        2 * inner(config) + 4 * outer(config)
    } else {
        4 * parameters(config)
    };
    bytes as f64 / f64::from(1 << 20)
}

/// MiB in words: `512 MiB`, `3.5 GiB`.
pub(crate) fn memory(mb: f64) -> String {
    match mb {
        ..10.0 => format!("{mb:.1} MiB"),
        ..1024.0 => format!("{mb:.0} MiB"),
        _ => format!("{:.1} GiB", mb / 1024.0),
    }
}

/// A large number in words: `134 M`.
pub fn number(n: f64) -> String {
    match n {
        ..1e4 => format!("{n:.0}"),
        ..1e6 => format!("{:.0} k", n / 1e3),
        ..1e9 => format!("{:.0} M", n / 1e6),
        _ => format!("{:.1} G", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_words() {
        assert_eq!([0.5, 512.4, 3584.0].map(memory), ["0.5 MiB", "512 MiB", "3.5 GiB"]);
        assert_eq!([950.0, 134_515_008.0, 7.2e9].map(number), ["950", "135 M", "7.2 G"]);
    }

    #[test]
    fn this_machine_has_a_core_and_instructions() {
        let machine = machine();
        assert!(machine.cores > 0 && machine.threads > 0 && !machine.kernels.is_empty());
    }
}
