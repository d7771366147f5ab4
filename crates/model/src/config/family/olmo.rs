//! `OLMo` 2 and 3: norms only after attention and after the MLP, and one for the whole projections of q and k. In
//! `OLMo` 3 every fourth layer has no sliding window, and only these layers scale their rotation.

use super::{Defaults, SILU, Spec, every, read_biases, set_windows, write_biases, write_layer_types};
use crate::config::{Family, ModelConfig, NormPlacement, QkNorm, Rope};
use serde_json::{Map, Value};

/// The sliding window that transformers assumes.
const WINDOW: usize = 4096;
/// Every so many layers one has no sliding window.
const PERIOD: usize = 4;

pub(super) const OLMO2: Spec = Spec {
    family: Family::Olmo2,
    model_type: "olmo2",
    class: "Olmo2ForCausalLM",
    inside: None,
    architecture: "olmo2",
    interleaved: false,
    reads: &["attention_bias", "rope.scaling.attn_factor"],
    // A GGUF file of OLMo 3 is of the same architecture.
    known: &["attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"],
    activations: SILU,
    defaults: Defaults { eps: 1e-5, ..Defaults::LLAMA },
    read: |config, keys| {
        describe(config);
        read_biases(config, keys)
    },
    write,
    read_gguf: |config, file| {
        describe(config);
        let Some(window) = file.window()? else { return Ok(()) };
        // Files of OLMo 3 have the same architecture name.
        config.family = Family::Olmo3;
        let windowed = file.pattern(config.num_layers)?.unwrap_or_else(|| every(PERIOD, config.num_layers));
        let theta = file.f32("rope.freq_base_swa")?.unwrap_or(config.rope_theta);
        set_windows(config, Some(window), windowed);
        set_rope(config, Rope { theta, scaling: None });
        Ok(())
    },
    write_gguf: |_, _| {},
};

pub(super) const OLMO3: Spec = Spec {
    family: Family::Olmo3,
    model_type: "olmo3",
    class: "Olmo3ForCausalLM",
    inside: None,
    architecture: "olmo2",
    interleaved: false,
    reads: &["attention_bias"],
    known: &["sliding_window"],
    activations: SILU,
    defaults: Defaults { eps: 1e-5, theta: 500_000.0, window_theta: Some(500_000.0), ..Defaults::LLAMA },
    read: |config, keys| {
        describe(config);
        read_biases(config, keys)?;
        let window = keys.size_or("sliding_window", Some(WINDOW))?;
        let windowed = keys.windowed(config.num_layers)?.unwrap_or_else(|| every(PERIOD, config.num_layers));
        set_windows(config, window, windowed);
        if let Some(rope) = config.layer.window_rope.take() {
            set_rope(config, rope);
        }
        Ok(())
    },
    write: |config, map| {
        write(config, map);
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
        write_layer_types(config, map);
    },
    read_gguf: OLMO2.read_gguf,
    write_gguf: |config, out| {
        out.window(config);
        out.pattern(config);
        if config.sliding_window.is_some() {
            let theta = config.layer.window_rope.as_ref().map_or(config.rope_theta, |rope| rope.theta);
            out.number("rope_local_base_freq", theta);
        }
    },
};

fn describe(config: &mut ModelConfig) {
    config.layer.norms = NormPlacement::After;
    config.layer.qk_norm = QkNorm::Whole;
}

/// The rotation of layers with a window, where there are such layers and it differs from that of the others.
fn set_rope(config: &mut ModelConfig, rope: Rope) {
    config.layer.window_rope = (config.sliding_window.is_some() && rope != config.rope()).then_some(rope);
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    write_biases(config, map);
    map.remove("mlp_bias");
}
