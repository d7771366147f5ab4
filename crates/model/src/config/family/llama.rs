//! Llama 1 to 3 and all models of the same architecture. Other families are described by how they differ from it.

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
    // In transformers Llama has no sliding window, even where config.json gives one.
    read: read_biases,
    write: write_biases,
    read_gguf: |config, file| {
        gguf_biases(config, file);
        Ok(())
    },
    write_gguf: |_, _| {},
};
