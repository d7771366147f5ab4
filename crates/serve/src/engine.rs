//! The engine: one thread that runs the model for every request. In: jobs; out: their tokens, as they come. Invariant:
//! a job whose client has left holds no slot after the next forward pass, and no job waits behind a later one.
//!
//! Every turn takes new jobs into free slots, scores prompts that were to be echoed, and gives every running sequence
//! one token. Base and adapters are in one batch, side by side, so that the base's products are computed once for all.

use crate::metrics::Metrics;
use eraser_model::batch::{Batch, Emitted, End, Sequence};
use eraser_model::{Adapter, GenerateOptions, Model, Result, ScoreRequest, SideBySide, TokenScore, score_top};
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

/// Tokens of prompts that are scored in one turn: what running sequences have to wait for.
const SCORED_TOKENS: usize = 2048;

/// One sequence of a request.
pub(crate) struct Job {
    /// Which model: 0 is the base, then the adapters.
    pub(crate) lane: usize,
    /// Token ids; at least one.
    pub(crate) prompt: Vec<u32>,
    /// How to go on; no new token is allowed.
    pub(crate) options: GenerateOptions,
    /// Whether the prompt's tokens are scored too.
    pub(crate) echo: bool,
    /// How many of the likeliest tokens are sent beside each token; None: no log-probabilities are sent.
    pub(crate) top: Option<usize>,
    /// Its index in the request.
    pub(crate) index: usize,
    /// Where its tokens go; never more than `max_new_tokens`, so no slow reader can fill the memory.
    pub(crate) updates: UnboundedSender<(usize, Update)>,
    /// Notified when nothing more comes, for readers that wait for several tokens.
    pub(crate) ended: Arc<Notify>,
    /// Set when the rest is not wanted.
    pub(crate) gone: Arc<AtomicBool>,
}

impl Job {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || self.updates.is_closed()
    }

    fn tell(&self, update: Update) {
        let last = matches!(update, Update::End(_) | Update::Failed(_));
        // A client that has left is noticed by `is_gone`.
        let _ = self.updates.send((self.index, update));
        if last {
            self.ended.notify_one();
        }
    }

    /// Positions that it may come to hold.
    fn positions(&self) -> usize {
        self.prompt.len() + self.options.max_new_tokens
    }
}

/// What a job sends.
#[derive(Debug)]
pub(crate) enum Update {
    /// The scores of the prompt's tokens, its first one left out.
    Prompt(Vec<TokenScore>),
    /// A new token.
    Token {
        /// The token.
        id: u32,
        /// Its log-probability, if that was asked for.
        score: Option<TokenScore>,
        /// It ends the text and is not part of it.
        stop: bool,
    },
    /// Nothing more comes.
    End(End),
    /// It failed.
    Failed(String),
}

/// The thread's state.
pub(crate) struct Engine {
    pub(crate) model: Arc<Model>,
    /// None is the base model.
    pub(crate) adapters: Vec<Option<Adapter>>,
    /// The same, beside each other.
    pub(crate) beside: SideBySide,
    /// Sequences that run at once.
    pub(crate) slots: usize,
    /// Positions that all running sequences may hold together.
    pub(crate) positions: usize,
    pub(crate) metrics: Arc<Metrics>,
}

/// The running sequences of base and adapters.
struct Running<'a> {
    batch: Batch<'a>,
    jobs: HashMap<usize, Job>,
    /// The prompt admitted last: what the next one has in common with it is worth keeping.
    last: Vec<u32>,
    next_key: usize,
}

impl Engine {
    /// Works until no one can send jobs any more and all are done.
    pub(crate) fn run(&self, jobs: &Receiver<Job>) {
        let mut running = Running { batch: self.batch(), jobs: HashMap::new(), last: Vec::new(), next_key: 0 };
        let mut waiting: VecDeque<Job> = VecDeque::new();
        loop {
            if waiting.is_empty() && running.jobs.is_empty() {
                let Ok(job) = jobs.recv() else { return };
                waiting.push_back(job);
            }
            waiting.extend(jobs.try_iter());
            self.turn(&mut running, &mut waiting);
        }
    }

    fn batch(&self) -> Batch<'_> {
        Batch::side_by_side(&self.model.decoder, &self.beside)
    }

    fn turn<'a>(&'a self, running: &mut Running<'a>, waiting: &mut VecDeque<Job>) {
        waiting.retain(|job| {
            let gone = job.is_gone();
            if gone {
                self.metrics.leave_queue();
                self.metrics.cancelled.fetch_add(1, Ordering::Relaxed);
            }
            !gone
        });
        let mut scoring: Vec<Vec<Job>> = self.adapters.iter().map(|_| Vec::new()).collect();
        let mut starting = Vec::new();
        let (mut slots, mut held) = (running.jobs.len(), running.jobs.values().map(Job::positions).sum::<usize>());
        let mut scored = 0;
        while let Some(job) = waiting.front() {
            if job.echo {
                if scored > 0 && scored + job.prompt.len() > SCORED_TOKENS {
                    break;
                }
                scored += job.prompt.len();
            } else {
                if slots >= self.slots || (slots > 0 && held + job.positions() > self.positions) {
                    break;
                }
                slots += 1;
                held += job.positions();
            }
            if let Some(job) = waiting.pop_front() {
                let list = if job.echo { &mut scoring[job.lane] } else { &mut starting };
                list.push(job);
            }
        }
        for (adapter, jobs) in self.adapters.iter().zip(scoring) {
            // A scored prompt that is to be continued takes the next free slot.
            for job in self.score(adapter.as_ref(), jobs).into_iter().rev() {
                waiting.push_front(job);
            }
        }
        self.step(running, starting);
        self.metrics.active.store(running.jobs.len(), Ordering::Relaxed);
    }

    /// Scores prompts, and answers jobs that want at most one more token, the likeliest; gives back the others.
    fn score(&self, adapter: Option<&Adapter>, jobs: Vec<Job>) -> Vec<Job> {
        if jobs.is_empty() {
            return jobs;
        }
        let request = |job: &Job| {
            let mut ids = job.prompt.clone();
            // A placeholder for the token that follows the prompt; the likeliest tokens there come with its score.
            ids.push(0);
            ScoreRequest { scored: job.prompt.len(), ids }
        };
        let requests: Vec<ScoreRequest> = jobs.iter().map(request).collect();
        let top = jobs.iter().filter_map(|j| j.top).max().unwrap_or(0).max(1);
        let scores = match score_top(&self.model.decoder, adapter, &requests, top) {
            Ok(scores) => scores,
            Err(e) => {
                for job in jobs {
                    self.metrics.leave_queue();
                    job.tell(Update::Failed(e.to_string()));
                }
                return Vec::new();
            }
        };
        let mut unfinished = Vec::new();
        for (mut job, mut scores) in jobs.into_iter().zip(scores) {
            let next = scores.pop();
            self.metrics.prompt_tokens.fetch_add(job.prompt.len() as u64, Ordering::Relaxed);
            for score in &mut scores {
                score.top.truncate(job.top.unwrap_or(0));
            }
            job.tell(Update::Prompt(scores));
            job.echo = false;
            let free = job.options.min_new_tokens == 0;
            let greedy =
                free && job.options.temperature <= 0.0 && (job.options.repetition_penalty - 1.0).abs() < f32::EPSILON;
            match (job.options.max_new_tokens, next) {
                (0, _) => job.tell(Update::End(End::Full)),
                (1, Some(next)) if greedy => {
                    let Some(&(id, logprob)) = next.top.first() else { continue };
                    let mut likeliest = next.top;
                    likeliest.truncate(job.top.unwrap_or(0));
                    let stop = job.options.stops.contains(&id);
                    let score = job.top.map(|_| TokenScore { id, logprob, top: likeliest });
                    job.tell(Update::Token { id, score, stop });
                    job.tell(Update::End(if stop { End::Stopped } else { End::Full }));
                    self.metrics.generated_tokens.fetch_add(1, Ordering::Relaxed);
                }
                _ => {
                    unfinished.push(job);
                    continue;
                }
            }
            self.metrics.leave_queue();
        }
        unfinished
    }

    /// One token for every running sequence, and for those of jobs that got a slot.
    fn step<'a>(&'a self, running: &mut Running<'a>, jobs: Vec<Job>) {
        running.batch.remove(|key| self.is_over(&mut running.jobs, key));
        let mut wave = Vec::with_capacity(jobs.len());
        for job in jobs {
            self.metrics.leave_queue();
            self.metrics.prompt_tokens.fetch_add(job.prompt.len() as u64, Ordering::Relaxed);
            if job.options.max_new_tokens == 0 {
                job.tell(Update::End(End::Full));
                continue;
            }
            let (key, prompt) = (running.next_key, job.prompt.clone());
            let (options, logits) = (job.options.clone(), job.top.is_some());
            wave.push(Sequence { key, adapter: job.lane, prompt, options, logits });
            running.jobs.insert(key, job);
            running.next_key += 1;
        }
        if running.jobs.is_empty() {
            return;
        }
        let last = wave.last().map(|s| s.prompt.clone());
        let jobs = &mut running.jobs;
        let done = running.batch.step(wave, Some(&running.last), &mut |token| self.deliver(jobs, token));
        if let Some(last) = last {
            running.last = last;
        }
        self.settle(running, done);
    }

    /// True, and forgotten, when the client of a sequence has left.
    fn is_over(&self, running: &mut HashMap<usize, Job>, key: usize) -> bool {
        let gone = running.get(&key).is_none_or(Job::is_gone);
        if gone && running.remove(&key).is_some() {
            self.metrics.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        gone
    }

    fn deliver(&self, running: &mut HashMap<usize, Job>, token: Emitted<'_>) -> ControlFlow<()> {
        self.metrics.generated_tokens.fetch_add(1, Ordering::Relaxed);
        if self.is_over(running, token.key) {
            return ControlFlow::Break(());
        }
        let Some(job) = running.get(&token.key) else { return ControlFlow::Break(()) };
        let score = job.top.map(|top| TokenScore::new(token.logits, token.id, top));
        job.tell(Update::Token { id: token.id, score, stop: token.end == Some(End::Stopped) });
        if let Some(end) = token.end {
            job.tell(Update::End(end));
            running.remove(&token.key);
        }
        ControlFlow::Continue(())
    }

    /// After a failure no cache can be relied on: every sequence ends with an error, and the batch starts empty.
    fn settle<'a>(&'a self, running: &mut Running<'a>, done: Result<()>) {
        if let Err(e) = done {
            tracing::error!("the model failed: {e}");
            for (_, job) in running.jobs.drain() {
                job.tell(Update::Failed(e.to_string()));
            }
            running.batch = self.batch();
        }
    }
}
