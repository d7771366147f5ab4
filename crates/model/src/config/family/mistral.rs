//! Mistral 7B, Nemo and Small: Llama, with a sliding window in the first Mistral 7B, and a width of heads that is a key
//! of its own.

use super::{Defaults, SILU, Spec};
use crate::config::Family;

/// The sliding window that transformers assumes where config.json does not have the key.
const WINDOW: usize = 4096;

pub(super) const SPEC: Spec = Spec {
    family: Family::Mistral,
    model_type: "mistral",
    class: "MistralForCausalLM",
    inside: None,
    // Only for files with a sliding window. Without one the file is the same as one of Llama, and is read as Llama.
    architecture: "llama",
    interleaved: true,
    reads: &[],
    known: &["sliding_window"],
    activations: SILU,
    defaults: Defaults { positions: 4096 * 32, ..Defaults::LLAMA },
    read: |config, keys| {
        config.sliding_window = keys.size_or("sliding_window", Some(WINDOW))?;
        Ok(())
    },
    write: |config, map| {
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
    },
    read_gguf: |config, file| {
        config.sliding_window = file.window()?;
        Ok(())
    },
    write_gguf: |config, out| out.window(config),
};
