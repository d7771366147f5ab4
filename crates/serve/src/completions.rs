//! `/v1/completions`. In: prompts as text or token ids; out: their continuations, and with `echo` and `logprobs` the
//! log-probabilities of the prompts' own tokens, from which harnesses score choices. Invariant: with `logprobs`, every
//! token that was generated has its entry, the stop token too, which is not part of the text.

use crate::Shared;
use crate::error::{ApiError, json_response};
use crate::fields::Fields;
use crate::pieces::{Ask, Piece, Prompt, Usage};
use crate::request::{MOST_TOP, RequestSettings, check_ids, check_sequences, new_tokens};
use crate::stream::{self, Events, usage_json};
use crate::token_texts::TokenTexts;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use eraser_model::TokenScore;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// New tokens where none were asked for, as in OpenAI's interface.
const DEFAULT_NEW: usize = 16;

/// Fields of chats that would change the answer here.
const ELSEWHERE: [&str; 3] = ["messages", "max_completion_tokens", "top_logprobs"];

/// Answers a body.
pub(crate) async fn answer(shared: Arc<Shared>, bytes: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::parse(&bytes)?;
    // The answer can take long.
    drop(bytes);
    let asked = RequestSettings::take(&mut fields, &shared)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let top = fields.whole("logprobs", 0..=MOST_TOP as i64)?.map(|n| n as usize);
    let special = fields.flag("add_special_tokens")?.unwrap_or(true);
    let most = fields.whole("max_tokens", 0..=i64::MAX)?.map(|n| n as u64);
    let Some(prompt) = fields.take("prompt") else { return Err(ApiError::field("prompt", "is missing")) };
    fields.refuse_rest(&ELSEWHERE)?;
    let mut prompts = Vec::new();
    for ids in read_prompts(&shared, prompt, special)? {
        let least = asked.options.min_new_tokens;
        let max_new_tokens = new_tokens(&shared, "max_tokens", most, DEFAULT_NEW, least, &ids)?;
        prompts.push(Prompt { ids, max_new_tokens });
    }
    check_sequences(prompts.len(), asked.n)?;
    let tokenizer = &shared.model.tokenizer;
    let echoed = |prompt: &Prompt| -> Result<Echo, ApiError> {
        let text = if echo { tokenizer.decode(&prompt.ids, true)? } else { String::new() };
        let scored = echo && top.is_some();
        let context = if scored { Vec::new() } else { prompt.ids.clone() };
        Ok(Echo { text, first: prompt.ids.first().copied().filter(|_| scored), context })
    };
    let mut echoes = Vec::new();
    for prompt in &prompts {
        let echo = echoed(prompt)?;
        echoes.extend(std::iter::repeat_n(echo, asked.n));
    }
    let lists = echoes.iter().filter(|_| top.is_some()).map(|echo| Lists::new(&shared, &echo.context)).collect();
    let choices = Choices { id: shared.next_id("cmpl"), created: crate::now(), asked: asked.clone(), echoes, lists };
    // Without log-probabilities an echo is only text.
    let ask = Ask { prompts, echo: echo && top.is_some(), in_context: true, top, asked, thinking: None, open: false };
    if ask.asked.stream {
        return Ok(stream::respond(shared, ask, choices));
    }
    let mut pieces = ask.begin(&shared)?;
    let mut whole: Vec<Whole> = choices.echoes.iter().map(|echo| Whole::new(&shared, echo, top)).collect();
    while let Some(piece) = pieces.next().await? {
        whole[piece.index].add(&piece);
    }
    let choice = |(index, whole): (usize, Whole)| whole.json(index);
    let list: Vec<Value> = whole.into_iter().enumerate().map(choice).collect();
    let mut response = choices.envelope(&list);
    response["usage"] = usage_json(pieces.usage);
    Ok(json_response(StatusCode::OK, &response))
}

/// A text, token ids, or a list of either.
fn read_prompts(shared: &Shared, prompt: Value, special: bool) -> Result<Vec<Vec<u32>>, ApiError> {
    let wrong = || ApiError::field("prompt", "a text, a list of token ids, or a list of texts or of such lists");
    let list = match prompt {
        Value::Array(list) if list.first().is_some_and(Value::is_number) => vec![Value::Array(list)],
        Value::Array(list) => list,
        one => vec![one],
    };
    let one = |value: Value| match value {
        Value::String(text) if special => Ok(shared.model.tokenizer.encode_with_special(&text)?),
        Value::String(text) => Ok(shared.model.tokenizer.encode(&text)?),
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
    prompts.iter().try_for_each(|ids| check_ids("prompt", ids, shared))?;
    Ok(prompts)
}

/// What is repeated of a prompt.
#[derive(Clone, Debug)]
struct Echo {
    text: String,
    /// The first token, which has no log-probability; None when no log-probabilities are sent.
    first: Option<u32>,
    /// The text before the tokens that are sent.
    context: Vec<u32>,
}

/// OpenAI's lists of log-probabilities, in step. Put together, the tokens of an answer are its text.
struct Lists {
    said: TokenTexts,
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    length: usize,
}

impl Lists {
    fn new(shared: &Shared, context: &[u32]) -> Self {
        let said = TokenTexts::new(&shared.model.tokenizer, context);
        Self {
            said,
            tokens: Vec::new(),
            token_logprobs: Vec::new(),
            top_logprobs: Vec::new(),
            text_offset: Vec::new(),
            length: 0,
        }
    }

    /// What an echo begins with, then the tokens of a piece.
    fn extend(&mut self, first: Option<u32>, piece: &Piece) {
        if let Some(first) = first {
            self.push(first, None);
        }
        for score in piece.prompt.iter().flatten().chain(&piece.scores) {
            self.push(score.id, Some(score));
        }
    }

    fn push(&mut self, id: u32, score: Option<&TokenScore>) {
        let others = score.map(|score| self.said.others(score)).unwrap_or_default();
        let text = self.said.push(id);
        self.text_offset.push(self.length);
        self.length += text.chars().count();
        self.token_logprobs.push(score.map_or(Value::Null, |s| json!(s.logprob)));
        self.top_logprobs.push(score.map_or(Value::Null, |s| {
            let mut map = Map::new();
            for (other, logprob) in &s.top {
                // Several ids can have one text: the likeliest, which comes first, is taken.
                let shown = if *other == id { Some(&text) } else { others.get(other) };
                map.entry(shown.cloned().unwrap_or_default()).or_insert_with(|| json!(logprob));
            }
            Value::Object(map)
        }));
        self.tokens.push(Value::String(text));
    }

    fn json(&mut self) -> Value {
        json!({
            "tokens": std::mem::take(&mut self.tokens),
            "token_logprobs": std::mem::take(&mut self.token_logprobs),
            "top_logprobs": std::mem::take(&mut self.top_logprobs),
            "text_offset": std::mem::take(&mut self.text_offset),
        })
    }
}

/// An answer that is sent at once.
struct Whole {
    text: String,
    first: Option<u32>,
    lists: Option<Lists>,
    finish: &'static str,
}

impl Whole {
    fn new(shared: &Shared, echo: &Echo, top: Option<usize>) -> Self {
        let lists = top.map(|_| Lists::new(shared, &echo.context));
        Self { text: echo.text.clone(), first: echo.first, lists, finish: "length" }
    }

    fn add(&mut self, piece: &Piece) {
        self.text.push_str(&piece.text);
        if let Some(lists) = &mut self.lists {
            lists.extend(self.first.take_if(|_| piece.prompt.is_some()), piece);
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
    asked: RequestSettings,
    echoes: Vec<Echo>,
    /// Of each answer; empty when no log-probabilities are sent.
    lists: Vec<Lists>,
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

    fn piece(&mut self, _: &Shared, piece: Piece) -> Value {
        let first = self.echoes[piece.index].first.take_if(|_| piece.prompt.is_some());
        let lists = self.lists.get_mut(piece.index).map(|lists| {
            lists.extend(first, &piece);
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
