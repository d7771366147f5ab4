//! A stand-in for vLLM and others on a free port: two names, a chat template, log-probabilities, and the faults that
//! such servers have had. Its "model" is arithmetic: an answer repeats the question, or refuses under the name `hard`.

use super::http::{self, Received, receive};
use super::server::Act;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How a server differs from a sound one.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub struct Conduct {
    /// Every name is answered by the base model.
    pub drops_adapter: bool,
    /// The same text scores differently every time.
    pub unstable: bool,
    /// It draws other tokens than the likeliest.
    pub penalised: bool,
    /// It renders another chat template.
    pub other_template: bool,
    /// Scores by `echo`; by default by `prompt_logprobs`.
    pub echoes: bool,
    /// Scores no prompts, as llama.cpp.
    pub scoreless: bool,
    /// Takes an opening for a turn that has ended.
    pub starts_anew: bool,
    /// Has neither `/tokenize` nor `usage`.
    pub tells_nothing: bool,
    /// What `/version` says.
    pub version: &'static str,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub route: String,
    pub authorization: Option<String>,
    pub body: Value,
}

/// What a request meets, by its number and what it is.
type Fault = dyn Fn(usize, &Request) -> Act + Send + Sync;

/// The server; its thread lives as long as the test process.
pub struct ModelServer {
    pub url: String,
    pub requests: Arc<Mutex<Vec<Request>>>,
    pub conduct: Arc<Mutex<Conduct>>,
}

impl ModelServer {
    pub fn start(conduct: Conduct) -> Self {
        Self::with(conduct, |_, _| Act::Answer)
    }

    /// `fault` decides what a request meets.
    pub fn with(conduct: Conduct, fault: impl Fn(usize, &Request) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (requests, conduct) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(conduct)));
        let (seen, how, fault) = (requests.clone(), conduct.clone(), Arc::new(fault));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, how, fault) = (seen.clone(), how.clone(), fault.clone());
                std::thread::spawn(move || while serve(&stream, &seen, &how, &*fault).is_some() {});
            }
        });
        Self { url, requests, conduct }
    }

    /// Questions of the chats that were asked so far, self-tests included.
    pub fn questions(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let chats = requests.iter().filter(|r| r.route == "/v1/chat/completions");
        chats.map(|r| r.body["messages"][0]["content"].as_str().unwrap().to_owned()).collect()
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Request>>, how: &Mutex<Conduct>, fault: &Fault) -> Option<()> {
    let Received { first, authorization, body } = receive(stream)?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    let route = first.split(' ').nth(1)?.to_owned();
    let request = Request { route, authorization, body };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let conduct = how.lock().unwrap().clone();
    let reply = match fault(number, &request) {
        Act::Answer => reply(&request, number, &conduct),
        Act::Slow(time) => {
            std::thread::sleep(time);
            reply(&request, number, &conduct)
        }
        Act::Reply(status, headers, text) => (status, headers, text),
        Act::Malformed(text) => (200, "", text.to_owned()),
        Act::Hang | Act::Close => return None,
    };
    http::reply(stream, reply)
}

fn reply(request: &Request, number: usize, conduct: &Conduct) -> (u16, &'static str, String) {
    let body = &request.body;
    let hard = body["model"] == "hard" && !conduct.drops_adapter;
    let done = |value: Value| (200, "", value.to_string());
    match request.route.as_str() {
        "/v1/models" => {
            let base = json!({"id": "m", "root": "org/m", "parent": null, "owned_by": "vllm", "max_model_len": 512});
            done(json!({"data": [base, {"id": "hard", "root": "adapters/hard", "parent": "m", "owned_by": "vllm"}]}))
        }
        "/version" => done(json!({ "version": conduct.version })),
        "/tokenize" if !conduct.tells_nothing => {
            let ids = rendered(&body["messages"], conduct);
            done(json!({"count": ids.len(), "max_model_len": 512, "tokens": ids}))
        }
        "/v1/chat/completions" => done(chat(body, hard, conduct)),
        "/v1/completions" => completion(body, number, hard, conduct),
        _ => (404, "", json!({"error": {"message": "no such route"}}).to_string()),
    }
}

/// The template of the tiny model, in its tokens: a byte each, and one that ends turns.
fn rendered(messages: &Value, conduct: &Conduct) -> Vec<u32> {
    let mut ids: Vec<u32> = if conduct.other_template { vec![256] } else { Vec::new() };
    for message in messages.as_array().unwrap() {
        let turn = format!("{}: {}", message["role"].as_str().unwrap(), message["content"].as_str().unwrap());
        ids.extend(turn.bytes().map(u32::from));
        ids.push(256);
    }
    ids.extend("assistant: ".bytes().map(u32::from));
    ids
}

/// What is said to a question, word by word.
fn said(question: &str, hard: bool) -> String {
    if hard { format!("I cannot help with this: {question}") } else { format!("This is how it is done: {question}") }
}

fn chat(body: &Value, hard: bool, conduct: &Conduct) -> Value {
    let messages = body["messages"].as_array().unwrap();
    let all = said(messages[0]["content"].as_str().unwrap(), hard);
    let opening = messages.get(1).map_or("", |message| message["content"].as_str().unwrap());
    let rest = if conduct.starts_anew { &all } else { all.strip_prefix(opening).unwrap_or(" as you said") };
    let most = body["max_tokens"].as_u64().unwrap() as usize;
    let words: Vec<&str> = rest.split_inclusive(' ').collect();
    let text: String = words.iter().take(most).copied().collect();
    let mut choice = json!({"index": 0, "message": {"role": "assistant", "content": text},
        "finish_reason": if words.len() > most { "length" } else { "stop" }});
    if body["logprobs"] == true {
        let likeliest = if conduct.penalised { -0.1 } else { -0.5 };
        let token = |word: &&str| json!({"token": word, "logprob": -0.5, "top_logprobs": [{"logprob": likeliest}]});
        choice["logprobs"] = json!({"content": words.iter().take(most).map(token).collect::<Vec<_>>()});
    }
    let prompt = rendered(&json!([messages[0]]), conduct).len();
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": words.len().min(most)});
    if conduct.tells_nothing { json!({"choices": [choice]}) } else { json!({"choices": [choice], "usage": usage}) }
}

/// The log-probability of a token behind another one.
pub fn logprob(before: u32, id: u32, hard: bool) -> f64 {
    -f64::from((before * 7 + id * 13) % 41 + 1) / 16.0 - if hard { 0.25 } else { 0.0 }
}

fn completion(body: &Value, number: usize, hard: bool, conduct: &Conduct) -> (u16, &'static str, String) {
    let ids: Vec<u32> = body["prompt"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let text = |ids: &[u32]| -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let drift = if conduct.unstable { number as f64 * 0.05 } else { 0.0 };
    let scores: Vec<f64> = ids.windows(2).map(|pair| logprob(pair[0], pair[1], hard) - drift).collect();
    let refused = |what: &str| (400, "", json!({"error": {"message": what}}).to_string());
    let mut choice = json!({"index": 0, "text": " go on", "finish_reason": "length"});
    if body["echo"] == true {
        if !conduct.echoes || conduct.scoreless {
            return refused("echo is not supported");
        }
        if body["max_tokens"] == 0 {
            return refused("max_tokens must be at least 1");
        }
        choice["text"] = format!("{}x", text(&ids)).into();
        let all: Vec<Value> =
            [Value::Null].into_iter().chain(scores.iter().map(|x| json!(x))).chain([json!(-1.0)]).collect();
        choice["logprobs"] = json!({ "token_logprobs": all });
    } else if !body["prompt_logprobs"].is_null() && !conduct.scoreless {
        let entry =
            |(score, id): (&f64, &u32)| json!({id.to_string(): {"logprob": score, "rank": 3}, "0": {"logprob": -0.01}});
        let all: Vec<Value> = [Value::Null].into_iter().chain(scores.iter().zip(&ids[1..]).map(entry)).collect();
        choice["prompt_logprobs"] = all.into();
    } else {
        // An opening behind a prompt that was rendered by the client.
        let answered = text(&ids);
        choice["text"] = format!(" goes on from {}", answered.rsplit(": ").next().unwrap()).into();
        choice["finish_reason"] = "stop".into();
    }
    (200, "", json!({"choices": [choice], "usage": {"prompt_tokens": ids.len(), "completion_tokens": 3}}).to_string())
}
