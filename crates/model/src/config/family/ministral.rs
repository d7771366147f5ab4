//! Ministral 3, the text model: Mistral with `YaRN`, and a factor of the queries that grows with their position.

use super::{Defaults, SILU, Spec};
use crate::Error;
use crate::config::{Family, QueryScale, RopeScaling};
use serde_json::json;

pub(super) const SPEC: Spec = Spec {
    family: Family::Ministral3,
    model_type: "ministral3",
    class: "Ministral3ForCausalLM",
    inside: Some(("mistral3", "Mistral3ForConditionalGeneration")),
    architecture: "mistral3",
    interleaved: true,
    reads: &["attention.temperature_scale", "rope.scaling.yarn_log_multiplier"],
    known: &["sliding_window", "llama_4_scaling_beta"],
    activations: SILU,
    defaults: Defaults {
        positions: 262_144,
        eps: 1e-5,
        theta: 1e6,
        head_dim: Some(128),
        sizes: &[
            ("hidden_size", 4096),
            ("intermediate_size", 14336),
            ("num_hidden_layers", 34),
            ("num_attention_heads", 32),
            ("num_key_value_heads", 8),
            ("vocab_size", 131_072),
        ],
        ..Defaults::LLAMA
    },
    read: |config, keys| {
        config.sliding_window = keys.optional_size("sliding_window")?;
        let nested = match keys.object("rope_scaling", "rope_scaling.")? {
            Some(found) => Some(found),
            None => keys.object("rope_parameters", "rope_parameters.")?,
        };
        let Some(nested) = nested else {
            // What the class of transformers has in the place of a rotation that is not there.
            config.rope_scaling = Some(RopeScaling::Yarn {
                factor: 16.0,
                original_max_position_embeddings: 16384,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 1.0,
                truncate: true,
            });
            config.layer.query_scale = Some(QueryScale { beta: 0.1, original: 16384 });
            return Ok(());
        };
        let beta = nested.number_f32("llama_4_scaling_beta")?;
        if beta.is_some_and(|beta| beta != 0.0) && !matches!(config.rope_scaling, Some(RopeScaling::Yarn { .. })) {
            let key = nested.named("llama_4_scaling_beta");
            return Err(Error::request(format!("`{key}` without YaRN is not supported"))
                .hint("published models of this family have `rope_type` yarn"));
        }
        config.layer.query_scale =
            beta.filter(|beta| *beta != 0.0).map(|beta| QueryScale { beta, original: original(config) });
        Ok(())
    },
    write: |config, map| {
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
        if let Some(scale) = config.layer.query_scale
            && let Some(scaling) = map.get_mut("rope_scaling").and_then(serde_json::Value::as_object_mut)
        {
            scaling.insert("llama_4_scaling_beta".to_owned(), json!(crate::config::rope::plain(scale.beta)));
        }
    },
    read_gguf: |config, file| {
        config.sliding_window = file.window()?;
        // The multiplier of the logarithm, as in DeepSeek. It cancels the factor of cosines and sines.
        let cancelled = file.f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(1.0) != 0.0;
        if let Some(RopeScaling::Yarn { attention_factor, .. }) = &mut config.rope_scaling
            && cancelled
        {
            *attention_factor = 1.0;
        }
        let beta = file.f32("attention.temperature_scale")?.filter(|beta| *beta != 0.0);
        config.layer.query_scale = beta.map(|beta| QueryScale { beta, original: original(config) });
        Ok(())
    },
    write_gguf: |config, out| {
        out.window(config);
        if let Some(RopeScaling::Yarn { attention_factor, beta_fast, beta_slow, .. }) = &config.rope_scaling {
            out.number("rope_scaling.beta_fast", *beta_fast);
            out.number("rope_scaling.beta_slow", *beta_slow);
            // A multiplier of 1 stands for cosines and sines as they are.
            let cancelled = (attention_factor - 1.0).abs() <= f32::EPSILON;
            if cancelled {
                out.remove("rope.scaling.yarn_attn_factor");
            }
            out.number("rope.scaling.yarn_log_multiplier", f32::from(u8::from(cancelled)));
        }
        if let Some(scale) = config.layer.query_scale {
            out.number("llama_4_scaling_beta", scale.beta);
        }
    },
};

/// Context length before scaling.
fn original(config: &crate::config::ModelConfig) -> u32 {
    match &config.rope_scaling {
        Some(RopeScaling::Yarn { original_max_position_embeddings, .. }) => *original_max_position_embeddings,
        _ => u32::try_from(config.max_position_embeddings).unwrap_or(u32::MAX),
    }
}
