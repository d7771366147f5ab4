//! `/v1/chat/completions`. In: messages; out: the assistant's answers. Invariant: a conversation is turned into a
//! prompt by the model's own chat template, as in training and evaluation.

use crate::Shared;
use crate::error::{ApiError, json_response};
use crate::fields::{Fields, is_empty};
use crate::pieces::{Ask, Finish, Piece, Prompt, Usage};
use crate::request::{MOST_TOP, RequestSettings, check_ids, check_sequences, new_tokens};
use crate::stream::{self, Events, usage_json};
use crate::thoughts::Thoughts;
use crate::token_texts::TokenTexts;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use eraser_model::{Conversation, Said, TokenScore};
use serde_json::{Value, json};
use std::sync::Arc;

/// Keys of a message that say more than its text, in the interfaces of OpenAI, Ollama, Mistral and `DeepSeek`.
const MORE: [&str; 7] = ["tool_calls", "function_call", "audio", "images", "refusal", "prefix", "partial"];

/// Fields of a request that are variables of a template.
const FIELDS: [&str; 2] = ["documents", "reasoning_effort"];

/// The names in `chat_template_kwargs` that the template does not read. One that is near to a variable is an error: it
/// is misspelt. Others are only told of in the answer, because clients send the same ones to every model.
fn unused_variables(shared: &Shared, names: &[String]) -> Result<Vec<String>, ApiError> {
    let unread = shared.model.template.iter().flat_map(|t| t.unread(names.iter().map(String::as_str)));
    let told = unread.map(|unread| match unread.near {
        Some(near) => {
            let name = unread.name;
            let message = format!("the template does not read {name:?}; did you mean {near:?}?");
            Err(ApiError::field("chat_template_kwargs", message))
        }
        None => Ok(unread.name),
    });
    told.collect()
}

/// A message as the template gets it. Content is a text, or a list of parts of which each is text.
fn message(turn: Value) -> Result<Value, ApiError> {
    let Value::Object(mut turn) = turn else { return Err(ApiError::field("messages", "each is an object")) };
    let role = match turn.get("role").and_then(Value::as_str) {
        // What newer clients call it.
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some(other) => return Err(ApiError::field("messages", format_args!("the role {other:?} is not supported"))),
        None => return Err(ApiError::field("messages", "a role is a text")),
    };
    let role = role.to_owned();
    let more = MORE.into_iter().find(|key| turn.get(*key).is_some_and(|value| !is_empty(value)));
    match more {
        None => {}
        Some(key @ ("prefix" | "partial")) => {
            let message = format_args!("{key} is not supported: continue_final_message continues the last one");
            return Err(ApiError::field("messages", message));
        }
        Some(key) => return Err(ApiError::field("messages", format_args!("{key} is not supported"))),
    }
    let content = match turn.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                _ => Err(ApiError::field("messages", "only text is supported")),
            };
            parts.iter().map(text).collect::<Result<Vec<String>, _>>()?.concat()
        }
        _ => return Err(ApiError::field("messages", "content is a text or a list of parts")),
    };
    turn.insert("role".into(), role.into());
    turn.insert("content".into(), content.into());
    Ok(Value::Object(turn))
}

/// The conversation that the fields describe.
fn conversation(fields: &mut Fields) -> Result<Conversation, ApiError> {
    let Some(turns) = fields.list("messages")? else { return Err(ApiError::field("messages", "is missing")) };
    let messages = turns.into_iter().map(message).collect::<Result<Vec<Value>, _>>()?;
    if messages.is_empty() {
        return Err(ApiError::field("messages", "there is none"));
    }
    let mut variables = fields.object("chat_template_kwargs")?;
    for taken in eraser_model::template::TAKEN {
        if variables.contains_key(taken) {
            return Err(ApiError::field("chat_template_kwargs", format_args!("{taken} is no variable of a template")));
        }
    }
    for name in FIELDS {
        if let Some(value) = fields.take(name) {
            variables.insert(name.into(), value);
        }
    }
    let continue_final_message = fields.flag("continue_final_message")?.unwrap_or(false);
    let add_generation_prompt = fields.flag("add_generation_prompt")?.unwrap_or(true);
    if continue_final_message && add_generation_prompt {
        let message = "needs add_generation_prompt: false";
        return Err(ApiError::field("continue_final_message", message));
    }
    if fields.flag("echo")? == Some(true) {
        return Err(ApiError::field("echo", "is not supported in chats"));
    }
    Ok(Conversation { messages, tools: None, add_generation_prompt, continue_final_message, variables })
}

/// Answers a body.
pub(crate) async fn answer(shared: Arc<Shared>, bytes: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::parse(&bytes)?;
    // The answer can take long.
    drop(bytes);
    let asked = RequestSettings::take(&mut fields, &shared)?;
    let logprobs = fields.flag("logprobs")?.unwrap_or(false);
    let top = match (logprobs, fields.whole("top_logprobs", 0..=MOST_TOP as i64)?) {
        (false, None | Some(0)) => None,
        (false, Some(_)) => return Err(ApiError::field("top_logprobs", "needs logprobs: true")),
        (true, n) => Some(n.unwrap_or(0) as usize),
    };
    let conversation = conversation(&mut fields)?;
    // What other interfaces have fields for is no name that a client may have misspelt.
    let of_fields = |name: &&String| !FIELDS.contains(&name.as_str());
    let named: Vec<String> = conversation.variables.keys().filter(of_fields).cloned().collect();
    let special = fields.flag("add_special_tokens")?.unwrap_or(false);
    let (param, most) = match fields.whole("max_completion_tokens", 0..=i64::MAX)? {
        Some(n) => ("max_completion_tokens", Some(n as u64)),
        None => ("max_tokens", fields.whole("max_tokens", 0..=i64::MAX)?.map(|n| n as u64)),
    };
    fields.refuse_rest(&["prompt"])?;
    let unused = unused_variables(&shared, &named)?;
    let tokenizer = &shared.model.tokenizer;
    let model = Arc::clone(&shared.model);
    // A template is foreign code and may run for long.
    let rendering = tokio::task::spawn_blocking(move || model.chat_template()?.render_chat(&conversation));
    let text = rendering.await.map_err(ApiError::internal)??;
    let ids = if special { tokenizer.encode_with_special(&text)? } else { tokenizer.encode(&text)? };
    if ids.is_empty() {
        return Err(ApiError::field("messages", "they have no tokens"));
    }
    check_ids("messages", &ids, &shared)?;
    let max_new_tokens = new_tokens(&shared, param, most, usize::MAX, asked.options.min_new_tokens, &ids)?;
    check_sequences(1, asked.n)?;
    let prompts = vec![Prompt { ids, max_new_tokens }];
    let thinking = shared.model.thinking().cloned();
    let open = shared.model.thinks_after(&text);
    let ask =
        Ask { asked: asked.clone(), prompts, echo: false, in_context: false, top, thinking: thinking.clone(), open };
    let chat = Chat {
        id: shared.next_id("chatcmpl"),
        created: crate::now(),
        asked: asked.clone(),
        top,
        said: said(&shared, asked.n),
        thoughts: Thoughts::new(thinking.as_ref(), &text, asked.n),
        unused,
    };
    if asked.stream {
        return Ok(stream::respond(shared, ask, chat));
    }
    let mut answers: Vec<Answer> = said(&shared, asked.n).into_iter().map(Answer::new).collect();
    let mut pieces = ask.begin(&shared)?;
    while let Some(piece) = pieces.next().await? {
        let answer = &mut answers[piece.index];
        answer.text.push_str(&piece.text);
        for score in &piece.scores {
            answer.scores.push(score_json(&mut answer.said, score));
        }
        answer.finish = piece.finish.or(answer.finish);
    }
    let choice = |(index, answer): (usize, Answer)| {
        let said = match &thinking {
            Some(thinking) => thinking.split(&answer.text, open),
            None => Said { answer: answer.text, ..Said::default() },
        };
        let mut message = json!({ "role": "assistant", "content": said.answer, "refusal": null });
        if !said.thought.is_empty() {
            message["reasoning_content"] = said.thought.into();
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": top.map(|_| json!({ "content": answer.scores })),
            "finish_reason": answer.finish.map(Finish::name),
        })
    };
    let choices: Vec<Value> = answers.into_iter().enumerate().map(choice).collect();
    let mut response = chat.envelope("chat.completion", &choices);
    response["usage"] = usage_json(pieces.usage);
    Ok(json_response(StatusCode::OK, &response))
}

/// What writes the tokens of `n` answers as text.
fn said(shared: &Shared, n: usize) -> Vec<TokenTexts> {
    (0..n).map(|_| TokenTexts::new(&shared.model.tokenizer, &[])).collect()
}

/// An answer that is sent at once.
struct Answer {
    text: String,
    said: TokenTexts,
    scores: Vec<Value>,
    finish: Option<Finish>,
}

impl Answer {
    fn new(said: TokenTexts) -> Self {
        Self { text: String::new(), said, scores: Vec::new(), finish: None }
    }
}

/// Log-probabilities of one token in the form of chats.
fn score_json(said: &mut TokenTexts, score: &TokenScore) -> Value {
    let others = said.others(score);
    let text = said.push(score.id);
    let token = |text: &str, id: u32, logprob: f32, said: &TokenTexts| json!({ "token": text, "logprob": logprob, "bytes": said.bytes(id, text) });
    let mut entry = token(&text, score.id, score.logprob, said);
    let other = |&(id, logprob): &(u32, f32)| {
        let shown = if id == score.id { &text } else { others.get(&id).map_or("", String::as_str) };
        token(shown, id, logprob, said)
    };
    entry["top_logprobs"] = score.top.iter().map(other).collect();
    entry
}

/// A chat that is being answered.
struct Chat {
    id: String,
    created: u64,
    asked: RequestSettings,
    top: Option<usize>,
    said: Vec<TokenTexts>,
    thoughts: Thoughts,
    /// Names in `chat_template_kwargs` that changed nothing.
    unused: Vec<String>,
}

impl Chat {
    fn envelope(&self, object: &str, choices: &[Value]) -> Value {
        let mut envelope = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.asked.model,
            "choices": choices,
        });
        if !self.unused.is_empty() {
            envelope["unused_chat_template_kwargs"] = json!(self.unused);
        }
        envelope
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

    fn piece(&mut self, _: &Shared, piece: Piece) -> Value {
        let shown = self.thoughts.push(piece.index, &piece.text, piece.finish.is_some());
        let mut delta = json!({});
        for (key, text) in [("reasoning_content", shown.thought), ("content", shown.answer)] {
            if !text.is_empty() {
                delta[key] = text.into();
            }
        }
        let said = &mut self.said[piece.index];
        let scores: Vec<Value> = piece.scores.iter().map(|score| score_json(said, score)).collect();
        let logprobs = self.top.filter(|_| !scores.is_empty()).map(|_| json!({ "content": scores }));
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
