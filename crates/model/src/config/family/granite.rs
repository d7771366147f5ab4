//! Granite 3, dense: Llama with constants that multiply the embeddings, the attention scores, the outputs of attention
//! and MLP, and the logits.

use super::{Defaults, SILU, Spec, gguf_biases, read_biases, write_biases};
use crate::config::rope::plain;
use crate::config::{Family, ModelConfig};
use serde_json::json;

pub(super) const SPEC: Spec = Spec {
    family: Family::Granite,
    model_type: "granite",
    class: "GraniteForCausalLM",
    inside: None,
    architecture: "granite",
    interleaved: true,
    reads: &[
        "attention_bias",
        "mlp_bias",
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "attention.scale",
        "embedding_scale",
        "residual_scale",
        "logit_scale",
    ],
    known: &[],
    activations: SILU,
    defaults: Defaults::LLAMA,
    read: |config, keys| {
        read_biases(config, keys)?;
        let constant = |key: &str| keys.number_f32(key);
        // The default of the class is a scale of 1, not one over the square root of a head's width.
        let constants = [
            constant("attention_multiplier")?.or(Some(1.0)),
            constant("embedding_multiplier")?,
            constant("residual_multiplier")?,
            constant("logits_scaling")?,
        ];
        set(config, constants);
        Ok(())
    },
    write: |config, map| {
        write_biases(config, map);
        let layer = &config.layer;
        let usual = 1.0 / (config.head_dim as f32).sqrt();
        map.insert("attention_multiplier".to_owned(), json!(plain(layer.attention_scale.unwrap_or(usual))));
        map.insert("embedding_multiplier".to_owned(), json!(plain(layer.embedding_multiplier.unwrap_or(1.0))));
        map.insert("residual_multiplier".to_owned(), json!(plain(layer.residual_multiplier.unwrap_or(1.0))));
        map.insert("logits_scaling".to_owned(), json!(plain(1.0 / layer.logit_multiplier.unwrap_or(1.0))));
    },
    read_gguf: |config, file| {
        gguf_biases(config, file);
        let constant = |key: &str| Ok::<_, crate::Error>(file.f32(key)?.filter(|x| *x != 0.0));
        let constants = [
            constant("attention.scale")?,
            constant("embedding_scale")?,
            constant("residual_scale")?,
            constant("logit_scale")?,
        ];
        set(config, constants);
        Ok(())
    },
    write_gguf: |config, out| {
        let layer = &config.layer;
        let constants = [
            ("attention_scale", layer.attention_scale),
            ("embedding_multiplier", layer.embedding_multiplier),
            ("residual_multiplier", layer.residual_multiplier),
            ("logits_scaling", layer.logit_multiplier.map(|x| 1.0 / x)),
        ];
        for (key, constant) in constants {
            if let Some(x) = constant {
                out.number(key, x);
            }
        }
    },
};

/// Scores, embeddings and residuals are multiplied by these constants, logits are divided by theirs.
fn set(config: &mut ModelConfig, [attention, embedding, residual, logits]: [Option<f32>; 4]) {
    let other_than_one = |x: Option<f32>| x.filter(|x| (x - 1.0).abs() > f32::EPSILON);
    config.layer.attention_scale = attention;
    config.layer.embedding_multiplier = other_than_one(embedding);
    config.layer.residual_multiplier = other_than_one(residual);
    config.layer.logit_multiplier = other_than_one(logits).map(|x| 1.0 / x);
}
