//! config.json of a Hugging Face model directory, read and written. Invariant: a key that changes the computation is
//! either honoured or refused, never ignored.

use super::{Family, ModelConfig, RopeScaling};
use crate::{Error, Result, error::PathContext};
use candle_core::DType;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Far more than any config.json; read before anything is known about the file.
const MAX_BYTES: u64 = 16 << 20;

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
        let keys = Keys { map, prefix: "" };
        let family = family(keys)?;
        refuse(keys)?;
        let hidden_size = keys.size("hidden_size")?;
        let num_heads = keys.size("num_attention_heads")?;
        let num_layers = keys.size("num_hidden_layers")?;
        let head_dim = match keys.optional_size("head_dim")? {
            Some(n) => n,
            None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                return Err(Error::request(format!(
                    "`hidden_size` ({hidden_size}) is not a multiple of `num_attention_heads` ({num_heads})"
                )));
            }
        };
        let max_position_embeddings = match keys.optional_size("max_position_embeddings")? {
            Some(n) => n,
            None => match family {
                Family::Llama => 2048,
                Family::Mistral => 4096 * 32,
                Family::Qwen2 => 32768,
            },
        };
        let (rope_theta, rope_scaling) = rope(keys, max_position_embeddings)?;
        let config = Self {
            family,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(num_heads),
            head_dim,
            vocab_size: keys.size("vocab_size")?,
            rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: keys.bool("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: family == Family::Qwen2,
            sliding_window: sliding_window(keys, family, num_layers)?,
            max_position_embeddings,
        };
        config.validate()?;
        Ok(config)
    }

    /// The content of a config.json that transformers, vLLM and llama.cpp's converter load, for weights of `dtype`.
    /// Scaling factors that are not Llama 3's have no form in it: an error.
    pub fn to_hf_json(&self, dtype: DType, bos: Option<u32>, eos: Option<u32>) -> Result<Value> {
        let (model_type, architecture) = match self.family {
            Family::Llama => ("llama", "LlamaForCausalLM"),
            Family::Mistral => ("mistral", "MistralForCausalLM"),
            Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        };
        let dtype = match dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        let rope_scaling = match &self.rope_scaling {
            None => Value::Null,
            Some(RopeScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": plain(*factor)}),
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            }) => json!({
                "rope_type": "llama3",
                "factor": plain(*factor),
                "low_freq_factor": plain(*low_freq_factor),
                "high_freq_factor": plain(*high_freq_factor),
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            Some(RopeScaling::Factors(_)) => {
                return Err(Error::request(
                    "the model's RoPE factors (`rope_freqs.weight`) have no form in config.json",
                )
                .hint("export the adapter instead, or start from the Hugging Face directory of the model"));
            }
        };
        let mut config = json!({
            "architectures": [architecture],
            "model_type": model_type,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "hidden_act": "silu",
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
            "rope_scaling": rope_scaling,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
        });
        match self.family {
            Family::Llama => {}
            Family::Mistral => config["sliding_window"] = json!(self.sliding_window),
            Family::Qwen2 => {
                config["use_sliding_window"] = json!(self.sliding_window.is_some());
                config["sliding_window"] = json!(self.sliding_window);
                // transformers lets the window start at this layer.
                config["max_window_layers"] = json!(if self.sliding_window.is_some() { 0 } else { self.num_layers });
            }
        }
        Ok(config)
    }
}

/// The shortest decimal that reads back as `value`, as an f64: 0.1, not 0.10000000149.
fn plain(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Reads a JSON file of at most `limit` bytes.
pub(crate) fn read_json(path: &Path, limit: u64) -> Result<Value> {
    let size = std::fs::metadata(path).at(path)?.len();
    if size > limit {
        return Err(Error::request(format!("{}: {size} bytes, more than the {limit} it may have", path.display())));
    }
    let text = std::fs::read(path).at(path)?;
    serde_json::from_slice(&text).map_err(|e| {
        Error::request(format!("{}: not valid JSON: {e}", path.display()))
            .hint("the file is damaged or incomplete: download it again")
    })
}

fn family(keys: Keys<'_>) -> Result<Family> {
    let by_class = |class: &str| match class {
        "LlamaForCausalLM" => Some(Family::Llama),
        "MistralForCausalLM" => Some(Family::Mistral),
        "Qwen2ForCausalLM" => Some(Family::Qwen2),
        _ => None,
    };
    let classes = match keys.get("architectures") {
        None => Vec::new(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(other) => return Err(keys.wrong("architectures", "a list of names", other)),
    };
    if !classes.is_empty() && !classes.iter().any(|class| by_class(class).is_some()) {
        return Err(unsupported("architectures", &classes.join(", ")));
    }
    match keys.string("model_type")? {
        Some("llama") => Ok(Family::Llama),
        Some("mistral") => Ok(Family::Mistral),
        Some("qwen2") => Ok(Family::Qwen2),
        Some(other) => Err(unsupported("model_type", other)),
        None => classes.into_iter().find_map(by_class).ok_or_else(|| {
            Error::request("neither `model_type` nor `architectures` is there")
                .hint("pass the directory of a whole model: an adapter directory has no model in it")
        }),
    }
}

fn unsupported(key: &str, value: &str) -> Error {
    Error::request(format!("`{key}` {value} is not supported"))
        .hint("supported are causal language models of the types llama, mistral and qwen2")
}

/// Keys of transformers' configurations that change what a decoder computes and have no place in the supported families, each
/// with the number that leaves it as it is.
const CHANGES: &[(&str, Option<f64>)] = &[
    ("alibi", None),
    ("attention_multiplier", None),
    ("attn_logit_softcapping", None),
    ("attn_temperature_tuning", None),
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

/// Refuses what would change the computation and is not implemented.
fn refuse(keys: Keys<'_>) -> Result<()> {
    if let Some(act) = keys.string("hidden_act")?
        && !matches!(act, "silu" | "swish")
    {
        return Err(Error::request(format!("`hidden_act` {act} is not supported (silu is)")));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if keys.bool(key)? == Some(true) {
            return Err(Error::request(format!("`{key}` true is not supported"))
                .hint("of the supported families only qwen2 has biases, on q, k and v"));
        }
    }
    for (key, neutral) in CHANGES {
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
                "`{key}` {value} is not supported: it changes what the model computes"
            ))
            .hint("supported are the plain Llama, Mistral and Qwen2 architectures"));
        }
    }
    if let Some(Value::Array(kinds)) = keys.get("layer_types") {
        let known = |kind: &Value| matches!(kind.as_str(), Some("full_attention" | "sliding_attention"));
        if let Some(other) = kinds.iter().find(|kind| !known(kind)) {
            return Err(Error::request(format!("`layer_types`: {other} is not supported")));
        }
    }
    if keys.get("quantization_config").is_some() {
        return Err(Error::request("`quantization_config`: quantised safetensors are not supported")
            .hint("use the model's f16, bf16 or f32 weights, or a GGUF file"));
    }
    Ok(())
}

fn rope(keys: Keys<'_>, max_position_embeddings: usize) -> Result<(f32, Option<RopeScaling>)> {
    // transformers 5 writes `rope_parameters` with everything in it, 4 a `rope_theta` and a `rope_scaling`; where both
    // stand it prefers the latter.
    let scaling = match keys.object("rope_scaling", "rope_scaling.")? {
        Some(found) => Some(found),
        None => keys.object("rope_parameters", "rope_parameters.")?,
    };
    let scaling = scaling.unwrap_or(Keys { map: keys.map, prefix: "" });
    let nested = !std::ptr::eq(scaling.map, keys.map);
    let theta = match scaling.number("rope_theta")? {
        Some(theta) => theta,
        None => keys.number("rope_theta")?.unwrap_or(10_000.0),
    };
    for keys in [keys, scaling] {
        if keys.number("partial_rotary_factor")?.is_some_and(|factor| (factor - 1.0).abs() > f64::EPSILON) {
            return Err(Error::request(format!("`{}partial_rotary_factor` is not supported", keys.prefix)));
        }
    }
    if !nested {
        return Ok((theta as f32, None));
    }
    let kind = match scaling.string("rope_type")? {
        Some(kind) => kind,
        None => scaling.string("type")?.unwrap_or("default"),
    };
    let required = |key: &str| {
        scaling
            .number(key)?
            .map(|x| x as f32)
            .ok_or_else(|| Error::request(format!("`{}{key}` is missing, `rope_type` {kind} needs it", scaling.prefix)))
    };
    let scaling = match kind {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => Some(RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_max_position_embeddings: {
                let key = "original_max_position_embeddings";
                let original = scaling.optional_size(key)?.unwrap_or(max_position_embeddings);
                u32::try_from(original)
                    .map_err(|_| Error::request(format!("`{}{key}` is too large", scaling.prefix)))?
            },
        }),
        other => {
            return Err(Error::request(format!("`{}rope_type` {other} is not supported", scaling.prefix))
                .hint("supported are default, linear and llama3"));
        }
    };
    Ok((theta as f32, scaling))
}

fn sliding_window(keys: Keys<'_>, family: Family, num_layers: usize) -> Result<Option<usize>> {
    match family {
        // transformers' Llama has no window.
        Family::Llama => Ok(None),
        Family::Mistral if keys.map.contains_key("sliding_window") => keys.optional_size("sliding_window"),
        Family::Mistral => Ok(Some(4096)),
        Family::Qwen2 => {
            if keys.bool("use_sliding_window")? != Some(true) {
                return Ok(None);
            }
            let window = if keys.map.contains_key("sliding_window") {
                keys.optional_size("sliding_window")?
            } else {
                Some(4096)
            };
            let sliding = match keys.get("layer_types") {
                // The window starts at layer `max_window_layers`.
                None => num_layers.saturating_sub(keys.optional_size("max_window_layers")?.unwrap_or(28)),
                Some(Value::Array(list)) => list.iter().filter(|kind| *kind == "sliding_attention").count(),
                Some(other) => return Err(keys.wrong("layer_types", "a list of names", other)),
            };
            match sliding {
                0 => Ok(None),
                n if n == num_layers => Ok(window),
                n => Err(Error::request(format!(
                    "`max_window_layers`: a sliding window on {n} of {num_layers} layers is not supported"
                ))
                .hint("set `use_sliding_window` to false: up to `sliding_window` tokens nothing changes")),
            }
        }
    }
}

/// A JSON object whose values are read by type; `prefix` is what comes before its keys in messages.
#[derive(Clone, Copy)]
struct Keys<'a> {
    map: &'a Map<String, Value>,
    prefix: &'static str,
}

impl<'a> Keys<'a> {
    /// The value, where null is the same as absent.
    fn get(self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(self, key: &str, want: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|value| read(value).ok_or_else(|| self.wrong(key, want, value))).transpose()
    }

    fn wrong(self, key: &str, want: &str, value: &Value) -> Error {
        let mut text = value.to_string();
        if text.chars().count() > 40 {
            text = text.chars().take(40).chain("...".chars()).collect();
        }
        Error::request(format!("`{}{key}` must be {want}, is {text}", self.prefix))
    }

    fn string(self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    fn bool(self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn number(self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    fn optional_size(self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a non-negative integer", |value| usize::try_from(value.as_u64()?).ok())
    }

    fn size(self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| {
            Error::request(format!("`{}{key}` is missing", self.prefix))
                .hint("the model directory's config.json must be the one published with the weights")
        })
    }

    fn object(self, key: &str, prefix: &'static str) -> Result<Option<Self>> {
        Ok(self.typed(key, "an object", Value::as_object)?.map(|map| Self { map, prefix }))
    }
}
