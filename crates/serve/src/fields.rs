//! The fields of a body. In: JSON; out: values of the types and ranges that are asked for. Invariant: an error names
//! the field, and what is wrong with its value.

use crate::error::ApiError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// The fields of a body that were not taken yet.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// The fields of a body, which must be a JSON object.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        if let Value::Object(map) = serde_json::from_slice(bytes).map_err(ApiError::body)? {
            Ok(Self(map))
        } else {
            Err(ApiError::body("the body must be a JSON object"))
        }
    }

    /// The value of a field; None where it is absent or null.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A field that is not accepted.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A whole number in `range`.
    pub(crate) fn whole(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        if let Some(n) = value.as_i64().filter(|n| range.contains(n)) {
            return Ok(Some(n));
        }
        let (least, most) = range.into_inner();
        let most = if most == i64::MAX { String::new() } else { format!(" and at most {most}") };
        Err(ApiError::field(name, format_args!("must be a whole number, at least {least}{most}, not {value}")))
    }

    /// A number that is `good`, which `what` describes.
    pub(crate) fn real(
        &mut self,
        name: &'static str,
        default: f32,
        good: impl Fn(f64) -> bool,
        what: &str,
    ) -> Result<f32, ApiError> {
        let Some(value) = self.take(name) else { return Ok(default) };
        let number = value.as_f64().filter(|x| good(*x));
        number.map(|x| x as f32).ok_or_else(|| ApiError::field(name, format_args!("must be {what}, not {value}")))
    }

    /// True or false.
    pub(crate) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| ApiError::field(name, format_args!("must be true or false, not {value}")))
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::field(name, format_args!("must be a text, not {other}"))),
        }
    }

    /// A text or a list of texts.
    pub(crate) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, ApiError> {
        let wrong = || ApiError::field(name, "must be a text or a list of texts");
        let text = |value: Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.into_iter().map(text).collect(),
            Some(one) => Ok(vec![text(one)?]),
        }
    }

    /// A list of token ids below `size`.
    pub(crate) fn ids(&mut self, name: &'static str, size: usize) -> Result<Vec<u32>, ApiError> {
        let wrong = || ApiError::field(name, format_args!("must be a list of token ids below {size}"));
        let id = |value: &Value| value.as_u64().filter(|&id| id < size as u64).map(|id| id as u32).ok_or_else(wrong);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(_) => Err(wrong()),
        }
    }

    /// An object.
    pub(crate) fn object(&mut self, name: &'static str) -> Result<Map<String, Value>, ApiError> {
        match self.take(name) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(other) => Err(ApiError::field(name, format_args!("must be an object, not {other}"))),
        }
    }

    /// A list.
    pub(crate) fn list(&mut self, name: &'static str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(ApiError::field(name, format_args!("must be a list, not {other}"))),
        }
    }

    /// Refuses what is left and would change the answer: fields of other interfaces, and those of other routes
    /// (`elsewhere`). What only annotates a request is let through, and so is a field that is not known.
    pub(crate) fn refuse_rest(&self, elsewhere: &[&'static str]) -> Result<(), ApiError> {
        for name in elsewhere {
            if self.peek(name).is_some_and(|value| !is_empty(value)) {
                return Err(ApiError::field(name, "is not a field of this route"));
            }
        }
        if let Some(name) = THINKING.into_iter().find(|name| self.peek(name).is_some()) {
            let message = "is not supported; what the model's template understands goes into chat_template_kwargs";
            return Err(ApiError::field(name, message));
        }
        for (name, neutral) in REFUSED {
            if self.peek(name).is_some_and(|value| !is_neutral(value, neutral)) {
                return Err(ApiError::field(name, "is not supported"));
            }
        }
        if self
            .peek("modalities")
            .is_some_and(|kinds| kinds.as_array().is_none_or(|all| all.iter().any(|k| k != "text")))
        {
            return Err(ApiError::field("modalities", "only text is supported"));
        }
        match self.peek("response_format").map(|format| format["type"].as_str()) {
            None | Some(Some("text")) => Ok(()),
            Some(_) => Err(ApiError::field("response_format", "only text is supported")),
        }
    }
}

/// A value that asks for nothing.
enum Neutral {
    /// Only null.
    Null,
    /// Null, false, or an empty list, object or text.
    Empty,
    /// As before, or this number.
    Number(f64),
    /// As before, or one of these texts.
    Text(&'static [&'static str]),
}

/// Whether a value is null, false, or an empty list, object or text.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(_) => false,
    }
}

fn is_neutral(value: &Value, neutral: &Neutral) -> bool {
    match neutral {
        Neutral::Null => value.is_null(),
        Neutral::Empty => is_empty(value),
        Neutral::Number(n) => is_empty(value) || value.as_f64() == Some(*n),
        Neutral::Text(texts) => is_empty(value) || value.as_str().is_some_and(|text| texts.contains(&text)),
    }
}

use Neutral::{Empty, Null, Number, Text};

/// Fields by which other servers switch the thinking of a model on or off.
const THINKING: [&str; 7] = [
    "enable_thinking",
    "thinking",
    "think",
    "thinking_budget",
    "thinking_token_budget",
    "reasoning",
    "reasoning_budget",
];

/// Fields of other interfaces that change the answer and are not supported, each with what it may hold all the same.
const REFUSED: &[(&str, Neutral)] = &[
    // OpenAI.
    ("frequency_penalty", Number(0.0)),
    ("presence_penalty", Number(0.0)),
    ("best_of", Number(1.0)),
    ("logit_bias", Empty),
    ("suffix", Empty),
    ("tools", Empty),
    ("tool_choice", Text(&["none", "auto"])),
    ("functions", Empty),
    ("function_call", Text(&["none", "auto"])),
    ("audio", Empty),
    ("web_search_options", Empty),
    ("verbosity", Text(&["medium"])),
    ("instructions", Empty),
    // vLLM.
    ("chat_template", Empty),
    ("structured_outputs", Empty),
    ("guided_decoding", Empty),
    ("guided_json", Empty),
    ("guided_regex", Empty),
    ("guided_choice", Empty),
    ("guided_grammar", Empty),
    ("guided_decoding_backend", Empty),
    ("guided_whitespace_pattern", Empty),
    ("structural_tag", Empty),
    ("use_beam_search", Empty),
    ("length_penalty", Number(1.0)),
    ("early_stopping", Empty),
    ("bad_words", Empty),
    ("allowed_token_ids", Empty),
    ("logits_processors", Empty),
    ("include_stop_str_in_output", Empty),
    ("prompt_logprobs", Empty),
    ("return_tokens_as_token_ids", Empty),
    ("truncate_prompt_tokens", Empty),
    ("prompt_embeds", Empty),
    ("vllm_xargs", Empty),
    ("mm_processor_kwargs", Empty),
    // llama.cpp.
    ("repeat_penalty", Number(1.0)),
    ("typical_p", Number(1.0)),
    ("typ_p", Number(1.0)),
    ("tfs_z", Number(1.0)),
    ("top_n_sigma", Number(-1.0)),
    ("mirostat", Number(0.0)),
    ("dynatemp_range", Number(0.0)),
    ("dry_multiplier", Number(0.0)),
    ("xtc_probability", Number(0.0)),
    ("grammar", Empty),
    ("json_schema", Empty),
    ("n_predict", Empty),
    ("n_probs", Number(0.0)),
    ("samplers", Empty),
    ("image_data", Empty),
    ("lora", Empty),
    // SGLang.
    ("regex", Empty),
    ("ebnf", Empty),
    ("stop_regex", Empty),
    ("no_stop_trim", Empty),
    ("lora_path", Empty),
    ("custom_logit_processor", Empty),
    // TGI and LoRAX.
    ("adapter_id", Empty),
    ("max_new_tokens", Null),
    ("min_new_tokens", Number(0.0)),
    ("max_length", Null),
    ("min_length", Number(0.0)),
    ("do_sample", Null),
    ("num_beams", Number(1.0)),
    ("num_return_sequences", Number(1.0)),
    // text-generation-webui.
    ("top_a", Number(0.0)),
    ("tfs", Number(1.0)),
    ("epsilon_cutoff", Number(0.0)),
    ("eta_cutoff", Number(0.0)),
    ("encoder_repetition_penalty", Number(1.0)),
    ("no_repeat_ngram_size", Number(0.0)),
    ("penalty_alpha", Number(0.0)),
    ("smoothing_factor", Number(0.0)),
    ("mirostat_mode", Number(0.0)),
    ("guidance_scale", Number(1.0)),
    ("negative_prompt", Empty),
    ("ban_eos_token", Empty),
    ("custom_token_bans", Empty),
    // Ollama and Anthropic.
    ("options", Empty),
    ("num_predict", Null),
    ("format", Empty),
    ("system", Empty),
    ("images", Empty),
    ("max_tokens_to_sample", Null),
    ("stop_sequences", Empty),
    ("stop_strings", Empty),
    ("stopping_strings", Empty),
    ("prefill", Empty),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).unwrap()
    }

    fn message(e: &ApiError) -> String {
        let json = e.json();
        assert!(json["error"]["param"].is_string(), "{json}");
        json["error"]["message"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn an_error_names_its_field_and_value() {
        let most = |text: &str| message(&fields(text).whole("max_tokens", 0..=i64::MAX).unwrap_err());
        assert_eq!(most("{\"max_tokens\":-1}"), "max_tokens: must be a whole number, at least 0, not -1");
        assert_eq!(most("{\"max_tokens\":1.0}"), "max_tokens: must be a whole number, at least 0, not 1.0");
        assert_eq!(most("{\"max_tokens\":\"1\"}"), "max_tokens: must be a whole number, at least 0, not \"1\"");
        let mut taken = fields("{\"stop\":[\"a\",1],\"echo\":1,\"top_p\":2,\"stop_token_ids\":[9]}");
        assert!(message(&taken.texts("stop").unwrap_err()).starts_with("stop: "));
        assert!(message(&taken.flag("echo").unwrap_err()).starts_with("echo: "));
        assert!(message(&taken.real("top_p", 1.0, |x| x <= 1.0, "at most 1").unwrap_err()).starts_with("top_p: "));
        assert!(message(&taken.ids("stop_token_ids", 9).unwrap_err()).starts_with("stop_token_ids: "));
    }

    #[test]
    fn fields_that_would_change_the_answer_are_refused_by_name() {
        let refused = |text: &str| fields(text).refuse_rest(&["messages"]).map_err(|e| message(&e));
        for (field, name) in [
            ("\"tool_choice\":\"required\"", "tool_choice"),
            ("\"tools\":[{}]", "tools"),
            ("\"chat_template\":\"x\"", "chat_template"),
            ("\"guided_choice\":[\"a\"]", "guided_choice"),
            ("\"repeat_penalty\":1.1", "repeat_penalty"),
            ("\"frequency_penalty\":0.5", "frequency_penalty"),
            ("\"response_format\":{\"type\":\"json_object\"}", "response_format"),
            ("\"include_stop_str_in_output\":true", "include_stop_str_in_output"),
            ("\"lora\":[{\"id\":0,\"scale\":0.5}]", "lora"),
            ("\"lora_path\":\"x\"", "lora_path"),
            ("\"adapter_id\":\"x\"", "adapter_id"),
            ("\"regex\":\"a+\"", "regex"),
            ("\"guided_decoding\":{\"json\":{}}", "guided_decoding"),
            ("\"enable_thinking\":false", "enable_thinking"),
            ("\"thinking\":{\"type\":\"disabled\"}", "thinking"),
            ("\"max_new_tokens\":0", "max_new_tokens"),
            ("\"do_sample\":false", "do_sample"),
            ("\"no_repeat_ngram_size\":2", "no_repeat_ngram_size"),
            ("\"system\":\"Be brief.\"", "system"),
            ("\"options\":{\"num_predict\":2}", "options"),
            ("\"modalities\":[\"text\",\"audio\"]", "modalities"),
            ("\"messages\":[{}]", "messages"),
        ] {
            let error = refused(&format!("{{{field}}}")).unwrap_err();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
        let harmless = "{\"user\":\"u\",\"store\":true,\"metadata\":{\"a\":\"b\"},\"tool_choice\":\"auto\",\"tools\":[],\"repeat_penalty\":1,\
             \"best_of\":1,\"logit_bias\":{},\"cache_prompt\":true,\"unknown\":7,\"response_format\":{\"type\":\"text\"},\
             \"modalities\":[\"text\"],\"verbosity\":\"medium\",\"num_beams\":1,\"top_n_sigma\":-1,\"enable_thinking\":null,\"messages\":[]}";
        assert_eq!(refused(harmless), Ok(()));
    }

    proptest! {
        #[test]
        fn any_body_is_no_panic(text in ".{0,80}", name in "[a-z_]{1,12}", value in "(-?[1-9][0-9]{0,21}(\\.[0-9]+)?|\"[a-z]*\"|\\[1,-2\\]|\\{\\}|true|null)") {
            let _ = Fields::parse(text.as_bytes());
            let mut fields = fields(&format!("{{\"{name}\":{value},\"max_tokens\":{value},\"stop\":{value}}}"));
            let _ = fields.refuse_rest(&["prompt"]);
            let _ = fields.whole("max_tokens", 0..=10);
            let _ = fields.texts("stop");
        }
    }
}
