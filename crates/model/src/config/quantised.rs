//! `quantization_config` of config.json. In: its value; out: nothing, or an error that names the method. Invariant:
//! weights that cannot be expanded are refused before a tensor is read.

use super::keys::Keys;
use crate::{Error, Result};
use serde_json::Value;

const KEY: &str = "quantization_config";

/// An error for weights in a form that cannot be expanded.
pub(super) fn refuse(keys: Keys<'_>) -> Result<()> {
    let Some(config) = keys.object(KEY, "quantization_config.")? else { return Ok(()) };
    let key = keys.named(KEY);
    let Some(method) = config.string("quant_method")? else {
        return Err(Error::request(format!(
            "`{key}` has no `quant_method`: in which form the weights are is not known"
        ))
        .hint("if they are plain f32, f16 or bf16, remove the key")
        .hint("else take the config.json that was published with the weights"));
    };
    // 8-bit floats and bitsandbytes' 4 bits are expanded as they are read; what is rounded besides weights is not
    // rounded here.
    let kind = match (method, config.string("format")?) {
        ("fp8", _) | ("compressed-tensors", Some("float-quantized" | "naive-quantized")) => return Ok(()),
        ("bitsandbytes", _) => match config.bool("load_in_8bit")? {
            Some(true) => "bitsandbytes, 8 bits".to_owned(),
            _ => return Ok(()),
        },
        (method, Some(format)) => format!("{method}, {format}"),
        (method, None) => method.to_owned(),
    };
    let error = Error::request(format!("`{key}`: safetensors quantised by {kind} are not supported"));
    let error = match method {
        "gptq" | "awq" | "compressed-tensors" | "auto-round" => error.hint(
            "the repository without the suffix (-GPTQ, -AWQ, -Int4, -w4a16) has the weights that it was made from",
        ),
        "bitsandbytes" => {
            error.hint("load the repository that `base_model` names; --base-dtype as-stored holds few bits")
        }
        _ => error,
    };
    Err(error.hint("use the model's f16, bf16, f32, FP8 or nf4 weights, or a GGUF file (Q4_K_M takes as much memory)"))
}

/// The method by which a config.json says that the weights are quantised, its own or that of the text part.
pub(crate) fn claimed(config: &Value) -> Option<&str> {
    [Some(config), config.get("text_config")].into_iter().flatten().find_map(|config| {
        let method = config.get(KEY)?.get("quant_method")?;
        method.as_str()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(config: &Value) -> Option<(String, usize)> {
        let keys = Keys { map: config.as_object().unwrap(), prefix: "" };
        refuse(keys).err().map(|e| (e.to_string(), e.hints().len()))
    }

    /// `{}` and a string gave a sentence without a method.
    #[test]
    fn a_configuration_that_names_no_method_is_told_as_that() {
        let (error, hints) = told(&json!({KEY: {}})).unwrap();
        assert!(error.contains("`quantization_config` has no `quant_method`") && hints == 2, "{error}");
        for value in [json!("gptq"), json!(4), json!(["awq"])] {
            let (error, _) = told(&json!({KEY: value})).unwrap();
            assert!(error.contains("`quantization_config` must be an object, is"), "{error}");
        }
        let (error, _) = told(&json!({KEY: {"quant_method": 4}})).unwrap();
        assert!(error.contains("`quantization_config.quant_method` must be a string, is 4"), "{error}");
        assert!(told(&json!({KEY: null})).is_none() && told(&json!({})).is_none());
    }

    #[test]
    fn what_a_configuration_says_of_its_weights_is_known() {
        assert_eq!(claimed(&json!({KEY: {"quant_method": "fp8"}})), Some("fp8"));
        assert_eq!(claimed(&json!({"text_config": {KEY: {"quant_method": "bitsandbytes"}}})), Some("bitsandbytes"));
        assert_eq!(claimed(&json!({KEY: null})), None);
    }
}
