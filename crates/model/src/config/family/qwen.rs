//! Qwen2 and Qwen2.5 (biases on q, k and v), and the dense Qwen3 (norms of each head of q and k).

use super::{Defaults, SILU, Spec, gguf_biases, read_biases, set_windows, write_biases};
use crate::Result;
use crate::config::keys::Keys;
use crate::config::{Family, ModelConfig, QkNorm};
use serde_json::{Map, Value, json};

/// The sliding window that transformers assumes, and the first layer that has it.
const WINDOW: usize = 4096;
const FIRST_WINDOWED: usize = 28;

pub(super) const QWEN2: Spec = Spec {
    family: Family::Qwen2,
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    inside: None,
    architecture: "qwen2",
    interleaved: false,
    reads: &[],
    known: &["max_window_layers", "sliding_window", "use_sliding_window"],
    activations: SILU,
    defaults: Defaults { positions: 32768, ..Defaults::LLAMA },
    read: |config, keys| {
        config.qkv_bias = true;
        windows(config, keys)
    },
    write: write_windows,
    read_gguf: |config, file| {
        config.qkv_bias = true;
        config.sliding_window = file.window()?;
        Ok(())
    },
    write_gguf: |config, out| out.window(config),
};

pub(super) const QWEN3: Spec = Spec {
    family: Family::Qwen3,
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    inside: None,
    architecture: "qwen3",
    interleaved: false,
    reads: &["attention_bias"],
    known: &["max_window_layers", "sliding_window", "use_sliding_window"],
    activations: SILU,
    defaults: Defaults { positions: 32768, head_dim: Some(128), ..Defaults::LLAMA },
    read: |config, keys| {
        config.layer.qk_norm = QkNorm::Head;
        read_biases(config, keys)?;
        windows(config, keys)
    },
    write: |config, map| {
        write_biases(config, map);
        map.remove("mlp_bias");
        write_windows(config, map);
    },
    read_gguf: |config, file| {
        config.layer.qk_norm = QkNorm::Head;
        gguf_biases(config, file);
        config.sliding_window = file.window()?;
        Ok(())
    },
    write_gguf: |config, out| out.window(config),
};

fn windows(config: &mut ModelConfig, keys: Keys<'_>) -> Result<()> {
    if !keys.flag("use_sliding_window")? {
        return Ok(());
    }
    let window = keys.size_or("sliding_window", Some(WINDOW))?;
    let first = keys.optional_size("max_window_layers")?.unwrap_or(FIRST_WINDOWED);
    let by_number = || (0..config.num_layers).map(|layer| layer >= first).collect();
    let windowed = keys.windowed(config.num_layers)?.unwrap_or_else(by_number);
    set_windows(config, window, windowed);
    Ok(())
}

fn write_windows(config: &ModelConfig, map: &mut Map<String, Value>) {
    map.insert("use_sliding_window".to_owned(), config.sliding_window.is_some().into());
    map.insert("sliding_window".to_owned(), config.sliding_window.into());
    // In transformers this is the first layer with the window.
    let first = if config.sliding_window.is_some() { 0 } else { config.num_layers };
    map.insert("max_window_layers".to_owned(), json!(first));
    super::write_layer_types(config, map);
}
