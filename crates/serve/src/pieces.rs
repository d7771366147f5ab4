//! A request that is being answered. In: prompts; out: pieces of answers as they come. Invariant: when this is dropped,
//! which happens when the client leaves, the engine stops working on it.

use crate::Shared;
use crate::engine::{Job, Update};
use crate::error::ApiError;
use crate::request::RequestSettings;
use crate::text::Text;
use axum::http::StatusCode;
use eraser_model::batch::End;
use eraser_model::{Thinking, TokenScore};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A prompt, and what is wanted of it.
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    pub(crate) max_new_tokens: usize,
}

/// Everything that a request asks for, checked.
pub(crate) struct Ask {
    pub(crate) asked: RequestSettings,
    pub(crate) prompts: Vec<Prompt>,
    /// Whether the prompts' tokens are scored too.
    pub(crate) echo: bool,
    /// Whether the text goes on from the prompt's, as a leading space shows.
    pub(crate) in_context: bool,
    /// Likeliest tokens sent beside each; None: no log-probabilities are sent.
    pub(crate) top: Option<usize>,
    /// Whose marks are text too.
    pub(crate) thinking: Option<Arc<Thinking>>,
    /// Whether the prompts end inside a thought.
    pub(crate) open: bool,
}

/// Why an answer ended, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
}

impl Finish {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What is new of one answer.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Which answer.
    pub(crate) index: usize,
    /// More text; may be empty.
    pub(crate) text: String,
    /// Log-probabilities of new tokens.
    pub(crate) scores: Vec<TokenScore>,
    /// Log-probabilities of the prompt's tokens.
    pub(crate) prompt: Option<Vec<TokenScore>>,
    /// Set on the last piece.
    pub(crate) finish: Option<Finish>,
}

/// Tokens read and made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    pub(crate) new: usize,
}

/// One answer that is being generated.
struct Answer<'a> {
    text: Text<'a>,
    open: bool,
    gone: Arc<AtomicBool>,
}

/// The answers of one request.
pub(crate) struct Pieces<'a> {
    answers: Vec<Answer<'a>>,
    updates: UnboundedReceiver<(usize, Update)>,
    ended: Arc<Notify>,
    ready: VecDeque<Piece>,
    /// Tokens so far.
    pub(crate) usage: Usage,
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        for answer in &self.answers {
            answer.gone.store(true, Ordering::Relaxed);
        }
    }
}

impl Ask {
    /// Sends the jobs to the engine: `n` for each prompt, in order.
    pub(crate) fn begin(self, shared: &Shared) -> Result<Pieces<'_>, ApiError> {
        let Self { asked, prompts, echo, in_context, top, thinking, open } = self;
        let count = prompts.len() * asked.n;
        let waiting = shared.metrics.waiting.fetch_add(count, Ordering::Relaxed);
        if waiting > 0 && waiting + count > shared.limits.max_waiting {
            shared.metrics.waiting.fetch_sub(count, Ordering::Relaxed);
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too many requests are waiting"));
        }
        let (sender, updates) = unbounded_channel();
        let ended = Arc::new(Notify::new());
        let mut answers = Vec::with_capacity(count);
        let mut usage = Usage::default();
        for prompt in prompts {
            usage.prompt += prompt.ids.len();
            for copy in 0..asked.n {
                let gone = Arc::new(AtomicBool::new(false));
                let mut options = asked.options.clone();
                options.max_new_tokens = prompt.max_new_tokens;
                // A request's limit counts the thought too; a limit of thoughts is there only where the user gave one.
                if thinking.as_ref().is_some_and(|thinking| thinking.limit().is_some()) {
                    options.budget = shared.model.budget(open, prompt.max_new_tokens);
                }
                options.seed = options.seed.wrapping_add(copy as u64);
                let job = Job {
                    lane: asked.lane,
                    prompt: prompt.ids.clone(),
                    options,
                    echo,
                    top,
                    index: answers.len(),
                    updates: sender.clone(),
                    ended: Arc::clone(&ended),
                    gone: Arc::clone(&gone),
                };
                let context = if in_context { prompt.ids.as_slice() } else { &[] };
                let free = asked.options.min_new_tokens;
                let text = Text::new(&shared.model.tokenizer, &asked.stops, context, free, thinking.clone());
                answers.push(Answer { text, open: true, gone });
                if shared.jobs.send(job).is_err() {
                    return Err(stopped());
                }
            }
        }
        Ok(Pieces { answers, updates, ended, ready: VecDeque::new(), usage })
    }
}

impl Pieces<'_> {
    /// The next piece; None when all answers have ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, ApiError> {
        loop {
            if let Some(piece) = self.ready()? {
                return Ok(Some(piece));
            }
            if self.answers.iter().all(|a| !a.open) {
                return Ok(None);
            }
            let Some((index, update)) = self.updates.recv().await else { return Err(stopped()) };
            self.take(index, update)?;
        }
    }

    /// The next piece that is already there.
    pub(crate) fn ready(&mut self) -> Result<Option<Piece>, ApiError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            let Ok((index, update)) = self.updates.try_recv() else { return Ok(None) };
            self.take(index, update)?;
        }
    }

    /// Waits until an answer has ended.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    fn take(&mut self, index: usize, update: Update) -> Result<(), ApiError> {
        let Some(answer) = self.answers.get_mut(index).filter(|a| a.open) else { return Ok(()) };
        let mut piece = Piece { index, text: String::new(), scores: Vec::new(), prompt: None, finish: None };
        match update {
            Update::Prompt(scores) => piece.prompt = Some(scores),
            Update::Token { id, score, stop } => {
                self.usage.new += 1;
                piece.scores.extend(score);
                if !stop {
                    let more = answer.text.push(id)?;
                    piece.text = more.text;
                    if more.stopped {
                        piece.finish = Some(Finish::Stop);
                    }
                }
            }
            Update::End(end) => {
                let rest = answer.text.finish()?;
                piece.text = rest.text;
                let stop = rest.stopped || end == End::Stopped;
                piece.finish = Some(if stop { Finish::Stop } else { Finish::Length });
            }
            Update::Failed(message) => return Err(ApiError::internal(message)),
        }
        if piece.finish.is_some() {
            answer.open = false;
            answer.gone.store(true, Ordering::Relaxed);
        }
        let news = !piece.text.is_empty() || !piece.scores.is_empty() || piece.prompt.is_some();
        if news || piece.finish.is_some() {
            self.ready.push_back(piece);
        }
        Ok(())
    }
}

/// The engine has ended.
fn stopped() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
}
