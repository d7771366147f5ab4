//! Mixtral: Mistral with experts in the place of the MLP. In GGUF it is of the architecture `llama`, as Mistral.

use super::{Defaults, SILU, Spec, experts, gguf_experts, write_experts};
use crate::config::{Family, MlpNames};

pub(super) const SPEC: Spec = Spec {
    family: Family::Mixtral,
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    inside: None,
    architecture: "llama",
    interleaved: true,
    reads: &["num_experts", "num_local_experts", "expert_count", "expert_used_count"],
    known: &[
        "num_experts_per_tok",
        "output_router_logits",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "sliding_window",
    ],
    activations: SILU,
    defaults: Defaults {
        positions: 4096 * 32,
        eps: 1e-5,
        theta: 1e6,
        sizes: &[("num_key_value_heads", 8)],
        ..Defaults::LLAMA
    },
    read: |config, keys| {
        config.sliding_window = keys.optional_size("sliding_window")?;
        config.layer.mlp_names = MlpNames::Mixtral;
        config.layer.mixture = Some(experts(keys, [8, 2], true)?);
        Ok(())
    },
    write: |config, map| {
        map.insert("sliding_window".to_owned(), config.sliding_window.into());
        write_experts(config, map);
    },
    read_gguf: |config, file| {
        config.sliding_window = file.window()?;
        config.layer.mlp_names = MlpNames::Mixtral;
        config.layer.mixture = Some(file.experts(true)?);
        Ok(())
    },
    write_gguf: |config, out| {
        out.window(config);
        gguf_experts(config, out);
    },
};
