//! The shape of a decoder, from a Hugging Face config.json or GGUF metadata. Invariant: every size was checked to be
//! positive, bounded and consistent (`heads % kv_heads == 0`, `head_dim` even), so that no later code has to.

mod family;
mod fields;
mod gguf;
mod hf;
mod keys;
mod known;
mod layer;
mod llamacpp;
mod metadata;
mod quantised;
mod rope;
mod rotation;
mod to_gguf;
mod unsupported;

pub(crate) use family::Spec;
pub(crate) use hf::{MAX_BYTES, check_ends, read_json};
pub use layer::{Biases, Fused, Layer, Mixture, Mlp, MlpNames, NormPlacement, QkNorm, QueryScale};
pub(crate) use quantised::claimed as quantisation_claimed;
pub use rope::{Rope, RopeScaling};

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Model family. How the families differ is in the fields of [`ModelConfig`]; this value serves names, export and
/// messages only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 1 to 3, SmolLM2, `TinyLlama` and all that share the architecture.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen3, dense.
    Qwen3,
    /// Gemma 1.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, the text model.
    Gemma3,
    /// Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini.
    Phi3,
    /// `OLMo` 2.
    Olmo2,
    /// `OLMo` 3.
    Olmo3,
    /// Granite 3, dense.
    Granite,
    /// `SmolLM3`.
    SmolLm3,
    /// Ministral 3, the text model.
    Ministral3,
    /// Seed-OSS.
    SeedOss,
    /// EXAONE 4.
    Exaone4,
    /// Arcee's AFM.
    Arcee,
    /// Code World Model.
    Cwm,
    /// Granite 4, dense.
    Granite4,
    /// Qwen3 with experts.
    Qwen3Moe,
    /// Mixtral.
    Mixtral,
}

/// The shape of a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Family.
    pub family: Family,
    /// Width of the residual stream, d.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the RoPE frequencies.
    pub rope_theta: f32,
    /// RoPE scaling, if any.
    pub rope_scaling: Option<RopeScaling>,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// q, k and v have biases (Qwen2).
    pub qkv_bias: bool,
    /// Sliding window of attention, in tokens.
    pub sliding_window: Option<usize>,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// How a layer differs from Llama's.
    #[serde(default, skip_serializing_if = "Layer::is_llama")]
    pub layer: Layer,
}

impl ModelConfig {
    /// Checks every field and their relations. An error names the key of config.json at fault.
    pub fn validate(&self) -> Result<()> {
        self.check(&|key| key.to_owned())
    }

    /// As [`Self::validate`]; `name` gives the file's own name of a config.json key.
    fn check(&self, name: &dyn Fn(&str) -> String) -> Result<()> {
        // The bounds are far above any published model, and low enough that a product of two sizes fits 64 bits.
        for (key, value, most) in [
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 24),
            ("num_hidden_layers", self.num_layers, 1 << 12),
            ("num_attention_heads", self.num_heads, 1 << 16),
            ("num_key_value_heads", self.num_kv_heads, 1 << 16),
            ("head_dim", self.head_dim, 1 << 16),
            ("vocab_size", self.vocab_size, 1 << 24),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 31),
            ("sliding_window", self.sliding_window.unwrap_or(1), 1 << 31),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::request(format!("`{}` is {value}, must be 1 to {most}", name(key))));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return Err(Error::request(format!(
                "`{}` ({}) is not a multiple of `{}` ({})",
                name("num_attention_heads"),
                self.num_heads,
                name("num_key_value_heads"),
                self.num_kv_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::request(format!("`{}` is {}, must be even", name("head_dim"), self.head_dim)));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            let eps = self.rms_norm_eps;
            return Err(Error::request(format!("`{}` is {eps}, must be between 0 and 1", name("rms_norm_eps"))));
        }
        self.layer.check(self.num_layers, self.head_dim, name)?;
        let rotated = self.layer.rotary_dim.unwrap_or(self.head_dim);
        self.rope().check(rotated, name)?;
        let of_window = |key: &str| match key.strip_prefix("rope_scaling.") {
            Some(key) => name(&format!("window_rope.{key}")),
            None => name("rope_local_base_freq"),
        };
        self.layer.window_rope.as_ref().map_or(Ok(()), |rope| rope.check(rotated, &of_window))
    }

    /// The rotation of every layer that does not have its own.
    pub fn rope(&self) -> Rope {
        Rope { theta: self.rope_theta, scaling: self.rope_scaling.clone() }
    }

    /// RoPE frequencies of every layer that does not have its own: radians per position, one for each pair of rotated
    /// elements, with the scaling applied. They are the `inv_freq` of transformers' `modeling_rope_utils`, computed by
    /// the same operations in f32.
    pub fn inv_freq(&self) -> Vec<f32> {
        self.rope().inv_freq(self.layer.rotary_dim.unwrap_or(self.head_dim))
    }

    /// The sliding window of a layer.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| flag(self.layer.windowed.as_ref(), layer))
    }

    /// The rotation of a layer's queries and keys; None where they are not rotated.
    pub fn rope_of(&self, layer: usize) -> Option<Rope> {
        let own = self.layer.window_rope.clone().filter(|_| flag(self.layer.windowed.as_ref(), layer));
        flag(self.layer.rotated.as_ref(), layer).then(|| own.unwrap_or_else(|| self.rope()))
    }

    /// Longest sequence that can be computed; longer ones are refused.
    pub fn max_positions(&self) -> usize {
        let limit = self.rope().limit().unwrap_or(usize::MAX);
        self.max_position_embeddings.min(limit)
    }

    /// All positions of a model of which only those of the original length are supported (`LongRoPE`).
    pub fn beyond_original(&self) -> Option<usize> {
        Some(self.max_position_embeddings).filter(|most| *most > self.max_positions())
    }

    /// The path of the decoder in the checkpoint's class. The names of an adapter's tensors contain it.
    pub fn path(&self) -> &'static str {
        if self.layer.nested { "model.language_model" } else { "model" }
    }
}

/// A layer's flag; true where there is no list.
fn flag(flags: Option<&Vec<bool>>, layer: usize) -> bool {
    flags.is_none_or(|flags| flags.get(layer).copied().unwrap_or(true))
}

#[cfg(test)]
mod tests;
