//! Which keys of config.json and of GGUF metadata are known. In: a file's keys; out: the names of those that are
//! neither read nor known to leave the computation as it is. Invariant: a key that is not known is told by name, never
//! passed over.

use super::family::Spec;
use super::keys::Keys;
use super::metadata::Metadata;
use crate::gguf;
use serde_json::Value;

/// Keys of config.json that every family reads, or refuses where they are on.
const READ: &[&str] = &[
    "architectures",
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "text_config",
    "tie_word_embeddings",
    "vocab_size",
];

/// Keys that change nothing in a forward pass: where a file comes from, how it is loaded or trained, which tokens are
/// special, how text is generated, which forms of output are wanted. Those of transformers' `PreTrainedConfig`, and the
/// usual ones of trainers.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cls_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "tokenizer_name",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention",
    "use_flash_attn",
];

/// Keys of an object that describes a rotation, whatever its type.
const ROTATION: &[&str] = &[
    "full_attention",
    "llama_4_scaling_beta",
    "max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "sliding_attention",
    "type",
];

/// The further keys of each type, as transformers' validators have them.
const SCALED: &[(&str, &[&str])] = &[
    ("linear", &["factor"]),
    ("dynamic", &["factor", "original_max_position_embeddings"]),
    ("llama3", &["factor", "high_freq_factor", "low_freq_factor", "original_max_position_embeddings"]),
    (
        "yarn",
        &[
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "factor",
            "mscale",
            "mscale_all_dim",
            "original_max_position_embeddings",
            "truncate",
        ],
    ),
    ("longrope", &["attention_factor", "factor", "long_factor", "original_max_position_embeddings", "short_factor"]),
];

/// Where rotations are described.
const ROTATIONS: [&str; 2] = ["rope_parameters", "rope_scaling"];

/// Keys of GGUF metadata behind the architecture's name that every family reads, or that change nothing.
const METADATA: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "vocab_size",
];

/// Keys of a window, which the families read that have one.
const WINDOWS: &[&str] = &["attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"];

/// The keys of a config.json that are not known and not off. `changes` are those that are refused where they are on.
pub(super) fn of_json(keys: Keys<'_>, spec: &Spec, changes: &dyn Fn(&str) -> bool) -> Vec<String> {
    let known =
        |key: &str| [READ, HARMLESS, spec.reads, spec.known].iter().any(|list| list.contains(&key)) || changes(key);
    let unknown = keys.map.iter().filter(|(key, value)| !known(key) && !off(value));
    let mut unknown: Vec<String> = unknown.map(|(key, _)| format!("`{}{key}`", keys.prefix)).collect();
    for key in ROTATIONS {
        of_rotation(keys.get(key), &keys.named(key), spec, &mut unknown);
    }
    unknown
}

/// Those of an object that describes a rotation, and of the objects in it.
fn of_rotation(value: Option<&Value>, path: &str, spec: &Spec, unknown: &mut Vec<String>) {
    let Some(map) = value.and_then(Value::as_object) else { return };
    let kind = ["rope_type", "type"].iter().find_map(|key| map.get(*key)?.as_str());
    // Early files of Phi-3 have another name.
    let kind = kind.map(|kind| if kind == "su" { "longrope" } else { kind });
    let own = SCALED.iter().find(|(name, _)| kind == Some(*name)).map_or(&[][..], |(_, keys)| *keys);
    for (key, value) in map {
        let here = ROTATION.contains(&key.as_str()) && (key != SCALE || spec.known.contains(&SCALE));
        if !here && !own.contains(&key.as_str()) && !off(value) {
            unknown.push(format!("`{path}.{key}`"));
        }
    }
    for kind in ["full_attention", "sliding_attention"] {
        of_rotation(map.get(kind), &format!("{path}.{kind}"), spec, unknown);
    }
}

/// The factor of queries of Ministral 3, which only its class reads.
const SCALE: &str = "llama_4_scaling_beta";

/// Whether a value leaves the computation as it is, whatever its key means.
fn off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The keys of GGUF metadata under the architecture's name that are not known and not off.
pub(super) fn of_metadata(found: &Metadata<'_>, spec: &Spec, changes: &dyn Fn(&str) -> bool) -> Vec<String> {
    let windows: &[&str] = if spec.known.contains(&"sliding_window") { WINDOWS } else { &[] };
    let known =
        |key: &str| [METADATA, windows, spec.reads, spec.known].iter().any(|list| list.contains(&key)) || changes(key);
    let start = found.key("");
    let own = found.file.all_metadata().iter().filter_map(|(key, value)| Some((key, key.strip_prefix(&start)?, value)));
    let unknown = own.filter(|(whole, key, value)| {
        let off = matches!(value, gguf::Value::Bool(false)) || matches!(found.file.number(whole), Ok(Some(0.0)));
        !known(key) && !off
    });
    unknown.map(|(whole, ..)| format!("`{whole}`")).collect()
}

/// Tells of keys that are not known.
pub(super) fn warn(unknown: &[String]) {
    if let [first, rest @ ..] = unknown {
        let (word, them) =
            if rest.is_empty() { ("a key that is", "it changes") } else { ("keys that are", "they change") };
        let all = rest.iter().fold(first.clone(), |all, key| all + ", " + key);
        tracing::warn!(
            "the model's configuration has {word} not known here: {all}; if {them} what the model computes, \
             the results are not the model's"
        );
    }
}
