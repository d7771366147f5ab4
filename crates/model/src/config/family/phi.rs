//! Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini: q, k and v are one projection, gate and up another. Models for long
//! contexts have `LongRoPE`. In Phi-4-mini only a part of each head is rotated.

use super::{Defaults, SILU, Spec};
use crate::config::fields::{LONG_FACTORS, SHORT_FACTORS};
use crate::config::{Family, Fused, RopeScaling};

/// The context length before scaling that is written and read where the configuration has none.
const ORIGINAL: usize = 4096;

pub(super) const SPEC: Spec = Spec {
    family: Family::Phi3,
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    inside: None,
    architecture: "phi3",
    interleaved: false,
    reads: &[
        "partial_rotary_factor",
        "original_max_position_embeddings",
        "rope.dimension_count",
        "rope.scaling.attn_factor",
    ],
    known: &["full_attn_mod", "interpolate_factor", "sliding_window"],
    activations: SILU,
    defaults: Defaults { positions: 4096, eps: 1e-5, ..Defaults::LLAMA },
    read: |config, keys| {
        config.layer.fused = Fused { qkv: true, gate_up: true };
        config.sliding_window = keys.optional_size("sliding_window")?;
        Ok(())
    },
    write: |config, map| {
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
        if let Some(RopeScaling::LongRope { original_max_position_embeddings: n, .. }) = &config.rope_scaling {
            map.insert("original_max_position_embeddings".to_owned(), (*n).into());
        }
    },
    read_gguf: |config, file| {
        config.layer.fused = Fused { qkv: true, gate_up: true };
        config.sliding_window = file.window()?;
        if let (Some(long), Some(short)) = (file.floats(LONG_FACTORS), file.floats(SHORT_FACTORS)) {
            let original = file.size("rope.scaling.original_context_length")?.unwrap_or(ORIGINAL);
            let factor = config.max_position_embeddings as f32 / original.max(1) as f32;
            let attention = file.f32("rope.scaling.attn_factor")?;
            config.rope_scaling = Some(RopeScaling::LongRope {
                short,
                long,
                original_max_position_embeddings: u32::try_from(original).unwrap_or(u32::MAX),
                attention_factor: attention.unwrap_or_else(|| RopeScaling::longrope_attention(factor, original as f32)),
            });
        }
        Ok(())
    },
    write_gguf: |config, out| {
        out.size("sliding_window", config.sliding_window.unwrap_or(0));
        let original = match &config.rope_scaling {
            Some(RopeScaling::LongRope { original_max_position_embeddings, attention_factor, .. }) => {
                out.number("rope_scaling.attention_factor", *attention_factor);
                *original_max_position_embeddings as usize
            }
            _ => ORIGINAL,
        };
        out.size("rope_scaling.original_max_position_embeddings", original);
    },
};
