//! Llama 1 to 3 and all that share the architecture: the layer that the others are described against.

use super::{Defaults, SILU, Spec, gguf_biases, read_biases, write_biases};
use crate::config::Family;

pub(super) const SPEC: Spec = Spec {
    family: Family::Llama,
    model_type: "llama",
    class: "LlamaForCausalLM",
    inside: None,
    architecture: "llama",
    interleaved: true,
    reads: &["attention_bias", "mlp_bias"],
    known: &["sliding_window"],
    activations: SILU,
    defaults: Defaults::LLAMA,
    // transformers' Llama has no window, whatever its config.json says.
    read: read_biases,
    write: write_biases,
    read_gguf: |config, file| {
        gguf_biases(config, file);
        Ok(())
    },
};
