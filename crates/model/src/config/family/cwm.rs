//! Code World Model (CWM): Llama with Llama 3's scaling of the rotation, and a sliding window on all layers but every
//! fourth, the first among them.

use super::{Defaults, SILU, Spec, set_windows, write_biases, write_layer_types};
use crate::config::{Family, RopeScaling};

/// The sliding window that transformers assumes, and n, where every n-th layer has none.
const WINDOW: usize = 8192;
const PERIOD: usize = 4;
/// The scaling that transformers assumes.
const SCALING: RopeScaling = RopeScaling::Llama3 {
    factor: 16.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_max_position_embeddings: 8192,
};

pub(super) const SPEC: Spec = Spec {
    family: Family::Cwm,
    model_type: "cwm",
    class: "CwmForCausalLM",
    inside: None,
    // llama.cpp has no architecture for it. Without windows the file is one of Llama. Windows are not written, so that
    // a model with them is refused by their name.
    architecture: "llama",
    interleaved: true,
    reads: &["mlp_bias"],
    known: &["sliding_window"],
    activations: SILU,
    defaults: Defaults {
        positions: 131_072,
        eps: 1e-5,
        theta: 1_000_000.0,
        head_dim: Some(128),
        sizes: &[("num_key_value_heads", 8)],
        ..Defaults::LLAMA
    },
    read: |config, keys| {
        config.layer.biases.mlp = keys.flag("mlp_bias")?;
        if keys.get("rope_parameters").is_none() && keys.get("rope_scaling").is_none() {
            // As in transformers, a base alone has no effect.
            (config.rope_theta, config.rope_scaling) = (SPEC.defaults.theta, Some(SCALING));
        }
        let window = keys.size_or("sliding_window", Some(WINDOW))?.filter(|n| *n > 0);
        let by_number = || (0..config.num_layers).map(|layer| !layer.is_multiple_of(PERIOD)).collect();
        let windowed = keys.windowed(config.num_layers)?.unwrap_or_else(by_number);
        set_windows(config, window, windowed);
        Ok(())
    },
    write: |config, map| {
        write_biases(config, map);
        map.remove("attention_bias");
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
        write_layer_types(config, map);
        if config.layer.windowed.is_none() && config.sliding_window.is_some() {
            // Without the key every fourth layer has no window.
            map.insert("layer_types".to_owned(), vec!["sliding_attention"; config.num_layers].into());
        }
    },
    read_gguf: |_, _| Ok(()),
    write_gguf: |_, _| {},
};
