//! `adapter_config.json` of PEFT. In: its text; out: the settings of a plain LoRA adapter. Invariant: every key that
//! PEFT 0.21 writes is honoured, known not to change what the adapter computes, or refused; one that is not known is
//! refused unless it is off.

use crate::lora_config::LoraConfig;
use crate::lora_patterns::{MAX_RANK, Patterns};
use crate::{Error, Result};
use serde_json::{Map, Value};

/// Keys that say where an adapter comes from, how it was trained or initialised, or what the names of its tensors say
/// already.
const HARMLESS: [&str; 18] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Keys that are read.
const READ: [&str; 9] = [
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "init_lora_weights",
    "bias",
    "rank_pattern",
    "alpha_pattern",
];

/// Keys of extensions of LoRA: each must be off.
const EXTENSIONS: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// Initialisations that leave the base model's weights as they are. The others (`PiSSA`, `OLoRA`, `CorDA`, `LoftQ`,
/// `LoRA-GA`) take from the base what the fresh adapter adds, so the adapter's tensors alone do not say what it
/// computes.
const INITIALISATIONS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// The settings in the text of an `adapter_config.json`; targets and layers are those of the tensors.
///
/// # Errors
/// Not JSON, a value of the wrong type, or a key that makes the adapter more than plain `LoRA`.
pub(crate) fn read(text: &str) -> Result<LoraConfig> {
    let map: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| Error::request(format!("not a PEFT configuration: {e}")))?;
    let get = |key: &str| map.get(key).filter(|value| !value.is_null());
    match get("peft_type").map(|value| value.as_str().unwrap_or_default()) {
        None | Some("LORA") => {}
        Some(other) => return Err(refuse("peft_type", &other.into())),
    }
    match get("bias").map(|value| value.as_str().unwrap_or_default()) {
        None | Some("none") => {}
        Some(other) => return Err(refuse("bias", &other.into())),
    }
    match get("init_lora_weights") {
        None | Some(Value::Bool(_)) => {}
        Some(Value::String(name)) if INITIALISATIONS.contains(&name.as_str()) => {}
        Some(other) => {
            return Err(Error::request(format!(
                "key 'init_lora_weights' is {other}: such an adapter changes its base model's weights too"
            ))
            .hint(
                "convert it with PEFT: save_pretrained(DIR, path_initial_model_for_weight_conversion=INITIAL_ADAPTER)",
            )
            .hint("or merge it into its base with PEFT and give the merged model"));
        }
    }
    if let Some(other) = get("use_rslora").filter(|value| !value.is_boolean()) {
        return Err(Error::request(format!("key 'use_rslora' is {}, not true or false", short(other))));
    }
    for (key, value) in &map {
        let key = key.as_str();
        if is_off(value) || HARMLESS.contains(&key) || READ.contains(&key) {
            continue;
        }
        if EXTENSIONS.contains(&key) {
            return Err(refuse(key, value));
        }
        return Err(Error::request(format!("key '{key}' is {}: it is not known what it does", short(value))).hint(
            "only keys that PEFT 0.21 writes are known; remove it if it does not change what the adapter computes",
        ));
    }
    let number = |key: &str, default: Option<f64>| match get(key) {
        Some(value) => {
            value.as_f64().ok_or_else(|| Error::request(format!("key '{key}' is {}, not a number", short(value))))
        }
        None => default.ok_or_else(|| Error::request(format!("not a PEFT configuration: key '{key}' is missing"))),
    };
    let r = get("r").and_then(Value::as_u64);
    let config = LoraConfig {
        r: r.unwrap_or_default() as usize,
        alpha: number("lora_alpha", None)?,
        dropout: number("lora_dropout", Some(0.0))?,
        targets: Vec::new(),
        layers: None,
        rslora: get("use_rslora").is_some_and(|value| value == true),
        patterns: Patterns {
            ranks: pattern(get("rank_pattern"), "rank_pattern", &format!("a rank from 1 to {MAX_RANK}"), |value| {
                value.as_u64().map(|r| r as usize).filter(|r| (1..=MAX_RANK).contains(r))
            })?,
            alphas: pattern(get("alpha_pattern"), "alpha_pattern", "a number with a finite scale", |value| {
                value.as_f64().filter(|alpha| (*alpha as f32).is_finite())
            })?,
        },
    };
    // What is wrong with an expression is told before any tensor is read.
    let by_module = config.by_module()?;
    match () {
        () if get("r").is_none() => Err(Error::request("not a PEFT configuration: key 'r' is missing")),
        () if !(1..=MAX_RANK).contains(&config.r) => {
            Err(Error::request(format!("key 'r' is {}: it must be 1 to {MAX_RANK}", short(&map["r"]))))
        }
        () if !by_module.default.scale.is_finite() => {
            let alpha = short(&map["lora_alpha"]);
            Err(Error::request(format!("key 'lora_alpha' is {alpha}, which gives no finite scale")))
        }
        () if !(0.0..1.0).contains(&config.dropout) => Err(Error::request("key 'lora_dropout' is not in 0..1")),
        () => Ok(config),
    }
}

/// The values that expressions have, in the order of the file.
fn pattern<T>(
    found: Option<&Value>,
    key: &str,
    want: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>> {
    let Some(found) = found else { return Ok(Vec::new()) };
    let map =
        found.as_object().ok_or_else(|| Error::request(format!("key '{key}' is {}, not an object", short(found))))?;
    let one = |(expression, value): (&String, &Value)| {
        let value = read(value).ok_or_else(|| {
            Error::request(format!("key '{key}': the value of `{expression}` is {}, not {want}", short(value)))
        })?;
        Ok((expression.clone(), value))
    };
    map.iter().map(one).collect()
}

/// Null, false, empty.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn refuse(key: &str, value: &Value) -> Error {
    Error::request(format!("key '{key}' is {}: only plain LoRA adapters are supported", short(value)))
        .hint("merge such an adapter into its base with PEFT and give the merged model")
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(60).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_with(key: &str, value: Value) -> Result<LoraConfig> {
        let mut config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16});
        config[key] = value;
        read(&config.to_string())
    }

    #[test]
    fn every_key_that_peft_writes_is_honoured_harmless_or_refused_by_name() {
        for (key, value) in [
            ("init_lora_weights", json!("pissa")),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("init_lora_weights", json!("olora")),
            ("init_lora_weights", json!("corda")),
            ("init_lora_weights", json!("loftq")),
            ("init_lora_weights", json!("lora_ga")),
            ("use_dora", json!(true)),
            ("use_qalora", json!(true)),
            ("lora_bias", json!(true)),
            ("bias", json!("all")),
            ("fan_in_fan_out", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("layer_replication", json!([[0, 4], [2, 5]])),
            ("alora_invocation_tokens", json!([1])),
            ("trainable_token_indices", json!([1])),
            ("target_parameters", json!(["experts"])),
            ("arrow_config", json!({"top_k": 1})),
            ("kasa_config", json!({"a": 1})),
            ("monteclora_config", json!({"a": 1})),
            ("velora_config", json!({"a": 1})),
            ("use_bdlora", json!({"a": 1})),
            ("megatron_config", json!({"a": 1})),
            ("peft_type", json!("LOHA")),
            ("a_key_of_tomorrow", json!(3)),
        ] {
            let error = read_with(key, value.clone()).unwrap_err().to_string();
            assert!(error.contains(key), "{key} {value}: {error}");
        }
        for (key, value) in [
            ("init_lora_weights", json!("gaussian")),
            ("init_lora_weights", json!(false)),
            ("exclude_modules", json!(["o_proj"])),
            ("layers_to_transform", json!([1])),
            ("loftq_config", json!({"loftq_bits": 4})),
            ("eva_config", json!({"rho": 2.0})),
            ("peft_version", json!("0.21.2")),
            ("qalora_group_size", json!(16)),
            ("a_key_of_tomorrow", json!(null)),
            ("another_one", json!(false)),
        ] {
            assert!(read_with(key, value.clone()).is_ok(), "{key} {value}");
        }
        assert!(read_with("use_rslora", json!(true)).unwrap().rslora);
        for key in ["rank_pattern", "alpha_pattern"] {
            assert!(read_with(key, json!({})).unwrap().patterns.is_empty());
            assert!(!read_with(key, json!({"q_proj": 4})).unwrap().patterns.is_empty());
        }
    }

    #[test]
    fn wrong_values_are_named() {
        for (key, value) in [
            ("r", json!(0)),
            ("r", json!(-1)),
            ("r", json!(null)),
            ("lora_alpha", json!("a")),
            ("lora_alpha", json!(1e300)),
            ("lora_dropout", json!(1)),
            ("use_rslora", json!(1)),
            ("use_rslora", json!("true")),
            ("rank_pattern", json!({"q_proj": 0})),
            ("rank_pattern", json!({"q_proj": 4.0})),
            ("rank_pattern", json!({"q_proj": true})),
            ("rank_pattern", json!({"q_proj(": 4})),
            ("rank_pattern", json!(4)),
            ("alpha_pattern", json!({"q_proj": "4"})),
            ("alpha_pattern", json!({"q_proj": 1e300})),
            ("alpha_pattern", json!(["q_proj"])),
        ] {
            let error = read_with(key, value.clone()).unwrap_err().to_string();
            assert!(error.contains(&format!("'{key}'")), "{key} {value}: {error}");
        }
        assert!(read("[]").is_err() && read("{").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in any::<String>(), key in "[a-z_]{1,20}", value in "[0-9a-z\"\\[\\]{}:,.-]{0,20}") {
            let _ = read(&text);
            let _ = read(&format!("{{\"r\": 1, \"lora_alpha\": 1, \"{key}\": {value}}}"));
        }
    }
}
