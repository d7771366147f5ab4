//! A server that speaks the chat completions of OpenAI. In: user turns; out: answers, as they come. Invariant: there is
//! one request for an answer, and no other key in it than every such server takes.

use super::client::{Call, Client, EndpointOptions};
use super::next_tokens::{NextTokens, ServedTokens};
use super::reply;
use super::respond::{Answer, Respond, Sink, interrupted};
use crate::Sampling;
use eraser_model::{Error, Result};
use std::cell::RefCell;

/// The route that is asked.
const ROUTE: &str = "/chat/completions";

/// The server, and the model that is asked for.
pub struct Endpoint {
    client: Client,
    model: String,
    tokens: Option<ServedTokens>,
}

impl Endpoint {
    /// Makes the endpoint that the options describe; the key is read from the environment.
    ///
    /// # Errors
    /// There is no URL, no model or no such key; a URL that is none.
    pub fn new(options: &EndpointOptions) -> Result<Self> {
        let client = Client::new(options)?;
        let model = options.model.clone();
        let model = model.ok_or_else(|| Error::request("the endpoint needs the name of a model"))?;
        Ok(Self { client, model, tokens: None })
    }

    /// The same, which can be asked how likely its next tokens are.
    #[must_use]
    pub fn with_tokens(self, tokens: ServedTokens) -> Self {
        Self { tokens: Some(tokens), ..self }
    }
}

impl Respond for Endpoint {
    fn fingerprint(&self) -> String {
        format!("{} {}", self.client.url(ROUTE), self.model)
    }

    fn next_tokens(&self) -> Option<&dyn NextTokens> {
        self.tokens.as_ref().map(|tokens| tokens as &dyn NextTokens)
    }

    fn respond(&self, prompts: &[&str], wanted: &[bool], sampling: &Sampling, sink: &mut dyn Sink) -> Result<()> {
        let jobs: Vec<usize> = (0..prompts.len()).filter(|i| wanted[*i]).collect();
        let sink = RefCell::new(sink);
        let refused = || Some(Answer { refused: true, stopped: true, ..Answer::default() });
        let whole = self.client.each(
            &jobs,
            &|i, stop| {
                let body = reply::request(&self.model, prompts[i], sampling);
                let call = Call { route: ROUTE, body: Some(&body), seed: sampling.seed, index: i };
                self.client.ask(&call, &reply::read, &refused, stop)
            },
            &mut |i, mut answer: Answer| {
                answer.text = self.client.redacted(&answer.text);
                let mut sink = sink.borrow_mut();
                sink.tokens(answer.tokens.unwrap_or(0));
                sink.take(i, answer)
            },
            &mut || sink.borrow_mut().alive(),
        )?;
        if whole { Ok(()) } else { Err(interrupted()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_apart_by_server_and_model() {
        let options = |model: Option<&str>| EndpointOptions {
            url: Some("https://x/v1/".into()),
            model: model.map(ToOwned::to_owned),
            ..EndpointOptions::default()
        };
        assert_eq!(Endpoint::new(&options(Some("m"))).unwrap().fingerprint(), "https://x/v1/chat/completions m");
        assert!(Endpoint::new(&options(None)).err().unwrap().to_string().contains("name of a model"));
    }
}
