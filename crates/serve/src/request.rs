//! What a request asks for. In: a JSON body; out: a checked model, sampling options and stop strings. Invariant: a
//! field that would change the answer and is not supported is an error, never ignored.

use crate::Shared;
use crate::error::ApiError;
use crate::fields::Fields;
use eraser_model::{GenerateOptions, counted};
use serde_json::Value;

/// Sequences that one request may ask for.
const MOST_SEQUENCES: usize = 128;
/// Likeliest tokens that can be sent beside each token.
pub(crate) const MOST_TOP: usize = 20;
/// Stop strings of one request, and bytes of each.
const MOST_STOPS: (usize, usize) = (16, 256);

/// How to answer.
#[derive(Clone, Debug)]
pub(crate) struct RequestSettings {
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

impl RequestSettings {
    /// Takes the fields that `/v1/completions` and `/v1/chat/completions` have in common, and checks them against the
    /// server.
    pub(crate) fn take(fields: &mut Fields, shared: &Shared) -> Result<Self, ApiError> {
        // llama.cpp's clients name none.
        let model = fields.text("model")?.unwrap_or_else(|| shared.names[0].clone());
        let Some(lane) = shared.names.iter().position(|name| *name == model) else {
            let known = shared.names.join(", ");
            let message = format!("there is no model {model:?}; there are: {known}");
            return Err(ApiError::new(axum::http::StatusCode::NOT_FOUND, message));
        };
        let temperature = fields.real("temperature", 1.0, |x| (0.0..=100.0).contains(&x), "0 to 100")?;
        let top_p = fields.real("top_p", 1.0, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")?;
        let min_p = fields.real("min_p", 0.0, |x| (0.0..=1.0).contains(&x), "0 to 1")?;
        let repetition_penalty =
            fields.real("repetition_penalty", 1.0, |x| (0.01..=100.0).contains(&x), "0.01 to 100")?;
        // -1 means all in vLLM.
        let top_k = fields.whole("top_k", -1..=i64::MAX)?.unwrap_or(0).max(0) as usize;
        let n = fields.whole("n", 1..=MOST_SEQUENCES as i64)?.unwrap_or(1) as usize;
        let stop_texts = fields.texts("stop")?;
        let (many, long) = MOST_STOPS;
        if stop_texts.len() > many || stop_texts.iter().any(|s| s.len() > long || s.is_empty()) {
            return Err(ApiError::field("stop", format_args!("at most {many} strings of 1 to {long} bytes")));
        }
        let ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
        let mut stops = if ignore_eos { Vec::new() } else { shared.model.tokenizer.stops().to_vec() };
        stops.extend(fields.ids("stop_token_ids", shared.model.config.vocab_size)?);
        let min_new_tokens = fields.whole("min_tokens", 0..=i64::MAX)?.unwrap_or(0) as usize;
        let seed = fields.whole("seed", i64::MIN..=i64::MAX)?.map_or_else(rand::random, |seed| seed as u64);
        if fields.flag("skip_special_tokens")? == Some(false) {
            return Err(ApiError::field("skip_special_tokens", "only true is supported"));
        }
        let stream = fields.flag("stream")?.unwrap_or(false);
        let include_usage = match fields.object("stream_options")?.get("include_usage") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                let message = format_args!("include_usage must be true or false, not {other}");
                return Err(ApiError::field("stream_options", message));
            }
        };
        let options = GenerateOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            min_new_tokens,
            seed,
            ..GenerateOptions::greedy(0, &stops)
        };
        Ok(Self { lane, model, n, stops: stop_texts, stream, include_usage, options })
    }
}

/// How many tokens each prompt may be given, by what is asked, what the server allows, and what the model has room for.
pub(crate) fn new_tokens(
    shared: &Shared,
    param: &'static str,
    asked: Option<u64>,
    default: usize,
    least: usize,
    prompt: &[u32],
) -> Result<usize, ApiError> {
    if asked.is_some_and(|most| most < least as u64) {
        return Err(ApiError::field("min_tokens", format_args!("{least} is more than {param}")));
    }
    let room = shared.most_positions.saturating_sub(prompt.len());
    let (most, all) = (shared.limits.max_tokens, shared.most_positions);
    match asked {
        None if room > 0 => Ok(default.min(most).min(room)),
        Some(n) if n > most as u64 => Err(ApiError::field(param, format_args!("this server allows at most {most}"))),
        Some(n) if n <= room as u64 => Ok(n as usize),
        _ => {
            let message = format!(
                "the prompt has {}, and {} more were asked for; the model has room for {all} in total: \
                 ask for fewer, or begin a new conversation",
                counted(prompt.len(), "token"),
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

/// An error when a prompt holds a token that the model has no row for.
pub(crate) fn check_ids(param: &'static str, ids: &[u32], shared: &Shared) -> Result<(), ApiError> {
    let size = shared.model.config.vocab_size;
    match ids.iter().find(|&&id| id as usize >= size) {
        Some(id) => Err(ApiError::field(param, format_args!("token id {id} is not below the vocabulary size {size}"))),
        None => Ok(()),
    }
}
