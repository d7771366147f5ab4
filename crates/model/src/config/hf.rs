//! config.json of a Hugging Face model directory, read and written. Invariant: a key that changes the computation is
//! either honoured or refused, never ignored.

use super::family::Spec;
use super::keys::Keys;
use super::known;
use super::quantised;
use super::rope::{RopeScaling, plain};
use super::rotation::Rotations;
use super::unsupported::{Unsupported, contradictory};
use super::{Layer, ModelConfig};
use crate::{Error, Result, counted, error::PathContext, files};
use candle_core::DType;
use serde_json::{Value, json};
use std::path::Path;

/// The largest config.json that is read, bytes: far more than any has.
pub(crate) const MAX_BYTES: u64 = 16 << 20;

impl ModelConfig {
    /// Reads `dir/config.json`.
    pub fn from_hf_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let value = read_json(&path, MAX_BYTES)?;
        Self::from_hf_json(&value).map_err(|e| e.context(path.display()))
    }

    /// The shape that the content of a config.json describes.
    pub fn from_hf_json(value: &Value) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(Error::request("must be a JSON object"));
        };
        let outer = Keys { map, prefix: "" };
        let (spec, keys) = family(outer)?;
        for keys in [outer, keys] {
            quantised::refuse(keys)?;
        }
        refuse(keys, spec)?;
        known::warn(&unknown(keys, spec));
        let rotations = Rotations::read(keys, spec)?;
        let size = |key: &str| {
            let default = spec.defaults.sizes.iter().find(|(name, _)| *name == key).map(|(_, size)| *size);
            keys.optional_size(key)?.or(default).ok_or_else(|| keys.missing(key))
        };
        let (hidden_size, num_heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let head_dim = match keys.optional_size("head_dim")?.or(spec.defaults.head_dim) {
            Some(n) => n,
            None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                return Err(Error::request(format!(
                    "`{}` ({hidden_size}) is not a multiple of `{}` ({num_heads})",
                    keys.named("hidden_size"),
                    keys.named("num_attention_heads")
                )));
            }
        };
        let kv = spec.defaults.sizes.iter().any(|(key, _)| *key == "num_key_value_heads");
        let nested = !std::ptr::eq(keys.map, outer.map);
        let tied = |keys: Keys<'_>| keys.bool("tie_word_embeddings");
        // The head belongs to the larger model, whose class ties it unless its own key says otherwise: transformers
        // passes over the key of the text part.
        let tied = match (nested, tied(keys)?) {
            (true, _) => tied(outer)?.unwrap_or(true),
            (false, own) => own.unwrap_or(spec.defaults.tied),
        };
        let mut config = Self {
            family: spec.family,
            hidden_size,
            intermediate_size: size("intermediate_size")?,
            num_layers: size("num_hidden_layers")?,
            num_heads,
            num_kv_heads: match keys.optional_size("num_key_value_heads")? {
                Some(n) => n,
                // In every class, null means as many as there are query heads.
                None if kv && !keys.map.contains_key("num_key_value_heads") => size("num_key_value_heads")?,
                None => num_heads,
            },
            head_dim,
            vocab_size: size("vocab_size")?,
            rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(spec.defaults.eps),
            rope_theta: rotations.rope.theta,
            rope_scaling: rotations.rope.scaling.clone(),
            tie_word_embeddings: tied,
            qkv_bias: false,
            sliding_window: None,
            max_position_embeddings: keys.optional_size("max_position_embeddings")?.unwrap_or(spec.defaults.positions),
            layer: Layer {
                nested,
                window_rope: rotations.window.clone(),
                rotary_dim: rotations
                    .partial
                    .map(|factor| (head_dim as f64 * factor) as usize)
                    .filter(|n| *n != head_dim),
                ..Layer::default()
            },
        };
        (spec.read)(&mut config, keys)?;
        // Whatever the family reads of it: where transformers checks a key, a file that it refuses is refused here.
        keys.windowed(config.num_layers)?;
        for keys in [outer, keys] {
            if let Some(ends) = keys.get(ENDS) {
                check_ends(&keys.named(ENDS), ends, Some(config.vocab_size))?;
            }
        }
        config.check(&|key| rotations.name(key).unwrap_or_else(|| name(keys, spec, key)))?;
        Ok(config)
    }

    /// The content of a config.json that transformers, vLLM and llama.cpp's converter load, for weights of `dtype`. The
    /// text part of a larger model is described as a model of its own. RoPE factors that a GGUF file holds as a tensor
    /// cannot be written in config.json: that is an error. The ids are those of the tokens that begin a text, end it and
    /// fill a batch.
    pub fn to_hf_json(&self, dtype: DType, [bos, eos, pad]: [Option<u32>; 3]) -> Result<Value> {
        let spec = Spec::of(self.family);
        let dtype = match dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        let rope_scaling = self.rope_scaling.as_ref().map(RopeScaling::to_json);
        if rope_scaling == Some(None) {
            return Err(Error::request(
                "the model's RoPE factors (`rope_freqs.weight`) cannot be written in config.json",
            )
            .hint("export the adapter instead, or start from the Hugging Face directory of the model"));
        }
        let mut config = json!({
            "architectures": [spec.class],
            "model_type": spec.model_type,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "hidden_act": self.layer.mlp.name(),
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": plain(self.rope_theta),
            "rope_scaling": rope_scaling.flatten(),
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
        });
        if let Some(map) = config.as_object_mut() {
            if let Some(n) = self.layer.rotary_dim {
                map.insert("partial_rotary_factor".to_owned(), json!(n as f64 / self.head_dim as f64));
            }
            (spec.write)(self, map);
        }
        if let Some(lost) = self.lost(&Self::from_hf_json(&config)?) {
            return Err(Error::request(format!(
                "{lost} of this model has no place in a config.json of {}",
                spec.class
            ))
            .hint("start from the Hugging Face directory of the model"));
        }
        Ok(config)
    }
}

/// The key of the tokens that end an answer.
const ENDS: &str = "eos_token_id";

/// An error unless `ends`, the value of `key`, is the id of a token, or some of them, of a vocabulary of `rows` tokens.
///
/// # Errors
/// Something else, which would leave answers without an end.
pub(crate) fn check_ends(key: &str, ends: &Value, rows: Option<usize>) -> Result<()> {
    let all = ends.as_array().map_or(std::slice::from_ref(ends), Vec::as_slice);
    if all.is_empty() {
        return Err(Error::request(format!("`{key}` is [], so no token ends an answer"))
            .hint("give the id of the token that ends one; or leave it out, where the tokenizer has an `eos_token`"));
    }
    let Some(wrong) = all.iter().find(|id| id.as_u64().is_none_or(|id| rows.is_some_and(|rows| id >= rows as u64)))
    else {
        return Ok(());
    };
    let what = match (wrong.as_u64(), rows) {
        (Some(id), Some(rows)) => format!("`{key}` {id} is beyond the vocabulary of {}", counted(rows, "token")),
        _ => format!("`{key}` must be the id of a token or a list of them, is {ends}"),
    };
    Err(Error::request(what).hint("take the configuration and the tokenizer files of one model"))
}

/// What the file calls a key of [`ModelConfig::check`].
fn name(keys: Keys<'_>, spec: &Spec, key: &str) -> String {
    match key {
        "head_dim" if keys.get(key).is_none() && spec.defaults.head_dim.is_none() => {
            format!("{} / {}", keys.named("hidden_size"), keys.named("num_attention_heads"))
        }
        "attention_scale" if spec.reads("attention_multiplier") => keys.named("attention_multiplier"),
        "attention_scale" => keys.named("query_pre_attn_scalar"),
        other => keys.named(other),
    }
}

/// Reads a JSON file of at most `limit` bytes.
pub(crate) fn read_json(path: &Path, limit: u64) -> Result<Value> {
    let size = std::fs::metadata(path).at(path)?.len();
    if size > limit {
        return Err(Error::request(format!("{}: {size} bytes, more than the {limit} it may have", path.display())));
    }
    let text = std::fs::read(path).at(path)?;
    files::no_pointer(&text, path)?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::request(format!("{}: not valid JSON: {e}", path.display())).hint(files::json_hint(&text)))
}

/// The family, and the keys that describe its decoder: those in `text_config` for a larger model, else all of them.
fn family(keys: Keys<'_>) -> Result<(&'static Spec, Keys<'_>)> {
    let classes = keys.names("architectures")?.unwrap_or_default();
    let by_class = classes.iter().find_map(|class| Spec::by_class(class));
    let inner = keys.object("text_config", "text_config.")?;
    let model_type = keys.string("model_type")?;
    // What is told of a family that is not supported is told of its type.
    let known = model_type.is_none_or(|name| Spec::by_model_type(name).is_some() || Spec::inside(name).is_some());
    if known && !classes.is_empty() && by_class.is_none() {
        return Err(Unsupported::Class.error("architectures", &classes.join(", ")));
    }
    let Some(name) = model_type else {
        let spec = by_class.ok_or_else(|| {
            Error::request("neither `model_type` nor `architectures` is there")
                .hint("pass the directory of a whole model: an adapter directory has no model in it")
        })?;
        let own = spec.model_type;
        tracing::warn!(
            "config.json has no `model_type`: it is taken for {own}, as `architectures` says; transformers refuses \
             such a file, so add the key"
        );
        return Ok((spec, keys));
    };
    match (Spec::by_model_type(name), Spec::inside(name), inner) {
        (Some(spec), _, _) => match by_class {
            Some(class) if class.family != spec.family => {
                Err(contradictory(&format!("`model_type` {name}"), &format!("`architectures` {}", classes.join(", "))))
            }
            _ => Ok((spec, keys)),
        },
        (None, Some(usual), Some(inner)) => {
            let own = inner.string("model_type")?;
            let spec = own.map_or(Some(usual), Spec::by_model_type);
            let refused = || Unsupported::ModelType.error("text_config.model_type", own.unwrap_or_default());
            Ok((spec.ok_or_else(refused)?, inner))
        }
        (None, Some(_), None) => Err(keys.missing("text_config")),
        _ => Err(Unsupported::ModelType.error("model_type", name)),
    }
}

/// Keys of transformers' configurations that change what a decoder computes, and that most families do not have. Each
/// has the number with which it changes nothing.
const CHANGES: &[(&str, Option<f64>)] = &[
    ("alibi", None),
    ("attention_multiplier", None),
    ("attn_logit_softcapping", None),
    ("attn_temperature_tuning", None),
    ("attn_output_gate", None),
    ("attention_chunk_size", None),
    ("block_configs", None),
    ("clip_qkv", None),
    ("dim_model_base", None),
    ("embedding_multiplier", Some(1.0)),
    ("final_logit_softcapping", None),
    ("final_logits_softcapping", None),
    ("kv_lora_rank", None),
    ("lm_head_multiplier", Some(1.0)),
    ("logit_scale", Some(1.0)),
    ("logits_scaling", Some(1.0)),
    ("n_routed_experts", None),
    ("no_rope_layers", None),
    ("num_experts", Some(0.0)),
    ("num_local_experts", Some(0.0)),
    ("parallel_attn", None),
    ("pruned_heads", None),
    ("q_lora_rank", None),
    ("qk_norm", None),
    ("query_pre_attn_scalar", None),
    ("residual_multiplier", Some(1.0)),
    ("rope_interleaved", None),
    ("rope_local_base_freq", None),
    ("scale_depth", None),
    ("scale_emb", Some(1.0)),
    ("use_bidirectional_attention", None),
    ("use_mup", None),
    ("use_parallel_residual", None),
    ("use_qk_norm", None),
    ("xpos", None),
];

/// The keys that are not known and not off.
fn unknown(keys: Keys<'_>, spec: &Spec) -> Vec<String> {
    known::of_json(keys, spec, &|key| CHANGES.iter().any(|(name, _)| *name == key))
}

/// Refuses keys that would change the computation and that the family does not read.
fn refuse(keys: Keys<'_>, spec: &Spec) -> Result<()> {
    for key in ["hidden_act", "hidden_activation"] {
        let supported = spec.activations.join(" or ");
        match keys.string(key)? {
            // Early files of Gemma have both keys, and the second one counts.
            _ if key == "hidden_act" && keys.get("hidden_activation").is_some() => {}
            Some(act) if !spec.activations.contains(&act) => {
                return Err(Error::request(format!("`{key}` {act} is not supported ({supported} is)")));
            }
            _ => {}
        }
    }
    for key in ["attention_bias", "mlp_bias"] {
        if !spec.reads(key) && keys.bool(key)? == Some(true) {
            return Err(Error::request(format!("`{key}` true is not supported in {}", spec.model_type))
                .hint("is `model_type` the one that was published with the weights?"));
        }
    }
    for (key, neutral) in CHANGES.iter().filter(|(key, _)| !spec.reads(key)) {
        let off = match (keys.get(key), neutral) {
            (None | Some(Value::Bool(false)), _) => true,
            (Some(Value::Array(list)), _) => list.is_empty(),
            (Some(Value::Object(map)), _) => map.is_empty(),
            (Some(value), Some(neutral)) => value.as_f64() == Some(*neutral),
            (Some(_), None) => false,
        };
        if !off {
            let value = keys.map.get(*key).unwrap_or(&Value::Null);
            return Err(Error::request(format!(
                "`{}{key}` {value} is not supported in {}: it changes what the model computes",
                keys.prefix, spec.model_type
            ))
            .hint("is `model_type` the one that was published with the weights?"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
mod tests {
    use super::*;

    fn unknown_of(config: &Value) -> Vec<String> {
        let (spec, keys) = family(Keys { map: config.as_object().unwrap(), prefix: "" }).unwrap();
        unknown(keys, spec)
    }

    #[test]
    fn keys_that_transformers_writes_are_known_and_others_are_told() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut read = 0;
        for list in ["families", "layers"] {
            for entry in std::fs::read_dir(fixtures.join(list)).unwrap() {
                let path = entry.unwrap().path().join("config.json");
                let mut config = read_json(&path, MAX_BYTES).unwrap();
                assert!(unknown_of(&config).is_empty(), "{}: {:?}", path.display(), unknown_of(&config));
                let inner = config.get("text_config").is_some();
                let keys = if inner { config["text_config"].as_object_mut() } else { config.as_object_mut() }.unwrap();
                keys.extend([("key_of_tomorrow".to_owned(), json!(2)), ("another".to_owned(), json!(null))]);
                let name = if inner { "`text_config.key_of_tomorrow`" } else { "`key_of_tomorrow`" };
                assert_eq!(unknown_of(&config), [name], "{}", path.display());
                read += 1;
            }
        }
        assert!(read >= 20, "{read}");
        // Keys of a rotation were passed over: a misspelt one, and one of another type.
        let rotation = json!({"rope_type": "yarn", "factor": 4.0, "beta_fats": 16.0, "low_freq_factor": 1.0,
            "llama_4_scaling_beta": 0.1, "mscale": null});
        let config = json!({"model_type": "llama", "rope_scaling": rotation});
        let told = ["beta_fats", "low_freq_factor", "llama_4_scaling_beta"];
        let sorted = |mut all: Vec<String>| {
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(unknown_of(&config)), sorted(told.map(|key| format!("`rope_scaling.{key}`")).to_vec()));
        let config = json!({"model_type": "ministral3", "rope_parameters": rotation});
        assert_eq!(unknown_of(&config).len(), 2);
        let config = json!({"model_type": "gemma3", "text_config": {"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_tehta": 1e4}}}});
        assert_eq!(unknown_of(&config), ["`text_config.rope_parameters.sliding_attention.rope_tehta`"]);
        // A window is nothing that every family has.
        let config = json!({"model_type": "granite", "sliding_window": 8, "scale_depth": 2});
        assert_eq!(unknown_of(&config), ["`sliding_window`"]);
    }
}
