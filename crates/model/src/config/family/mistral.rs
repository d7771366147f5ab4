//! Mistral 7B, Nemo and Small: Llama with a sliding window in the first of them, and heads of a width of their own.

use super::{Defaults, SILU, Spec};
use crate::config::Family;

/// The window that transformers assumes where config.json has no such key.
const WINDOW: usize = 4096;

pub(super) const SPEC: Spec = Spec {
    family: Family::Mistral,
    model_type: "mistral",
    class: "MistralForCausalLM",
    inside: None,
    // A file with a window; without one it cannot be told from Llama, and need not be.
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
};
