//! The attack `gcg`: greedy coordinate gradient (Zou et al. 2023). A suffix of tokens behind the question is changed
//! one token at a time, so that the answer's opening becomes likely. In: a question and the subject itself; out: the
//! question with the best suffix found. Invariant: a suffix is text that tokenises to the tokens it was optimised as,
//! and the same seed gives the same suffix, interrupted or not (unless a budget in seconds ends the search).
//!
//! A step computes the gradient of the opening's loss with respect to each one-hot token of a suffix from the buffer.
//! At each place it keeps the `top_k` replacements with the steepest descent, and draws `candidates` of these at
//! random. Candidates that decoding and tokenising would change are left out. The losses of the others are computed as
//! one prefix tree, since all share their beginning up to the changed place.

use super::budget::GcgOptions;
use super::search::{Budget, Candidate, Hunt, Search, State, check_budget};
use super::{At, Attack, AttackPrompt, Checked};
use crate::EvalOptions;
use crate::subject::Subject;
use eraser_data::{PromptTemplate, Question, stream};
use eraser_model::{Error, Result, ScoreRequest, Tokenizer, score, token_gradient};
use rand::RngExt as _;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Stands for the suffix while the template is rendered.
const MARK: &str = "\u{1}suffix\u{1}";
/// How often a token of the first suffix is drawn before the suffix is left shorter.
const DRAWS: usize = 200;
/// The state is saved after so many steps.
const SAVE_EVERY: usize = 10;

struct Gcg {
    options: GcgOptions,
    target: String,
    seed: u64,
}

/// Checks the budget.
pub(super) fn build(options: &EvalOptions, at: At<'_>) -> Checked<Box<dyn Attack>> {
    let o = &options.gcg;
    let counts = [
        ("steps", o.steps),
        ("candidates", o.candidates),
        ("top_k", o.top_k),
        ("suffix", o.suffix),
        ("buffer", o.buffer),
    ];
    let errors = check_budget("gcg", &counts, o.seconds, &options.target, at);
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Box::new(Gcg { options: o.clone(), target: options.target.clone(), seed: options.seed }))
}

impl Attack for Gcg {
    fn name(&self) -> &'static str {
        "gcg"
    }

    /// Without a suffix, until the search has found one.
    fn prompts(&self, question: &Question) -> Vec<AttackPrompt> {
        vec![AttackPrompt::plain(self.name().to_owned(), question.text.clone())]
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }
}

impl Search for Gcg {
    fn settings(&self) -> String {
        format!("{:?} {:?} {}", self.options, self.target, self.seed)
    }

    fn budget(&self) -> Budget {
        Budget { steps: self.options.steps, seconds: self.options.seconds, save_every: SAVE_EVERY }
    }

    fn hunt<'a>(
        &'a self,
        question: &'a Question,
        subject: &'a Subject<'a>,
        template: &'a PromptTemplate,
    ) -> Result<Box<dyn Hunt + 'a>> {
        let place = Place::new(question, question.opening(&self.target), subject, template)?;
        Ok(Box::new(Suffixes { gcg: self, id: &question.id, subject, place }))
    }
}

/// The search for one question's suffix.
struct Suffixes<'a> {
    gcg: &'a Gcg,
    id: &'a str,
    subject: &'a Subject<'a>,
    place: Place<'a>,
}

impl Hunt for Suffixes<'_> {
    fn begin(&self, state: &mut State) -> Result<()> {
        let first = self.place.first(self.gcg.options.suffix, self.gcg.seed, self.id)?;
        let losses = self.place.losses(std::slice::from_ref(&first), self.subject)?;
        state.buffer = vec![tried(first, &losses[0], &self.place)?];
        Ok(())
    }

    /// Gradient, candidates, losses.
    fn step(&self, state: &mut State) -> Result<()> {
        let from = &state.buffer[state.step % state.buffer.len()].suffix;
        let (ids, at) = self.place.sequence(from);
        let (_, gradient) = token_gradient(
            &self.subject.model.decoder,
            self.subject.adapter,
            &ids,
            at..at + from.len(),
            self.place.target.len(),
        )?;
        let steepest: Vec<Vec<u32>> =
            gradient.iter().map(|row| self.place.steepest(row, self.gcg.options.top_k)).collect();
        let mut rng = stream(self.gcg.seed, &format!("gcg/{}", self.id), &[state.step as u64]);
        let mut seen: HashSet<Vec<u32>> = state.buffer.iter().map(|t| t.suffix.clone()).collect();
        let mut candidates = Vec::with_capacity(self.gcg.options.candidates);
        for _ in 0..self.gcg.options.candidates {
            let i = rng.random_range(0..from.len());
            let Some(token) = steepest[i].get(rng.random_range(0..steepest[i].len().max(1))) else { continue };
            let mut suffix = from.clone();
            suffix[i] = *token;
            if seen.insert(suffix.clone()) && self.place.survives(&suffix)? {
                candidates.push(suffix);
            }
        }
        let losses = self.place.losses(&candidates, self.subject)?;
        state.candidates += candidates.len();
        for (suffix, logprobs) in candidates.into_iter().zip(&losses) {
            let new = tried(suffix, logprobs, &self.place)?;
            if state.buffer.len() < self.gcg.options.buffer
                || state.buffer.last().is_some_and(|worst| new.loss < worst.loss)
            {
                let at = state.buffer.partition_point(|t| t.loss <= new.loss);
                state.buffer.insert(at, new);
                state.buffer.truncate(self.gcg.options.buffer);
            }
        }
        Ok(())
    }
}

/// A suffix with its loss, from the target's log-probabilities by token.
fn tried(suffix: Vec<u32>, logprobs: &[f32], place: &Place<'_>) -> Result<Candidate> {
    let text = place.tokenizer.decode(&suffix, false)?;
    Ok(Candidate::new(suffix, text, logprobs))
}

/// The place of the suffix in the prompt.
struct Place<'a> {
    tokenizer: &'a Tokenizer,
    before: String,
    after: String,
    before_ids: Vec<u32>,
    after_ids: Vec<u32>,
    target: Vec<u32>,
    /// For each token id, whether it may be part of a suffix.
    allowed: Vec<bool>,
    /// Whether the template drops space at the end of a turn.
    trims: bool,
}

impl<'a> Place<'a> {
    fn new(question: &Question, target: &str, subject: &Subject<'a>, template: &PromptTemplate) -> Result<Self> {
        let tokenizer = &subject.model.tokenizer;
        let whole = template.render(&format!("{}{MARK}", question.text))?;
        // Under such a template a suffix that ends in space would lose it.
        let trims = template.render(&format!("{}{MARK} ", question.text))? == whole;
        let (before, after) = whole.split_once(MARK).ok_or_else(|| {
            Error::request("the chat template changes the question: the suffix cannot be put behind it")
        })?;
        let mut allowed = vec![false; subject.model.config.vocab_size];
        for &id in tokenizer.plain_ids() {
            let text = tokenizer.decode(&[id], false)?;
            let printable = !text.is_empty() && !text.contains(|c: char| c.is_control() || c == '\u{fffd}');
            if let Some(slot) = allowed.get_mut(id as usize) {
                *slot = printable;
            }
        }
        let target = tokenizer.encode(target)?;
        if target.is_empty() {
            return Err(Error::request(format!("question {}: its target has no tokens", question.id)));
        }
        Ok(Self {
            tokenizer,
            before: before.to_owned(),
            after: after.to_owned(),
            before_ids: tokenizer.encode(before)?,
            after_ids: tokenizer.encode(after)?,
            target,
            allowed,
            trims,
        })
    }

    /// All tokens, the target's last; and where the suffix begins.
    fn sequence(&self, suffix: &[u32]) -> (Vec<u32>, usize) {
        ([&self.before_ids, suffix, &self.after_ids, &self.target].concat(), self.before_ids.len())
    }

    /// Whether the suffix, written as text in its place, is read as the same tokens.
    fn survives(&self, suffix: &[u32]) -> Result<bool> {
        let text = self.tokenizer.decode(suffix, false)?;
        if self.trims && text.ends_with(char::is_whitespace) {
            return Ok(false);
        }
        let read = self.tokenizer.encode(&format!("{}{text}{}", self.before, self.after))?;
        Ok(read == [&self.before_ids, suffix, &self.after_ids].concat())
    }

    /// Random tokens that stay the same when they are decoded and tokenised together.
    fn first(&self, length: usize, seed: u64, id: &str) -> Result<Vec<u32>> {
        let mut rng = stream(seed, &format!("gcg/{id}/first"), &[]);
        let ids: Vec<u32> = (0..self.allowed.len()).filter(|&i| self.allowed[i]).map(|i| i as u32).collect();
        let mut suffix = Vec::with_capacity(length);
        for _ in 0..DRAWS * length {
            if suffix.len() == length || ids.is_empty() {
                break;
            }
            suffix.push(ids[rng.random_range(0..ids.len())]);
            if !self.survives(&suffix)? {
                suffix.pop();
            }
        }
        if suffix.is_empty() {
            return Err(Error::request(
                "no suffix can be put behind the question: decoding and tokenising changes every token",
            ));
        }
        Ok(suffix)
    }

    /// The `k` allowed tokens of the most negative gradient, steepest first.
    fn steepest(&self, gradient: &[f32], k: usize) -> Vec<u32> {
        let allowed = |(i, g): (usize, &f32)| self.allowed.get(i).copied().unwrap_or(false).then_some((*g, i as u32));
        let mut ranked: Vec<(f32, u32)> = gradient.iter().enumerate().filter_map(allowed).collect();
        let order = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if k < ranked.len() {
            ranked.select_nth_unstable_by(k, order);
            ranked.truncate(k);
        }
        ranked.sort_unstable_by(order);
        ranked.into_iter().map(|(_, id)| id).collect()
    }

    /// The target's log-probabilities after each suffix.
    fn losses(&self, suffixes: &[Vec<u32>], subject: &Subject<'_>) -> Result<Vec<Vec<f32>>> {
        let request = |suffix: &Vec<u32>| ScoreRequest { ids: self.sequence(suffix).0, scored: self.target.len() };
        let requests: Vec<ScoreRequest> = suffixes.iter().map(request).collect();
        let found = score(&subject.model.decoder, subject.adapter, &requests, &mut |_| ControlFlow::Continue(()))?;
        Ok(found.unwrap_or_default())
    }
}
