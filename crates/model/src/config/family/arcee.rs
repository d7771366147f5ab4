//! Arcee's AFM: Llama, but the MLP has no gate, and its activation is the square of `ReLU`.

use super::{Defaults, Spec, gguf_biases, read_biases, write_biases};
use crate::config::{Family, Mlp};

pub(super) const SPEC: Spec = Spec {
    family: Family::Arcee,
    model_type: "arcee",
    class: "ArceeForCausalLM",
    inside: None,
    architecture: "arcee",
    interleaved: true,
    reads: &["attention_bias", "mlp_bias"],
    known: &[],
    activations: &["relu2"],
    defaults: Defaults { positions: 4096, eps: 1e-5, ..Defaults::LLAMA },
    read: |config, keys| {
        config.layer.mlp = Mlp::ReluSquared;
        read_biases(config, keys)
    },
    write: write_biases,
    read_gguf: |config, file| {
        config.layer.mlp = Mlp::ReluSquared;
        gguf_biases(config, file);
        Ok(())
    },
    write_gguf: |_, _| {},
};
