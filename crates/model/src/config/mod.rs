//! The shape of a decoder, from a Hugging Face config.json or GGUF metadata. Invariant: every size was checked to be
//! positive, bounded and consistent (`heads % kv_heads == 0`, `head_dim` even), so that no later code has to.

mod gguf;
mod hf;

pub(crate) use hf::read_json;

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Model family: what differs between them is in the fields of [`ModelConfig`], so this is for export and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 1 to 3, SmolLM2, `TinyLlama` and all that share the architecture.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: Llama with biases on q, k and v.
    Qwen2,
}

/// RoPE frequency scaling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// Positions divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3.1 and later.
    Llama3 {
        /// Scale of the lowest frequencies.
        factor: f32,
        /// Start of the smooth range.
        low_freq_factor: f32,
        /// End of the smooth range.
        high_freq_factor: f32,
        /// Context length before scaling.
        original_max_position_embeddings: u32,
    },
    /// Each frequency divided by its own factor, `head_dim / 2` of them: the `rope_freqs.weight` of a GGUF file.
    Factors(Vec<f32>),
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
}

impl ModelConfig {
    /// Checks every field and their relations. An error names the key of config.json at fault.
    pub fn validate(&self) -> Result<()> {
        self.check(&|key| key.to_owned())
    }

    /// As [`Self::validate`]; `name` gives the file's own name of a config.json key.
    fn check(&self, name: &dyn Fn(&str) -> String) -> Result<()> {
        // Far above any published model; they keep products of two sizes well inside 64 bits.
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
        positive(&name("rope_theta"), self.rope_theta)?;
        match &self.rope_scaling {
            None => {}
            Some(RopeScaling::Linear { factor }) => positive(&name("rope_scaling.factor"), *factor)?,
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }) => {
                positive(&name("rope_scaling.factor"), *factor)?;
                positive(&name("rope_scaling.low_freq_factor"), *low)?;
                positive(&name("rope_scaling.high_freq_factor"), *high)?;
                positive(&name("rope_scaling.original_max_position_embeddings"), *original as f32)?;
                if high <= low {
                    return Err(Error::request(format!(
                        "`{}` ({high}) must be greater than `{}` ({low})",
                        name("rope_scaling.high_freq_factor"),
                        name("rope_scaling.low_freq_factor")
                    )));
                }
            }
            Some(RopeScaling::Factors(factors)) => {
                if factors.len() != self.head_dim / 2 {
                    let (n, want) = (factors.len(), self.head_dim / 2);
                    return Err(Error::request(format!("`rope_freqs.weight` has {n} factors, must have {want}")));
                }
                factors.iter().try_for_each(|factor| positive("rope_freqs.weight", *factor))?;
            }
        }
        Ok(())
    }

    /// RoPE frequencies in radians per position, `[head_dim / 2]`, with the scaling applied: the `inv_freq` of
    /// transformers' `modeling_rope_utils` (`_compute_llama3_parameters` for Llama 3), in its operations and f32.
    pub fn inv_freq(&self) -> Vec<f32> {
        let plain = (0..self.head_dim).step_by(2).map(|i| 1.0 / self.rope_theta.powf(i as f32 / self.head_dim as f32));
        match &self.rope_scaling {
            None => plain.collect(),
            Some(RopeScaling::Linear { factor }) => plain.map(|f| f / factor).collect(),
            Some(RopeScaling::Factors(factors)) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }) => {
                let original = *original as f32;
                let scale = |f: f32| {
                    let wavelength = 2.0 * std::f32::consts::PI / f;
                    if wavelength < original / high {
                        f
                    } else if wavelength > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain.map(scale).collect()
            }
        }
    }
}

fn positive(name: &str, value: f32) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(Error::request(format!("`{name}` is {value}, must be a positive number")))
    }
}

#[cfg(test)]
mod tests;
