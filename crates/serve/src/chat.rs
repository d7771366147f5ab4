//! `/v1/chat/completions`. In: messages; out: the assistant's answers. Invariant: a conversation is turned into a prompt by
//! the model's own chat template, as in training and evaluation.

use crate::Shared;
use crate::completions::shown;
use crate::error::{ApiError, json_response};
use crate::pieces::{Ask, Finish, Piece, Prompt, Usage};
use crate::request::{Asked, Common, MOST_TOP, check_sequences, new_tokens};
use crate::stream::{self, Events, usage_json};
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use eraser_model::{Message, TokenScore, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
struct Body {
    messages: Vec<Turn>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Debug, Deserialize)]
struct Turn {
    role: String,
    content: Value,
}

impl Turn {
    /// Content is a text, or a list of parts of which each is text.
    fn message(self) -> Result<Message, ApiError> {
        let role = match self.role.as_str() {
            // What newer clients call it.
            "developer" => "system".to_owned(),
            "system" | "user" | "assistant" => self.role,
            other => return Err(ApiError::field("messages", format_args!("the role {other:?} is not supported"))),
        };
        let content = match self.content {
            Value::String(text) => text,
            Value::Array(parts) => {
                let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(text)) => Ok(text.to_owned()),
                    _ => Err(ApiError::field("messages", "only text is supported")),
                };
                parts.iter().map(text).collect::<Result<Vec<String>, _>>()?.concat()
            }
            _ => return Err(ApiError::field("messages", "content is a text or a list of parts")),
        };
        Ok(Message { role, content })
    }
}

/// Answers a body.
pub(crate) async fn answer(shared: Arc<Shared>, bytes: Bytes) -> Result<Response, ApiError> {
    let body: Body = serde_json::from_slice(&bytes).map_err(ApiError::body)?;
    // The answer can take long.
    drop(bytes);
    let asked = body.common.resolve(&shared)?;
    let top = match (body.logprobs.unwrap_or(false), body.top_logprobs) {
        (false, None | Some(0)) => None,
        (false, Some(_)) => return Err(ApiError::field("top_logprobs", "needs logprobs: true")),
        (true, n) if n.unwrap_or(0) <= MOST_TOP as u64 => Some(n.unwrap_or(0) as usize),
        (true, _) => return Err(ApiError::field("top_logprobs", format_args!("at most {MOST_TOP}"))),
    };
    let messages = body.messages.into_iter().map(Turn::message).collect::<Result<Vec<Message>, _>>()?;
    let Some(last) = messages.last() else { return Err(ApiError::field("messages", "there is none")) };
    let text = match &shared.model.template {
        Some(template) => template.render(&messages, true)?,
        None => (shared.plain)(&last.content)?,
    };
    let ids = shared.model.tokenizer.encode(&text)?;
    if ids.is_empty() {
        return Err(ApiError::field("messages", "they have no tokens"));
    }
    let (param, most) = match body.max_completion_tokens {
        Some(n) => ("max_completion_tokens", Some(n)),
        None => ("max_tokens", body.max_tokens),
    };
    let max_new_tokens = new_tokens(&shared, param, most, usize::MAX, &ids)?;
    check_sequences(1, asked.n)?;
    let prompts = vec![Prompt { ids, max_new_tokens }];
    let ask = Ask { asked: asked.clone(), prompts, echo: false, top };
    let chat = Chat { id: shared.next_id("chatcmpl"), created: crate::now(), asked: asked.clone(), top };
    if asked.stream {
        return Ok(stream::respond(shared, ask, chat));
    }
    let mut answers: Vec<Answer> = (0..asked.n).map(|_| Answer::default()).collect();
    let mut pieces = ask.begin(&shared)?;
    while let Some(piece) = pieces.next().await? {
        let answer = &mut answers[piece.index];
        answer.text.push_str(&piece.text);
        answer.scores.extend(piece.scores);
        answer.finish = piece.finish.or(answer.finish);
    }
    let choice = |(index, answer): (usize, Answer)| {
        json!({
            "index": index,
            "message": { "role": "assistant", "content": answer.text, "refusal": null },
            "logprobs": top.map(|_| scores_json(&shared.model.tokenizer, &answer.scores)),
            "finish_reason": answer.finish.map(Finish::name),
        })
    };
    let choices: Vec<Value> = answers.into_iter().enumerate().map(choice).collect();
    let mut response = chat.envelope("chat.completion", &choices);
    response["usage"] = usage_json(pieces.usage);
    Ok(json_response(StatusCode::OK, &response))
}

/// An answer that is sent at once.
#[derive(Default)]
struct Answer {
    text: String,
    scores: Vec<TokenScore>,
    finish: Option<Finish>,
}

/// Log-probabilities in the form of chats.
fn scores_json(tokenizer: &Tokenizer, scores: &[TokenScore]) -> Value {
    let token = |id: u32, logprob: f32| {
        let text = shown(tokenizer, id);
        json!({ "token": text, "logprob": logprob, "bytes": text.as_bytes() })
    };
    let entry = |score: &TokenScore| {
        let mut entry = token(score.id, score.logprob);
        entry["top_logprobs"] = score.top.iter().map(|&(id, logprob)| token(id, logprob)).collect();
        entry
    };
    json!({ "content": scores.iter().map(entry).collect::<Vec<Value>>() })
}

/// A chat that is being answered.
struct Chat {
    id: String,
    created: u64,
    asked: Asked,
    top: Option<usize>,
}

impl Chat {
    fn envelope(&self, object: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.asked.model,
            "choices": choices,
        })
    }

    fn chunk(&self, index: usize, delta: &Value, logprobs: Option<&Value>, finish: Option<Finish>) -> Value {
        let choice = json!({
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish.map(Finish::name),
        });
        self.envelope("chat.completion.chunk", &[choice])
    }
}

impl Events for Chat {
    fn first(&mut self) -> Vec<Value> {
        let role = json!({ "role": "assistant", "content": "" });
        (0..self.asked.n).map(|index| self.chunk(index, &role, None, None)).collect()
    }

    fn piece(&mut self, shared: &Shared, piece: Piece) -> Value {
        let delta = if piece.text.is_empty() { json!({}) } else { json!({ "content": piece.text }) };
        let tokenizer = &shared.model.tokenizer;
        let logprobs = self.top.filter(|_| !piece.scores.is_empty()).map(|_| scores_json(tokenizer, &piece.scores));
        self.chunk(piece.index, &delta, logprobs.as_ref(), piece.finish)
    }

    fn usage(&mut self, usage: Usage) -> Option<Value> {
        self.asked.include_usage.then(|| {
            let mut last = self.envelope("chat.completion.chunk", &[]);
            last["usage"] = usage_json(usage);
            last
        })
    }
}
