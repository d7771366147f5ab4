//! EXAONE 4: norms only after attention and after the MLP, and one for each head of q and k. In the larger model every
//! fourth layer has no sliding window, and only layers with a window rotate queries and keys.

use super::{Defaults, SILU, Spec, every, set_windows, write_layer_types};
use crate::config::{Family, ModelConfig, NormPlacement, QkNorm};
use serde_json::Value;

/// The sliding window that transformers assumes, and n, where every n-th layer has none.
const WINDOW: usize = 4096;
const PERIOD: usize = 4;

pub(super) const SPEC: Spec = Spec {
    family: Family::Exaone4,
    model_type: "exaone4",
    class: "Exaone4ForCausalLM",
    inside: None,
    architecture: "exaone4",
    interleaved: false,
    reads: &[],
    known: &["sliding_window", "sliding_window_pattern"],
    activations: SILU,
    defaults: Defaults { eps: 1e-5, ..Defaults::LLAMA },
    read: |config, keys| {
        let window = keys.size_or("sliding_window", Some(WINDOW))?;
        // The pattern is a number n (every n-th layer has no window), or letters, where L is a layer with a window.
        let by_pattern = || match keys.get("sliding_window_pattern") {
            Some(Value::String(letters)) if !letters.is_empty() => {
                letters.chars().cycle().take(config.num_layers).map(|letter| letter == 'L').collect()
            }
            other => every(other.and_then(Value::as_u64).map_or(PERIOD, |n| n as usize), config.num_layers),
        };
        let windowed = keys.windowed(config.num_layers)?.unwrap_or_else(by_pattern);
        describe(config, window, windowed);
        Ok(())
    },
    write: |config, map| {
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
        write_layer_types(config, map);
    },
    read_gguf: |config, file| {
        let windowed = file.pattern(config.num_layers)?.unwrap_or_else(|| every(PERIOD, config.num_layers));
        describe(config, file.window()?, windowed);
        Ok(())
    },
    write_gguf: |config, out| {
        out.window(config);
        out.pattern(config);
    },
};

/// Where the configuration has a window, layers without it do not rotate, even where no layer has it.
fn describe(config: &mut ModelConfig, window: Option<usize>, windowed: Vec<bool>) {
    config.layer.norms = NormPlacement::After;
    config.layer.qk_norm = QkNorm::Head;
    config.layer.rotated = (window.is_some() && windowed.contains(&false)).then(|| windowed.clone());
    set_windows(config, window, windowed);
}
