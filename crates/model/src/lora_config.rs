//! What a LoRA adapter changes. In: names of modules, as a user or PEFT writes them; out: the settings of an adapter, and the
//! shape and Hugging Face name of each module. Invariant: no tensor and no file is touched here, so that the adapter and the
//! reader of `adapter_config.json` can both use it.

use crate::{Error, ModelConfig, Result};
use eraser_ops::block::Linears;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    ops::{Index, IndexMut},
    str::FromStr,
};

/// The linear modules of a block, in the order of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Module {
    /// Query projection.
    #[serde(rename = "q_proj", alias = "q")]
    Q,
    /// Key projection.
    #[serde(rename = "k_proj", alias = "k")]
    K,
    /// Value projection.
    #[serde(rename = "v_proj", alias = "v")]
    V,
    /// Output projection of attention.
    #[serde(rename = "o_proj", alias = "o")]
    O,
    /// Gate of the MLP.
    #[serde(rename = "gate_proj", alias = "gate")]
    Gate,
    /// Up projection of the MLP.
    #[serde(rename = "up_proj", alias = "up")]
    Up,
    /// Down projection of the MLP.
    #[serde(rename = "down_proj", alias = "down")]
    Down,
}

impl Module {
    /// All modules, in the order of their numbers.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Last part of the Hugging Face name, as PEFT's `target_modules` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// Hugging Face path of the module in block `layer`.
    pub fn hf_name(self, layer: usize) -> String {
        let part = if matches!(self, Self::Gate | Self::Up | Self::Down) { "mlp" } else { "self_attn" };
        format!("model.layers.{layer}.{part}.{}", self.name())
    }

    /// `(out, in)` of the weight.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        match self {
            Self::Q => (q, d),
            Self::K | Self::V => (kv, d),
            Self::O => (d, q),
            Self::Gate | Self::Up => (f, d),
            Self::Down => (d, f),
        }
    }
}

impl<T> Index<Module> for Linears<T> {
    type Output = T;

    fn index(&self, module: Module) -> &T {
        match module {
            Module::Q => &self.q,
            Module::K => &self.k,
            Module::V => &self.v,
            Module::O => &self.o,
            Module::Gate => &self.gate,
            Module::Up => &self.up,
            Module::Down => &self.down,
        }
    }
}

impl<T> IndexMut<Module> for Linears<T> {
    fn index_mut(&mut self, module: Module) -> &mut T {
        match module {
            Module::Q => &mut self.q,
            Module::K => &mut self.k,
            Module::V => &mut self.v,
            Module::O => &mut self.o,
            Module::Gate => &mut self.gate,
            Module::Up => &mut self.up,
            Module::Down => &mut self.down,
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Module {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let short = s.trim().trim_end_matches("_proj");
        Self::ALL.into_iter().find(|m| m.name().trim_end_matches("_proj") == short).ok_or_else(|| {
            Error::request(format!("unknown module '{s}'"))
                .hint("known modules: q, k, v, o, gate, up, down, with or without _proj; or all-linear")
        })
    }
}

/// What a LoRA adapter changes and how strongly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Dropout probability on the adapter's input, in training.
    pub dropout: f64,
    /// Adapted modules, sorted.
    pub targets: Vec<Module>,
    /// Adapted layers; None = all.
    pub layers: Option<Vec<usize>>,
    /// Scale by alpha / sqrt(r) instead of alpha / r.
    pub rslora: bool,
}

impl LoraConfig {
    /// What multiplies `B A`.
    pub fn scale(&self) -> f32 {
        let r = self.r as f64;
        (self.alpha / if self.rslora { r.sqrt() } else { r }) as f32
    }
}
