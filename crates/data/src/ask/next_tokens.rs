//! What gives the probability of a next token: a local model, or one that a server has. In: prompts in tokens; out: how
//! likely tokens are behind them. Invariant: prompt and tokens are those that were given; no chat template comes between.

use super::client::EndpointOptions;
use super::served::{Scoring, Served, Turn};
use crate::Sampling;
use eraser_model::{ChatTemplate, Error, GenerateOptions, Model, Result, ScoreRequest, Tokenizer, generate, score};
use std::ops::ControlFlow;

/// A model whose next tokens can be asked for, wherever it runs.
pub trait NextTokens {
    /// Its name, for messages.
    fn name(&self) -> &str;
    /// Its tokenizer.
    fn tokenizer(&self) -> &Tokenizer;
    /// Its chat template.
    ///
    /// # Errors
    /// It has none.
    fn chat_template(&self) -> Result<&ChatTemplate>;
    /// Most tokens of a sequence.
    fn positions(&self) -> usize;
    /// What changes whenever the same prompt could get another probability.
    fn identity(&self) -> String;
    /// The probability of each of these tokens behind the prompt, of all that may come.
    ///
    /// # Errors
    /// The model fails, or the server that has it.
    fn chances(&self, prompt: &[u32], next: &[u32]) -> Result<Vec<f64>>;
    /// What the model writes behind the prompt, at most `most` tokens of it, the likeliest each time.
    ///
    /// # Errors
    /// As [`chances`](Self::chances).
    fn goes_on(&self, prompt: &[u32], most: usize) -> Result<String>;
}

impl NextTokens for Model {
    fn name(&self) -> &str {
        &self.name
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn chat_template(&self) -> Result<&ChatTemplate> {
        Self::chat_template(self)
    }

    fn positions(&self) -> usize {
        self.decoder.max_positions()
    }

    fn identity(&self) -> String {
        Self::identity(self)
    }

    fn chances(&self, prompt: &[u32], next: &[u32]) -> Result<Vec<f64>> {
        let request = |id: &u32| ScoreRequest { ids: [prompt, &[*id]].concat(), scored: 1 };
        let requests: Vec<ScoreRequest> = next.iter().map(request).collect();
        let found = score(&self.decoder, None, &requests, &mut |_| ControlFlow::Continue(()))?.unwrap_or_default();
        Ok(found.iter().map(|scores| scores.first().map_or(0.0, |&logprob| f64::from(logprob).exp())).collect())
    }

    fn goes_on(&self, prompt: &[u32], most: usize) -> Result<String> {
        let options = GenerateOptions::greedy(most, self.tokenizer.stops());
        let prompts = [prompt.to_vec()];
        let said = generate(&self.decoder, None, &prompts, &options, 1, &mut |_, _| ControlFlow::Continue(()))?;
        said.first().map_or_else(|| Ok(String::new()), |said| self.tokenizer.decode(&said.tokens, true))
    }
}

/// A model that a server has, with its tokenizer and template from files here.
pub struct ServedTokens {
    served: Served,
    how: Scoring,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    positions: usize,
    identity: String,
}

impl ServedTokens {
    /// Asks the server once for log-probabilities of a prompt. The text is what files here have of the model: its
    /// tokenizer, its chat template, and the most tokens of a sequence; `identity` changes whenever one of them does.
    ///
    /// # Errors
    /// The server cannot be reached, has no such model, or gives no log-probabilities of prompts.
    pub fn new(
        options: &EndpointOptions,
        (tokenizer, template, positions): (Tokenizer, Option<ChatTemplate>, usize),
        identity: &str,
    ) -> Result<Self> {
        let served = Served::new(options)?;
        let (url, model) = (served.url().to_owned(), served.model().to_owned());
        let facts = served.facts()?;
        let probe = tokenizer.encode("yes no yes")?;
        let scored = served.scoring(&probe)?.ok_or_else(|| {
            Error::request(format!("{url}: the server gives no log-probabilities of prompts for `{model}`"))
                .hint("vLLM gives them by `prompt_logprobs`, `eraser serve` by `echo`")
                .hint("or judge with a local model")
        })?;
        let identity = format!("{url} {model} {identity}");
        let positions = facts.positions.map_or(positions, |most| most.min(positions));
        Ok(Self { served, how: scored.how, tokenizer, template, positions, identity })
    }
}

impl NextTokens for ServedTokens {
    fn name(&self) -> &str {
        self.served.model()
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn chat_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            Error::request(format!("{}: no chat template stands beside its tokenizer", self.name()))
                .hint("name a directory or .gguf file that has both")
        })
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn chances(&self, prompt: &[u32], next: &[u32]) -> Result<Vec<f64>> {
        let ids: Vec<Vec<u32>> = next.iter().map(|id| [prompt, &[*id]].concat()).collect();
        let requests: Vec<(&[u32], usize)> = ids.iter().map(|ids| (ids.as_slice(), 1)).collect();
        let mut chances = vec![0.0; next.len()];
        let mut take = |i: usize, scores: Vec<f32>| {
            chances[i] = scores.first().map_or(0.0, |&logprob| f64::from(logprob).exp());
            Ok(())
        };
        let whole = self.served.score(self.how, &requests, &mut take, &mut || true)?;
        if whole { Ok(chances) } else { Err(Error::failed(format!("{}: a prompt was not scored", self.name()))) }
    }

    fn goes_on(&self, prompt: &[u32], most: usize) -> Result<String> {
        self.served.say(&Turn::Tokens(prompt.to_vec()), most, &Sampling::greedy(most), false).map(|said| said.text)
    }
}
