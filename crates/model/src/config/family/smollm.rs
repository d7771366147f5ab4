//! `SmolLM3`: Llama, but every fourth layer does not rotate queries and keys.

use super::{Defaults, SILU, Spec, every, gguf_biases, read_biases, set_windows, write_biases};
use crate::Error;
use crate::config::{Family, ModelConfig};
use serde_json::{Value, json};

/// Every so many layers one does not rotate.
const PERIOD: usize = 4;

pub(super) const SPEC: Spec = Spec {
    family: Family::SmolLm3,
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    inside: None,
    architecture: "smollm3",
    interleaved: true,
    reads: &["attention_bias", "mlp_bias", "no_rope_layers"],
    known: &["max_window_layers", "no_rope_layer_interval", "sliding_window", "use_sliding_window"],
    activations: SILU,
    defaults: Defaults {
        positions: 32768,
        theta: 2e6,
        tied: true,
        sizes: &[("num_key_value_heads", 4)],
        ..Defaults::LLAMA
    },
    read: |config, keys| {
        read_biases(config, keys)?;
        let rotated = match keys.get("no_rope_layers") {
            None => every(keys.optional_size("no_rope_layer_interval")?.unwrap_or(PERIOD), config.num_layers),
            Some(list) => {
                let flag = |value: &Value| value.as_u64().map(|n| n != 0).or_else(|| value.as_bool());
                let flags: Option<Vec<bool>> = list.as_array().and_then(|list| list.iter().map(flag).collect());
                flags.ok_or_else(|| keys.wrong("no_rope_layers", "a list of 0 and 1", list))?
            }
        };
        if rotated.len() != config.num_layers {
            let (n, layers) = (rotated.len(), config.num_layers);
            return Err(Error::request(format!("`no_rope_layers` has {n} entries for {layers} layers")));
        }
        let window = if keys.flag("use_sliding_window")? { keys.optional_size("sliding_window")? } else { None };
        let by_rotation = || rotated.iter().map(|rotated| !rotated).collect();
        let windowed = keys.windowed(config.num_layers)?.unwrap_or_else(by_rotation);
        set_windows(config, window, windowed);
        set_rotated(config, rotated);
        Ok(())
    },
    write: |config, map| {
        write_biases(config, map);
        let rotated = (0..config.num_layers).map(|layer| u8::from(config.rope_of(layer).is_some()));
        map.insert("no_rope_layers".to_owned(), json!(rotated.collect::<Vec<_>>()));
        map.insert("use_sliding_window".to_owned(), config.sliding_window.is_some().into());
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
        super::write_layer_types(config, map);
    },
    read_gguf: |config, file| {
        gguf_biases(config, file);
        // The number is in llama.cpp's code, not in the file.
        let rotated = every(PERIOD, config.num_layers);
        set_rotated(config, rotated);
        Ok(())
    },
    write_gguf: |_, _| {},
};

fn set_rotated(config: &mut ModelConfig, rotated: Vec<bool>) {
    config.layer.rotated = rotated.contains(&false).then_some(rotated);
}
