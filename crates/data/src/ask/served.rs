//! A model under test that a server has under a name. In: turns, and tokens to score; out: answers, log-probabilities,
//! and what the server says of itself. Invariant: all is asked of that name, by the one client of servers; a route that
//! a server does not have is no error, but nothing is known then.

use super::client::{Call, Client, EndpointOptions};
use super::served_reply::{self as reply, Said, ServerFacts};
use super::trouble::{Trouble, body as body_of};
use crate::Sampling;
use eraser_model::{Error, Result};
use serde_json::{Value, json};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Reads what was said from a body.
type Parse = fn(&str) -> std::result::Result<Said, Trouble>;

const CHAT: &str = "/chat/completions";
const COMPLETIONS: &str = "/completions";

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A user turn in the server's own chat template. The answer goes on from the opening, unless that is empty.
    Chat {
        /// What the user says.
        user: String,
        /// How the answer begins.
        opening: String,
    },
    /// A whole prompt in tokens.
    Tokens(Vec<u32>),
}

/// How a server gives the log-probabilities of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// `echo` with `logprobs`; nothing is generated.
    Echo,
    /// As that, of a server that generates one token at least.
    EchoOne,
    /// vLLM's `prompt_logprobs`.
    PromptLogprobs,
}

impl Scoring {
    /// Every one, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Echo, Self::EchoOne, Self::PromptLogprobs];
}

/// A prompt that a server has scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// How it gives log-probabilities.
    pub how: Scoring,
    /// Those of the tokens behind the first.
    pub scores: Vec<f32>,
    /// The text that it echoed, where it echoes.
    pub echo: Option<String>,
}

/// The model.
#[derive(Debug)]
pub struct Served {
    client: Client,
    model: String,
}

impl Served {
    /// The model that the options name; the key is read from the environment.
    ///
    /// # Errors
    /// There is no URL, no model or no such key; a URL that is none.
    pub fn new(options: &EndpointOptions) -> Result<Self> {
        let model = options.model.clone().filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| Error::request("the endpoint needs the name of a model"))?;
        Ok(Self { client: Client::new(options)?, model })
    }

    /// The base URL.
    pub fn url(&self) -> &str {
        self.client.base()
    }

    /// The name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What the server says of itself and of the model.
    ///
    /// # Errors
    /// The server cannot be reached; it lists its models, and this one is not among them.
    pub fn facts(&self) -> Result<ServerFacts> {
        let list = self.optional("/models", None, &|text| reply::models(text, &self.model))?;
        let mut facts = list.unwrap_or_default();
        if !facts.names.is_empty() && !facts.names.contains(&self.model) {
            let (url, model, names) = (self.url(), &self.model, facts.names.join(", "));
            return Err(Error::request(format!("{url}: the server has no model `{model}`"))
                .hint(format!("it has: {names}"))
                .hint("vLLM has an adapter under a name by --enable-lora --lora-modules NAME=DIR"));
        }
        let mut version = self.optional(&self.beside("/version"), None, &reply::version)?;
        if version.is_none() {
            let props = self.beside("/props");
            version = self.optional(&props, None, &reply::version)?;
            if facts.positions.is_none() {
                facts.positions = self.optional(&props, None, &reply::positions)?;
            }
        }
        let told: Vec<String> = facts.server.into_iter().chain(version).collect();
        facts.server = (!told.is_empty()).then(|| told.join(" "));
        Ok(facts)
    }

    /// The tokens that the server makes of a user turn; None where it does not say.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn tokenize(&self, user: &str) -> Result<Option<Vec<u32>>> {
        let body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": user}],
            "add_generation_prompt": true,
            "add_special_tokens": false,
        });
        self.optional(&self.beside("/tokenize"), Some(&body), &reply::tokenized)
    }

    /// Answers one turn; with `scores`, those of its tokens too, where the server gives them.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub fn say(&self, turn: &Turn, most: usize, sampling: &Sampling, scores: bool) -> Result<Said> {
        let said = self.answer(0, turn, most, sampling, scores, &AtomicBool::new(false))?;
        said.ok_or_else(|| Error::failed("a request was not answered"))
    }

    /// Answers every turn, each with at most so many new tokens; `take` gets the answers as they come. False when
    /// `alive` says to stop.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses a request; `take` fails.
    pub fn respond(
        &self,
        turns: &[(Turn, usize)],
        sampling: &Sampling,
        take: &mut dyn FnMut(usize, Said) -> Result<()>,
        alive: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let jobs: Vec<usize> = (0..turns.len()).collect();
        let work = |i: usize, stop: &AtomicBool| self.answer(i, &turns[i].0, turns[i].1, sampling, false, stop);
        self.client.each(&jobs, &work, take, alive)
    }

    fn answer(
        &self,
        index: usize,
        turn: &Turn,
        most: usize,
        sampling: &Sampling,
        scores: bool,
        stop: &AtomicBool,
    ) -> Result<Option<Said>> {
        let mut body = json!({
            "model": self.model,
            "max_tokens": most,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        });
        let (route, parse): (_, Parse) = match turn {
            Turn::Chat { user, opening } => {
                let mut messages = vec![json!({"role": "user", "content": user})];
                if !opening.is_empty() {
                    messages.push(json!({"role": "assistant", "content": opening}));
                    body["continue_final_message"] = true.into();
                    body["add_generation_prompt"] = false.into();
                }
                body["messages"] = messages.into();
                if scores {
                    body["logprobs"] = true.into();
                    body["top_logprobs"] = 1.into();
                }
                (CHAT, reply::chat)
            }
            Turn::Tokens(ids) => {
                body["prompt"] = json!(ids);
                (COMPLETIONS, reply::completion)
            }
        };
        let read = |status: u16, text: std::result::Result<String, Trouble>, wait: Option<Duration>| {
            if status == 400 && text.as_ref().is_ok_and(|text| text.contains("content_filter")) {
                return Ok(Said { stopped: true, ..Said::default() });
            }
            body_of(status, text, wait).and_then(|text| parse(&text))
        };
        let nothing = || Some(Said { stopped: true, ..Said::default() });
        let call = Call { route, body: Some(&body), seed: sampling.seed, index };
        let said = self.client.ask(&call, &read, &nothing, stop)?;
        Ok(said.map(|said| Said {
            text: self.client.redacted(&said.text),
            thought: self.client.redacted(&said.thought),
            ..said
        }))
    }

    /// How the server gives log-probabilities of prompts, and those of `ids`; None where it gives none.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn scoring(&self, ids: &[u32]) -> Result<Option<Scored>> {
        let scored = ids.len().saturating_sub(1);
        for how in Scoring::ALL {
            let parse = |text: &str| parse_scores(how, text, ids, scored).ok();
            if let Some((scores, echo)) = self.optional(COMPLETIONS, Some(&self.scored(how, ids)), &parse)? {
                return Ok(Some(Scored { how, scores, echo }));
            }
        }
        Ok(None)
    }

    /// The log-probabilities of the last tokens, as many as are `scored`, of each request, given all before them. False
    /// when `alive` says to stop.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses a request; `take` fails.
    pub fn score(
        &self,
        how: Scoring,
        requests: &[(&[u32], usize)],
        take: &mut dyn FnMut(usize, Vec<f32>) -> Result<()>,
        alive: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let jobs: Vec<usize> = (0..requests.len()).collect();
        let work = |i: usize, stop: &AtomicBool| {
            let (ids, scored) = requests[i];
            let sent = self.scored(how, ids);
            let read = |status: u16, text: std::result::Result<String, Trouble>, wait: Option<Duration>| {
                let text = body_of(status, text, wait)?;
                parse_scores(how, &text, ids, scored).map(|(scores, _)| scores)
            };
            let call = Call { route: COMPLETIONS, body: Some(&sent), seed: 0, index: i };
            self.client.ask(&call, &read, &|| None, stop)
        };
        self.client.each(&jobs, &work, take, alive)
    }

    /// The body of a request for scores.
    fn scored(&self, how: Scoring, ids: &[u32]) -> Value {
        let mut body = json!({ "model": self.model, "prompt": ids, "temperature": 0.0, "max_tokens": 1 });
        match how {
            Scoring::PromptLogprobs => body["prompt_logprobs"] = 1.into(),
            Scoring::Echo | Scoring::EchoOne => {
                body["echo"] = true.into();
                body["logprobs"] = 1.into();
            }
        }
        if how == Scoring::Echo {
            body["max_tokens"] = 0.into();
        }
        body
    }

    /// The URL of a route that is beside `/v1`.
    fn beside(&self, route: &str) -> String {
        let base = self.url();
        format!("{}{route}", base.strip_suffix("/v1").unwrap_or(base))
    }

    /// What a route replies that the server may not have.
    fn optional<T>(&self, route: &str, body: Option<&Value>, parse: &dyn Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let read = |status: u16, text: std::result::Result<String, Trouble>, wait: Option<Duration>| match status {
            200 => Ok(text.ok().and_then(|text| parse(&text))),
            // It has the route, and asks for a key that it did not get.
            401 | 403 | 408 | 409 | 425 | 429 | 502..=504 => body_of(status, text, wait).map(|_| None),
            _ => Ok(None),
        };
        let call = Call { route, body, seed: 0, index: 0 };
        Ok(self.client.ask(&call, &read, &|| None, &AtomicBool::new(false))?.flatten())
    }
}

/// Scores by the way in which they were asked for, and the text that was echoed.
fn parse_scores(
    how: Scoring,
    text: &str,
    ids: &[u32],
    scored: usize,
) -> std::result::Result<(Vec<f32>, Option<String>), Trouble> {
    match how {
        Scoring::Echo | Scoring::EchoOne => reply::echoed(text, ids, scored).map(|(scores, text)| (scores, Some(text))),
        Scoring::PromptLogprobs => reply::prompted(text, ids, scored).map(|scores| (scores, None)),
    }
}
