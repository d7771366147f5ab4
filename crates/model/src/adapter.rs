//! stub
use crate::{ModelConfig, Result};
use candle_core::{Device, Var};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The linear modules of a block, in the order of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Module {
    /// self_attn.q_proj
    #[serde(rename = "q_proj")]
    Q,
    /// self_attn.k_proj
    #[serde(rename = "k_proj")]
    K,
    /// self_attn.v_proj
    #[serde(rename = "v_proj")]
    V,
    /// self_attn.o_proj
    #[serde(rename = "o_proj")]
    O,
    /// mlp.gate_proj
    #[serde(rename = "gate_proj")]
    Gate,
    /// mlp.up_proj
    #[serde(rename = "up_proj")]
    Up,
    /// mlp.down_proj
    #[serde(rename = "down_proj")]
    Down,
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

/// One low-rank pair.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[r, in]`.
    pub a: Var,
    /// `[out, r]`.
    pub b: Var,
    /// Multiplies `B A`.
    pub scale: f32,
}

/// A LoRA adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Its settings.
    pub config: LoraConfig,
    /// Pairs by layer and module; indexed `[layer][Module as usize]`.
    pub layers: Vec<[Option<Lora>; 7]>,
}

impl Adapter {
    /// A fresh adapter: A uniform in +-1/sqrt(in) from the stream `seed`, B zero.
    pub fn new(_config: LoraConfig, _model: &ModelConfig, _seed: u64, _device: &Device) -> Result<Self> {
        todo!()
    }
    /// Reads a PEFT directory.
    pub fn load(_dir: &Path, _model: &ModelConfig, _device: &Device) -> Result<Self> {
        todo!()
    }
    /// Writes a PEFT directory, atomically. `base` is base_model_name_or_path.
    pub fn save(&self, _dir: &Path, _base: &str) -> Result<()> {
        todo!()
    }
    /// Every trainable tensor under its PEFT name, in a fixed order (layer, module, A then B).
    pub fn parameters(&self) -> Vec<(String, Var)> {
        todo!()
    }
    /// True when the adapter leaves every output as it is (every B is zero).
    pub fn is_noop(&self) -> Result<bool> {
        todo!()
    }
}
