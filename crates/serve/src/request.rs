//! What a request asks for. In: a JSON body; out: a checked model, sampling options and stop strings. Invariant: a field
//! that would change the answer and is not supported is an error, never ignored.

use crate::Shared;
use crate::error::ApiError;
use eraser_model::GenerateOptions;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Sequences that one request may ask for.
const MOST_SEQUENCES: usize = 128;
/// Likeliest tokens that can be told beside each token.
pub(crate) const MOST_TOP: usize = 20;
/// Stop strings of one request, and bytes of each.
const MOST_STOPS: (usize, usize) = (16, 256);

/// Fields that `/v1/completions` and `/v1/chat/completions` have in common.
#[derive(Debug, Deserialize)]
pub(crate) struct Common {
    model: String,
    n: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    repetition_penalty: Option<f64>,
    seed: Option<i64>,
    #[serde(default, deserialize_with = "one_or_more")]
    stop: Vec<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Everything else, to be refused where it matters.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// A string or a list of strings.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        Value::String(one) => Ok(vec![one]),
        Value::Array(list) => {
            let text = |v: Value| match v {
                Value::String(s) => Ok(s),
                _ => Err(serde::de::Error::custom("stop: a string or a list of strings")),
            };
            list.into_iter().map(text).collect()
        }
        _ => Err(serde::de::Error::custom("stop: a string or a list of strings")),
    }
}

/// How to answer.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Index of the model.
    pub(crate) lane: usize,
    /// Its name.
    pub(crate) model: String,
    /// Answers per prompt.
    pub(crate) n: usize,
    /// Stop strings.
    pub(crate) stops: Vec<String>,
    /// As they come.
    pub(crate) stream: bool,
    /// Whether a stream ends with what was used.
    pub(crate) include_usage: bool,
    /// Everything but `max_new_tokens`.
    pub(crate) options: GenerateOptions,
}

impl Common {
    /// Checks the fields against the server.
    pub(crate) fn resolve(self, shared: &Shared) -> Result<Asked, ApiError> {
        let Some(lane) = shared.names.iter().position(|name| *name == self.model) else {
            let known = shared.names.join(", ");
            let message = format!("there is no model {:?}; there are: {known}", self.model);
            return Err(ApiError::new(axum::http::StatusCode::NOT_FOUND, message));
        };
        refuse(&self.rest)?;
        let number = |name, value: Option<f64>, default: f32, good: fn(f64) -> bool, what: &str| match value {
            None => Ok(default),
            Some(x) if good(x) => Ok(x as f32),
            Some(_) => Err(ApiError::field(name, format_args!("must be {what}"))),
        };
        let temperature = number("temperature", self.temperature, 1.0, |x| (0.0..=100.0).contains(&x), "0 to 100")?;
        let top_p = number("top_p", self.top_p, 1.0, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")?;
        let penalty = self.repetition_penalty;
        let repetition_penalty =
            number("repetition_penalty", penalty, 1.0, |x| (0.01..=100.0).contains(&x), "0.01 to 100")?;
        // -1 stands for all in vLLM.
        let top_k = usize::try_from(self.top_k.unwrap_or(0).max(0)).unwrap_or(usize::MAX);
        let n = match self.n.unwrap_or(1) {
            n @ 1..=128 => n as usize,
            _ => return Err(ApiError::field("n", format_args!("must be 1 to {MOST_SEQUENCES}"))),
        };
        let (many, long) = MOST_STOPS;
        if self.stop.len() > many || self.stop.iter().any(|s| s.len() > long || s.is_empty()) {
            return Err(ApiError::field("stop", format_args!("at most {many} strings of 1 to {long} bytes")));
        }
        let stops = shared.model.tokenizer.stops().to_vec();
        let seed = self.seed.map_or_else(rand::random, |seed| seed as u64);
        Ok(Asked {
            lane,
            model: self.model,
            n,
            stops: self.stop,
            stream: self.stream.unwrap_or(false),
            include_usage: self.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
            options: GenerateOptions { max_new_tokens: 0, temperature, top_k, top_p, repetition_penalty, stops, seed },
        })
    }
}

/// Refuses fields that ask for what is not done here; those that only annotate a request are let through.
fn refuse(rest: &Map<String, Value>) -> Result<(), ApiError> {
    const NEUTRAL: [(&str, &[f64]); 3] =
        [("frequency_penalty", &[0.0]), ("presence_penalty", &[0.0]), ("best_of", &[1.0])];
    for (name, neutral) in NEUTRAL {
        match rest.get(name) {
            None | Some(Value::Null) => {}
            Some(value) if value.as_f64().is_some_and(|v| neutral.contains(&v)) => {}
            Some(_) => return Err(ApiError::field(name, "is not supported")),
        }
    }
    for name in ["tools", "functions", "logit_bias", "suffix", "audio", "modalities", "guided_json"] {
        let empty = match rest.get(name) {
            None | Some(Value::Null) => true,
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(_) => false,
        };
        if !empty {
            return Err(ApiError::field(name, "is not supported"));
        }
    }
    match rest.get("response_format").and_then(|f| f.get("type")).and_then(Value::as_str) {
        None | Some("text") => Ok(()),
        Some(_) => Err(ApiError::field("response_format", "only text is supported")),
    }
}

/// How many tokens each prompt may be given, by what is asked, what the server allows, and what the model has room for.
pub(crate) fn new_tokens(
    shared: &Shared,
    param: &'static str,
    asked: Option<u64>,
    default: usize,
    prompt: &[u32],
) -> Result<usize, ApiError> {
    let room = shared.most_positions.saturating_sub(prompt.len());
    let (most, all) = (shared.limits.max_tokens, shared.most_positions);
    match asked {
        None if room > 0 => Ok(default.min(most).min(room)),
        Some(n) if n > most as u64 => Err(ApiError::field(param, format_args!("this server allows at most {most}"))),
        Some(n) if n <= room as u64 => Ok(n as usize),
        _ => {
            let message = format!(
                "the prompt has {} tokens, and {} more were asked for; there is room for {all} together",
                prompt.len(),
                asked.unwrap_or(1)
            );
            Err(ApiError::body(message))
        }
    }
}

/// An error when a request asks for too many sequences.
pub(crate) fn check_sequences(prompts: usize, n: usize) -> Result<(), ApiError> {
    if prompts * n <= MOST_SEQUENCES {
        return Ok(());
    }
    Err(ApiError::body(format_args!(
        "{prompts} prompts with {n} answers each; at most {MOST_SEQUENCES} in one request"
    )))
}
