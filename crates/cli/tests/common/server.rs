//! A chat completion server on a free port of this machine, with the faults of real ones.

use super::http::{self, Received, receive};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answers with the question, in upper case.
    Answer,
    /// Answers after this long.
    Slow(Duration),
    /// Replies with this status, these headers (each with its line end), this body.
    Reply(u16, &'static str, String),
    /// Answers with something that is not a completion.
    Malformed(&'static str),
    /// Never replies.
    Hang,
    /// Closes the connection.
    Close,
}

/// A request as it came.
pub struct Request {
    pub at: Instant,
    pub authorization: Option<String>,
    pub question: String,
}

/// The server; its thread lives as long as the test process.
pub struct Server {
    pub url: String,
    pub requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts it; `act` decides by the number of the request and the question.
    pub fn start(act: impl Fn(usize, &str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, act) = (requests.clone(), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, act) = (seen.clone(), act.clone());
                // A client that is killed makes reading and writing fail, and that is no fault of the server.
                std::thread::spawn(move || while serve(&stream, &seen, &*act).is_some() {});
            }
        });
        Self { url, requests }
    }
}

/// One request on a connection; None when the connection is over.
fn serve(stream: &TcpStream, seen: &Mutex<Vec<Request>>, act: &dyn Fn(usize, &str) -> Act) -> Option<()> {
    let Received { first, authorization, body } = receive(stream)?;
    assert!(first.starts_with("POST /v1/chat/completions "), "{first}");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let question = body["messages"][0]["content"].as_str().unwrap().to_owned();
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(Request { at: Instant::now(), authorization, question: question.clone() });
        seen.len() - 1
    };
    let answer = || {
        let message = serde_json::json!({"role": "assistant", "content": question.to_uppercase()});
        let choices = serde_json::json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
        serde_json::json!({"choices": choices, "usage": {"completion_tokens": 3}}).to_string()
    };
    let reply = match act(number, &question) {
        Act::Answer => (200, "", answer()),
        Act::Slow(time) => {
            std::thread::sleep(time);
            (200, "", answer())
        }
        Act::Reply(status, headers, text) => (status, headers, text),
        Act::Malformed(text) => (200, "", text.to_owned()),
        Act::Hang => {
            std::thread::sleep(Duration::from_secs(20));
            return None;
        }
        Act::Close => return None,
    };
    http::reply(stream, reply)
}
