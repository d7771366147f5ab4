//! Granite 3, and the dense models of Granite 4: Llama with constants that multiply the embeddings, the attention
//! scores, the outputs of attention and MLP, and the logits. Granite 4 has a class for all its models, in which the MLP
//! of a dense one is the expert that all tokens share; with layers of other kinds, or experts, it is refused.

use super::{Defaults, SILU, Spec, gguf_biases, read_biases, write_biases};
use crate::config::keys::Keys;
use crate::config::metadata::Metadata;
use crate::config::rope::plain;
use crate::config::{Family, MlpNames, ModelConfig};
use crate::{Error, Result, gguf::Field};
use serde_json::{Map, Value, json};

/// In GGUF files of this architecture it says whether there is a rotation.
const ROTATES: &str = "rope.scaling.finetuned";

pub(super) const SPEC: Spec = Spec {
    family: Family::Granite,
    model_type: "granite",
    class: "GraniteForCausalLM",
    inside: None,
    architecture: "granite",
    interleaved: true,
    reads: &[
        "attention_bias",
        "mlp_bias",
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "attention.scale",
        "embedding_scale",
        "residual_scale",
        "logit_scale",
    ],
    // What the converter writes of a dense Granite 4, whose layers of other kinds are none.
    known: &[
        "expert_shared_feed_forward_length",
        "ssm.conv_kernel",
        "ssm.group_count",
        "ssm.inner_size",
        "ssm.state_size",
        "ssm.time_step_rank",
    ],
    activations: SILU,
    defaults: Defaults::LLAMA,
    read: |config, keys| {
        read_biases(config, keys)?;
        read_constants(config, keys)
    },
    write: |config, map| {
        write_biases(config, map);
        write_constants(config, map);
    },
    read_gguf,
    write_gguf: |config, out| {
        let layer = &config.layer;
        let constants = [
            ("attention_scale", layer.attention_scale),
            ("embedding_multiplier", layer.embedding_multiplier),
            ("residual_multiplier", layer.residual_multiplier),
            ("logits_scaling", layer.logit_multiplier.map(|x| 1.0 / x)),
        ];
        for (key, constant) in constants {
            if let Some(x) = constant {
                out.number(key, x);
            }
        }
    },
};

pub(super) const GRANITE4: Spec = Spec {
    family: Family::Granite4,
    model_type: "granitemoehybrid",
    class: "GraniteMoeHybridForCausalLM",
    reads: &[
        "attention_bias",
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "position_embedding_type",
    ],
    // Settings of experts and of layers of other kinds, of which there are none.
    known: &[
        "init_method",
        "layers_block_type",
        "mamba_chunk_size",
        "mamba_conv_bias",
        "mamba_d_conv",
        "mamba_d_head",
        "mamba_d_state",
        "mamba_expand",
        "mamba_n_groups",
        "mamba_n_heads",
        "mamba_proj_bias",
        "normalization_function",
        "num_experts_per_tok",
        "output_router_logits",
        "router_aux_loss_coef",
        "shared_intermediate_size",
        "time_step_limit",
    ],
    defaults: Defaults { sizes: &[("intermediate_size", 1024)], ..Defaults::LLAMA },
    read: |config, keys| {
        // Without these keys the class has experts, and no attention.
        let whole = |key: &str, what: &str| {
            Error::request(format!("`{}` is missing, which makes it {what}: this is not supported", keys.named(key)))
                .hint("the nearest family that is supported is a dense Granite 4, which has attention layers only")
        };
        if keys.get("num_local_experts").is_none() {
            return Err(whole("num_local_experts", "a mixture of experts"));
        }
        let kinds = |key: &str| keys.windowed_by(key, config.num_layers);
        match kinds("layer_types")?.or(kinds("layers_block_type")?) {
            None => return Err(whole("layer_types", "a model with layers of other kinds than attention")),
            Some(windowed) if windowed.contains(&true) => {
                return Err(Error::request("`layer_types`: sliding_attention is not supported in granitemoehybrid"));
            }
            Some(_) => {}
        }
        config.intermediate_size = keys.optional_size("shared_intermediate_size")?.unwrap_or(SHARED);
        config.qkv_bias = keys.flag("attention_bias")?;
        config.layer.biases.output = config.qkv_bias;
        config.layer.mlp_names = MlpNames::Shared;
        config.layer.fused.gate_up = true;
        match keys.string("position_embedding_type")? {
            Some("rope") => {}
            None => config.layer.rotated = Some(vec![false; config.num_layers]),
            Some(other) => {
                let key = keys.named("position_embedding_type");
                return Err(Error::request(format!("`{key}` {other} is not supported (rope and null are)")));
            }
        }
        read_constants(config, keys)
    },
    write: |config, map| {
        write_constants(config, map);
        map.insert("attention_bias".to_owned(), config.qkv_bias.into());
        map.insert("shared_intermediate_size".to_owned(), config.intermediate_size.into());
        map.insert("num_local_experts".to_owned(), 0.into());
        map.insert("num_experts_per_tok".to_owned(), 0.into());
        map.insert("layer_types".to_owned(), vec!["attention"; config.num_layers].into());
        let rotates = config.layer.rotated.is_none();
        map.insert("position_embedding_type".to_owned(), if rotates { "rope".into() } else { Value::Null });
    },
    write_gguf: |config, out| {
        (SPEC.write_gguf)(config, out);
        out.put(ROTATES, Field::Bool(config.layer.rotated.is_none()));
    },
    ..SPEC
};

/// Width of the MLP that the class of Granite 4 assumes.
const SHARED: usize = 1024;

fn read_constants(config: &mut ModelConfig, keys: Keys<'_>) -> Result<()> {
    let constant = |key: &str| keys.number_f32(key);
    // The default of the class is a scale of 1, not one over the square root of a head's width.
    let constants = [
        constant("attention_multiplier")?.or(Some(1.0)),
        constant("embedding_multiplier")?,
        constant("residual_multiplier")?,
        constant("logits_scaling")?,
    ];
    set(config, constants);
    Ok(())
}

fn write_constants(config: &ModelConfig, map: &mut Map<String, Value>) {
    let layer = &config.layer;
    let usual = 1.0 / (config.head_dim as f32).sqrt();
    map.insert("attention_multiplier".to_owned(), json!(plain(layer.attention_scale.unwrap_or(usual))));
    map.insert("embedding_multiplier".to_owned(), json!(plain(layer.embedding_multiplier.unwrap_or(1.0))));
    map.insert("residual_multiplier".to_owned(), json!(plain(layer.residual_multiplier.unwrap_or(1.0))));
    map.insert("logits_scaling".to_owned(), json!(plain(1.0 / layer.logit_multiplier.unwrap_or(1.0))));
}

fn read_gguf(config: &mut ModelConfig, file: &Metadata<'_>) -> Result<()> {
    gguf_biases(config, file);
    let constant = |key: &str| Ok::<_, Error>(file.f32(key)?.filter(|x| *x != 0.0));
    let constants = [
        constant("attention.scale")?,
        constant("embedding_scale")?,
        constant("residual_scale")?,
        constant("logit_scale")?,
    ];
    set(config, constants);
    if file.file.bool(&file.key(ROTATES))? == Some(false) {
        config.layer.rotated = Some(vec![false; config.num_layers]);
    }
    Ok(())
}

/// Scores, embeddings and residuals are multiplied by these constants, logits are divided by theirs.
fn set(config: &mut ModelConfig, [attention, embedding, residual, logits]: [Option<f32>; 4]) {
    let other_than_one = |x: Option<f32>| x.filter(|x| (x - 1.0).abs() > f32::EPSILON);
    config.layer.attention_scale = attention;
    config.layer.embedding_multiplier = other_than_one(embedding);
    config.layer.residual_multiplier = other_than_one(residual);
    config.layer.logit_multiplier = other_than_one(logits).map(|x| 1.0 / x);
}
