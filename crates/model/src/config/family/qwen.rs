//! Qwen2 and Qwen2.5 (biases on q, k and v), the dense Qwen3 (norms of each head of q and k), and Qwen3 with experts.

use super::{
    Defaults, SILU, Spec, experts, gguf_biases, gguf_experts, read_biases, set_windows, write_biases, write_experts,
};
use crate::config::keys::Keys;
use crate::config::{Family, ModelConfig, QkNorm};
use crate::{Error, Result};
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

pub(super) const QWEN3_MOE: Spec = Spec {
    family: Family::Qwen3Moe,
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    architecture: "qwen3moe",
    reads: &["attention_bias", "num_experts", "num_local_experts", "expert_count", "expert_used_count"],
    known: &[
        "decoder_sparse_step",
        "expert_feed_forward_length",
        "max_window_layers",
        "mlp_only_layers",
        "moe_intermediate_size",
        "norm_topk_prob",
        "num_experts_per_tok",
        "output_router_logits",
        "router_aux_loss_coef",
        "sliding_window",
        "use_sliding_window",
    ],
    defaults: Defaults {
        positions: 32768,
        sizes: &[("num_key_value_heads", 4), ("intermediate_size", 6144)],
        ..Defaults::LLAMA
    },
    read: |config, keys| {
        config.layer.qk_norm = QkNorm::Head;
        read_biases(config, keys)?;
        // Here a window is one of all layers.
        if keys.flag("use_sliding_window")? {
            config.sliding_window = keys.size_or("sliding_window", Some(WINDOW))?;
        }
        let step = keys.optional_size("decoder_sparse_step")?.unwrap_or(1);
        let dense = keys.get("mlp_only_layers").and_then(Value::as_array).is_some_and(|layers| !layers.is_empty());
        if step != 1 || dense {
            let key = keys.named(if dense { "mlp_only_layers" } else { "decoder_sparse_step" });
            return Err(Error::request(format!("`{key}`: layers without experts are not supported in qwen3_moe")));
        }
        config.intermediate_size = keys.optional_size("moe_intermediate_size")?.unwrap_or(EXPERT);
        config.layer.mixture = Some(experts(keys, [128, 8], keys.flag("norm_topk_prob")?)?);
        Ok(())
    },
    write: |config, map| {
        write_biases(config, map);
        map.remove("mlp_bias");
        map.insert("use_sliding_window".to_owned(), config.sliding_window.is_some().into());
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
        map.insert("moe_intermediate_size".to_owned(), config.intermediate_size.into());
        map.insert("norm_topk_prob".to_owned(), config.layer.mixture.is_some_and(|m| m.normalised).into());
        write_experts(config, map);
    },
    read_gguf: |config, file| {
        config.layer.qk_norm = QkNorm::Head;
        gguf_biases(config, file);
        config.intermediate_size = file.required("expert_feed_forward_length")?;
        config.layer.mixture = Some(file.experts(true)?);
        Ok(())
    },
    write_gguf: |config, out| {
        gguf_experts(config, out);
        out.size("moe_intermediate_size", config.intermediate_size);
    },
    ..QWEN3
};

/// The width of an expert that transformers assumes.
const EXPERT: usize = 768;

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
