//! The shape of a decoder, from a Hugging Face config.json or GGUF metadata. Invariant: every size was checked to be
//! positive, bounded and consistent (`heads % kv_heads == 0`, `head_dim` even), so that no later code has to.

use serde::{Deserialize, Serialize};

/// Model family: what differs between them is in the fields of [`ModelConfig`], so this is for export and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 1 to 3, SmolLM2, TinyLlama and all that share the architecture.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: Llama with biases on q, k and v.
    Qwen2,
}

/// RoPE frequency scaling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
