//! Seed-OSS: Llama with biases on q, k and v, and a width of heads that is a key of its own.

use super::{Defaults, SILU, Spec, gguf_biases};
use crate::config::Family;

pub(super) const SPEC: Spec = Spec {
    family: Family::SeedOss,
    model_type: "seed_oss",
    class: "SeedOssForCausalLM",
    inside: None,
    architecture: "seed_oss",
    interleaved: false,
    reads: &["attention_bias", "mlp_bias"],
    known: &["attention_out_bias", "residual_dropout"],
    activations: SILU,
    defaults: Defaults {
        positions: 524_288,
        head_dim: Some(128),
        sizes: &[("num_key_value_heads", 8)],
        ..Defaults::LLAMA
    },
    read: |config, keys| {
        config.qkv_bias = keys.bool("attention_bias")?.unwrap_or(true);
        config.layer.biases.output = keys.flag("attention_out_bias")?;
        config.layer.biases.mlp = keys.flag("mlp_bias")?;
        Ok(())
    },
    write: |config, map| {
        map.insert("attention_bias".to_owned(), config.qkv_bias.into());
        map.insert("attention_out_bias".to_owned(), config.layer.biases.output.into());
        map.insert("mlp_bias".to_owned(), config.layer.biases.mlp.into());
    },
    read_gguf: |config, file| {
        gguf_biases(config, file);
        Ok(())
    },
    write_gguf: |_, _| {},
};
