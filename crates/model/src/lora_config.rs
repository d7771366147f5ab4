//! What a LoRA adapter changes. In: names of modules, as a user or PEFT writes them; out: the settings of an adapter,
//! and the shape and Hugging Face name of each module. Invariant: no tensor and no file is touched here, so that the
//! adapter and the reader of `adapter_config.json` can both use it.

use crate::config::MlpNames;
use crate::lora_patterns::{ByModule, Patterns};
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
    /// Query, key and value projections in one.
    #[serde(rename = "qkv_proj", alias = "qkv")]
    Qkv,
    /// Gate and up projections in one.
    #[serde(rename = "gate_up_proj", alias = "gate_up")]
    GateUp,
}

impl Module {
    /// All modules, in the order of their numbers. No model has all of them.
    pub const ALL: [Self; 9] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down, Self::Qkv, Self::GateUp];

    /// All projections, each by itself: what `all-linear` stands for in every model, because a module that holds
    /// several stands for each of them.
    pub const SINGLE: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The modules that a model has.
    pub fn of(config: &ModelConfig) -> Vec<Self> {
        let fused = config.layer.fused;
        // Experts and their router have no adapters.
        let experts = config.layer.mixture.is_some();
        let has = |module: &Self| match module {
            Self::Gate | Self::Up | Self::Down | Self::GateUp if experts => false,
            Self::Q | Self::K | Self::V => !fused.qkv,
            Self::Qkv => fused.qkv,
            Self::Gate => !fused.gate_up && config.layer.mlp.activation().is_gated(),
            Self::Up => !fused.gate_up,
            Self::GateUp => fused.gate_up,
            Self::O | Self::Down => true,
        };
        Self::ALL.into_iter().filter(has).collect()
    }

    /// The modules of a model that compute what this one stands for: itself, the one that holds it, or those that it
    /// holds. None where the model has no such projection.
    pub fn within(self, config: &ModelConfig) -> Vec<Self> {
        let related =
            |module: &Self| *module == self || self.parts().contains(module) || module.parts().contains(&self);
        Self::of(config).into_iter().filter(related).collect()
    }

    /// The projections that the module holds besides itself.
    fn parts(self) -> &'static [Self] {
        match self {
            Self::Qkv => &[Self::Q, Self::K, Self::V],
            Self::GateUp => &[Self::Gate, Self::Up],
            _ => &[],
        }
    }

    /// A number below that of [`Self::SINGLE`]'s, different for the modules of a model.
    pub(crate) fn place(self) -> usize {
        *self.parts().first().unwrap_or(&self) as usize
    }

    /// What `f` gives for each module.
    pub fn each<T>(mut f: impl FnMut(Self) -> T) -> Linears<T> {
        Linears {
            q: f(Self::Q),
            k: f(Self::K),
            v: f(Self::V),
            o: f(Self::O),
            gate: f(Self::Gate),
            up: f(Self::Up),
            down: f(Self::Down),
            qkv: f(Self::Qkv),
            gate_up: f(Self::GateUp),
        }
    }

    /// Whether the module has a bias.
    pub(crate) fn is_biased(self, config: &ModelConfig) -> bool {
        match self {
            Self::Q | Self::K | Self::V | Self::Qkv => config.qkv_bias,
            Self::O => config.layer.biases.output,
            Self::Gate | Self::Up | Self::Down | Self::GateUp => config.layer.biases.mlp,
        }
    }

    /// The name of the module, which in most models is the last part of its path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
            Self::Qkv => "qkv_proj",
            Self::GateUp => "gate_up_proj",
        }
    }

    /// Hugging Face path of the module in block `layer`, of a model that names its MLP so.
    pub fn hf_name(self, layer: usize, names: MlpNames) -> String {
        let of_mlp = matches!(self, Self::Gate | Self::Up | Self::Down | Self::GateUp);
        let part = match names {
            MlpNames::Shared if of_mlp => "shared_mlp",
            _ if of_mlp => "mlp",
            _ => "self_attn",
        };
        format!("model.layers.{layer}.{part}.{}", self.last_name(names))
    }

    /// Last part of the path, as PEFT's `target_modules` has it.
    pub(crate) fn last_name(self, names: MlpNames) -> &'static str {
        match (self, names) {
            (Self::GateUp, MlpNames::Shared) => "input_linear",
            (Self::Down, MlpNames::Shared) => "output_linear",
            _ => self.name(),
        }
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
            Self::Qkv => (q + 2 * kv, d),
            Self::GateUp => (2 * f, d),
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
            Module::Qkv => &self.qkv,
            Module::GateUp => &self.gate_up,
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
            Module::Qkv => &mut self.qkv,
            Module::GateUp => &mut self.gate_up,
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
        let same = |m: &Self| m.name().trim_end_matches("_proj") == short || m.last_name(MlpNames::Shared) == short;
        Self::ALL.into_iter().find(same).ok_or_else(|| {
            Error::request(format!("unknown module '{s}'"))
                .hint("known modules: q, k, v, o, gate, up, down, qkv, gate_up, with or without _proj; or all-linear")
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
    /// Ranks and alphas that single modules have instead.
    #[serde(default, skip_serializing_if = "Patterns::is_empty")]
    pub patterns: Patterns,
}

impl LoraConfig {
    /// Rank and scale of modules by their names.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub(crate) fn by_module(&self) -> Result<ByModule> {
        ByModule::new(&self.patterns, self.r, self.alpha, self.rslora)
    }
}
