//! `/v1/completions`. In: prompts as text or token ids; out: their continuations, and with `echo` and `logprobs` the
//! log-probabilities of the prompts' own tokens, from which harnesses score choices. Invariant: with `logprobs`, every token
//! that was generated has its entry, the stop token too, which is not part of the text.

use crate::Shared;
use crate::error::{ApiError, json_response};
use crate::pieces::{Ask, Piece, Prompt, Usage};
use crate::request::{Asked, Common, MOST_TOP, check_sequences, new_tokens};
use crate::stream::{self, Events, usage_json};
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use eraser_model::{TokenScore, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// New tokens where none were asked for, as in OpenAI's interface.
const DEFAULT_NEW: usize = 16;

#[derive(Debug, Deserialize)]
struct Body {
    prompt: Value,
    max_tokens: Option<u64>,
    logprobs: Option<u64>,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(flatten)]
    common: Common,
}

/// Answers a body.
pub(crate) async fn answer(shared: Arc<Shared>, bytes: Bytes) -> Result<Response, ApiError> {
    let body: Body = serde_json::from_slice(&bytes).map_err(ApiError::body)?;
    // The answer can take long.
    drop(bytes);
    let asked = body.common.resolve(&shared)?;
    let echo = body.echo.unwrap_or(false);
    let top = match body.logprobs {
        None => None,
        Some(n) if n <= MOST_TOP as u64 => Some(n as usize),
        Some(_) => return Err(ApiError::field("logprobs", format_args!("at most {MOST_TOP}"))),
    };
    let mut prompts = Vec::new();
    for ids in read_prompts(&shared, body.prompt)? {
        let max_new_tokens = new_tokens(&shared, "max_tokens", body.max_tokens, DEFAULT_NEW, &ids)?;
        prompts.push(Prompt { ids, max_new_tokens });
    }
    check_sequences(prompts.len(), asked.n)?;
    let tokenizer = &shared.model.tokenizer;
    let echoed = |prompt: &Prompt| -> Result<Echo, ApiError> {
        let text = if echo { tokenizer.decode(&prompt.ids, true)? } else { String::new() };
        Ok(Echo { text, first: prompt.ids.first().copied().filter(|_| echo && top.is_some()) })
    };
    let mut echoes = Vec::new();
    for prompt in &prompts {
        let echo = echoed(prompt)?;
        echoes.extend(std::iter::repeat_n(echo, asked.n));
    }
    let choices = Choices { id: shared.next_id("cmpl"), created: crate::now(), asked: asked.clone(), echoes, top };
    // Without log-probabilities an echo is only text.
    let ask = Ask { prompts, echo: echo && top.is_some(), top, asked };
    if ask.asked.stream {
        return Ok(stream::respond(shared, ask, choices));
    }
    let mut pieces = ask.begin(&shared)?;
    let mut whole: Vec<Whole> = choices.echoes.iter().map(|echo| Whole::new(tokenizer, echo, top)).collect();
    while let Some(piece) = pieces.next().await? {
        whole[piece.index].add(tokenizer, &piece);
    }
    let choice = |(index, whole): (usize, Whole)| whole.json(index);
    let list: Vec<Value> = whole.into_iter().enumerate().map(choice).collect();
    let mut response = choices.envelope(&list);
    response["usage"] = usage_json(pieces.usage);
    Ok(json_response(StatusCode::OK, &response))
}

/// A text, token ids, or a list of either.
fn read_prompts(shared: &Shared, prompt: Value) -> Result<Vec<Vec<u32>>, ApiError> {
    let wrong = || ApiError::field("prompt", "a text, a list of token ids, or a list of texts or of such lists");
    let list = match prompt {
        Value::Array(list) if list.first().is_some_and(Value::is_number) => vec![Value::Array(list)],
        Value::Array(list) => list,
        one => vec![one],
    };
    let one = |value: Value| match value {
        Value::String(text) => Ok(shared.model.tokenizer.encode_with_special(&text)?),
        Value::Array(ids) => {
            let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
            ids.iter().map(id).collect::<Result<Vec<u32>, ApiError>>()
        }
        _ => Err(wrong()),
    };
    let prompts = list.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return Err(ApiError::field("prompt", "it has no tokens"));
    }
    let size = shared.model.config.vocab_size;
    if let Some(id) = prompts.iter().flatten().find(|&&id| id as usize >= size) {
        return Err(ApiError::field("prompt", format_args!("token id {id} is not below the vocabulary size {size}")));
    }
    Ok(prompts)
}

/// What is repeated of a prompt.
#[derive(Clone, Debug)]
struct Echo {
    text: String,
    /// The first token, which has no log-probability; None when scores are not told.
    first: Option<u32>,
}

/// OpenAI's lists of log-probabilities, in step.
#[derive(Default)]
struct Lists {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    length: usize,
}

impl Lists {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32, score: Option<&TokenScore>) {
        let text = shown(tokenizer, id);
        self.text_offset.push(self.length);
        self.length += text.chars().count();
        self.tokens.push(Value::String(text));
        self.token_logprobs.push(score.map_or(Value::Null, |s| json!(s.logprob)));
        self.top_logprobs.push(score.map_or(Value::Null, |s| {
            let mut map = Map::new();
            for (id, logprob) in &s.top {
                // Several ids can have one text: the likeliest, which comes first, stands for it.
                map.entry(shown(tokenizer, *id)).or_insert_with(|| json!(logprob));
            }
            Value::Object(map)
        }));
    }

    fn json(&mut self) -> Value {
        let taken = std::mem::take(self);
        self.length = taken.length;
        json!({
            "tokens": taken.tokens,
            "token_logprobs": taken.token_logprobs,
            "top_logprobs": taken.top_logprobs,
            "text_offset": taken.text_offset,
        })
    }
}

/// A token as text by itself; parts of characters as U+FFFD.
pub(crate) fn shown(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.decode(&[id], false).unwrap_or_default()
}

/// An answer that is sent at once.
struct Whole {
    text: String,
    lists: Option<Lists>,
    finish: &'static str,
}

impl Whole {
    fn new(tokenizer: &Tokenizer, echo: &Echo, top: Option<usize>) -> Self {
        let mut lists = top.map(|_| Lists::default());
        if let (Some(lists), Some(first)) = (&mut lists, echo.first) {
            lists.push(tokenizer, first, None);
        }
        Self { text: echo.text.clone(), lists, finish: "length" }
    }

    fn add(&mut self, tokenizer: &Tokenizer, piece: &Piece) {
        self.text.push_str(&piece.text);
        if let Some(lists) = &mut self.lists {
            for score in piece.prompt.iter().flatten().chain(&piece.scores) {
                lists.push(tokenizer, score.id, Some(score));
            }
        }
        if let Some(finish) = piece.finish {
            self.finish = finish.name();
        }
    }

    fn json(mut self, index: usize) -> Value {
        let logprobs = self.lists.as_mut().map(Lists::json);
        json!({ "index": index, "text": self.text, "logprobs": logprobs, "finish_reason": self.finish })
    }
}

/// The answers of one request.
struct Choices {
    id: String,
    created: u64,
    asked: Asked,
    echoes: Vec<Echo>,
    top: Option<usize>,
}

impl Choices {
    fn envelope(&self, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.asked.model,
            "choices": choices,
        })
    }
}

impl Events for Choices {
    fn first(&mut self) -> Vec<Value> {
        let texts: Vec<(usize, String)> = self
            .echoes
            .iter()
            .enumerate()
            .filter(|(_, e)| !e.text.is_empty())
            .map(|(i, e)| (i, e.text.clone()))
            .collect();
        let choice = |(index, text)| json!({ "index": index, "text": text, "logprobs": null, "finish_reason": null });
        texts.into_iter().map(|one| self.envelope(&[choice(one)])).collect()
    }

    fn piece(&mut self, shared: &Shared, piece: Piece) -> Value {
        let tokenizer = &shared.model.tokenizer;
        let lists = self.top.map(|_| {
            let mut lists = Lists::default();
            if let (Some(first), true) = (self.echoes[piece.index].first, piece.prompt.is_some()) {
                lists.push(tokenizer, first, None);
            }
            for score in piece.prompt.iter().flatten().chain(&piece.scores) {
                lists.push(tokenizer, score.id, Some(score));
            }
            lists.json()
        });
        let finish = piece.finish.map(crate::pieces::Finish::name);
        let choice = json!({ "index": piece.index, "text": piece.text, "logprobs": lists, "finish_reason": finish });
        self.envelope(&[choice])
    }

    fn usage(&mut self, usage: Usage) -> Option<Value> {
        self.asked.include_usage.then(|| {
            let mut last = self.envelope(&[]);
            last["usage"] = usage_json(usage);
            last
        })
    }
}
