//! Names of GGUF metadata, and the metadata of one architecture while it is made. Invariant: what is read and what is
//! written have their names from one table.

use super::ModelConfig;
use crate::gguf::{Field, Fields};

/// Tensors that hold the factors by which the frequencies of a rotation are divided.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// The same of `LongRoPE`, for short sequences and for long ones.
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";

/// The metadata key, without the architecture before it, that has the value of a key of config.json.
pub(super) fn key_of(hf: &str) -> Option<&'static str> {
    Some(match hf {
        "hidden_size" => "embedding_length",
        "intermediate_size" => "feed_forward_length",
        "num_hidden_layers" => "block_count",
        "num_attention_heads" => "attention.head_count",
        "num_key_value_heads" => "attention.head_count_kv",
        "head_dim" => "attention.key_length",
        "max_position_embeddings" => "context_length",
        "num_experts" => "expert_count",
        "num_experts_per_tok" => "expert_used_count",
        "moe_intermediate_size" => "expert_feed_forward_length",
        "sliding_window" => "attention.sliding_window",
        "layer_types" => "attention.sliding_window_pattern",
        "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
        "rope_theta" => "rope.freq_base",
        "rope_local_base_freq" => "rope.freq_base_swa",
        "rope_scaling.type" => "rope.scaling.type",
        "rope_scaling.factor" => "rope.scaling.factor",
        "rope_scaling.original_max_position_embeddings" => "rope.scaling.original_context_length",
        "rope_scaling.attention_factor" => "rope.scaling.attn_factor",
        "rope_scaling.beta_fast" => "rope.scaling.yarn_beta_fast",
        "rope_scaling.beta_slow" => "rope.scaling.yarn_beta_slow",
        "partial_rotary_factor" => "rope.dimension_count",
        "attention_scale" => "attention.scale",
        "attn_logit_softcapping" => "attn_logit_softcapping",
        "final_logit_softcapping" => "final_logit_softcapping",
        "embedding_multiplier" => "embedding_scale",
        "residual_multiplier" => "residual_scale",
        "logits_scaling" => "logit_scale",
        "llama_4_scaling_beta" => "attention.temperature_scale",
        _ => return None,
    })
}

/// The metadata of one architecture while it is made; keys are given by their names in config.json where these have
/// one, else as they are in the file, without the architecture.
pub(super) struct Writer<'a> {
    pub(super) architecture: &'a str,
    pub(super) fields: Fields,
}

impl Writer<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{}", self.architecture, key_of(name).unwrap_or(name))
    }

    pub(super) fn put(&mut self, name: &str, field: Field) {
        self.fields.insert(self.key(name), field);
    }

    pub(super) fn remove(&mut self, name: &str) {
        let key = self.key(name);
        self.fields.remove(&key);
    }

    pub(super) fn size(&mut self, name: &str, n: usize) {
        self.put(name, Field::U32(u32::try_from(n).unwrap_or(u32::MAX)));
    }

    pub(super) fn number(&mut self, name: &str, x: f32) {
        self.put(name, Field::F32(x));
    }

    /// The sliding window, where there is one.
    pub(super) fn window(&mut self, config: &ModelConfig) {
        if let Some(n) = config.sliding_window {
            self.size("sliding_window", n);
        }
    }

    /// Which layers have the sliding window.
    pub(super) fn pattern(&mut self, config: &ModelConfig) {
        if config.sliding_window.is_some() {
            let windowed = (0..config.num_layers).map(|layer| config.window(layer).is_some()).collect();
            self.put("layer_types", Field::Bools(windowed));
        }
    }
}
