//! Attacks that search for a prompt on the subject itself. In: a question, the subject; out: the best prompt found,
//! with what the search cost. Invariant: the state is stored while the search runs, so an interrupted search continues
//! from there.

use crate::answers;
use crate::name::At;
use crate::subject::Subject;
use eraser_data::files::write_jsonl;
use eraser_data::{PromptTemplate, Question};
use eraser_model::files::hex;
use eraser_model::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::time::Instant;

/// A search for a prompt.
pub(crate) trait Search {
    /// Everything that the outcome depends on besides question and subject.
    fn settings(&self) -> String;

    /// The user turn of what was found.
    fn user(&self, question: &Question, best: &Candidate) -> String {
        format!("{}{}", question.text, best.text)
    }

    /// When it ends, and how often its state is saved.
    fn budget(&self) -> Budget;

    /// The search for a prompt that gets `question` answered by `subject`.
    fn hunt<'a>(
        &'a self,
        question: &'a Question,
        subject: &'a Subject<'a>,
        template: &'a PromptTemplate,
    ) -> Result<Box<dyn Hunt + 'a>>;
}

/// A search for one question. Both functions keep `state.buffer` best first and count `state.candidates`.
pub(crate) trait Hunt {
    /// What is tried before any step.
    fn begin(&self, state: &mut State) -> Result<()>;
    /// One step, the one after `state.step`.
    fn step(&self, state: &mut State) -> Result<()>;
}

/// Limits of a search for one question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Most steps.
    pub(crate) steps: usize,
    /// Most seconds, over all processes that worked on it.
    pub(crate) seconds: Option<f64>,
    /// The state is saved after so many steps.
    pub(crate) save_every: usize,
}

/// Searches until greedy decoding gives the target or the budget is spent; `save` stores the state and says whether
/// to go on. None when it said not to.
fn exhaust(
    hunt: &dyn Hunt,
    budget: Budget,
    mut state: State,
    save: &mut dyn FnMut(&State) -> Result<bool>,
) -> Result<Option<State>> {
    let (start, earlier) = (Instant::now(), state.seconds);
    if state.buffer.is_empty() {
        hunt.begin(&mut state)?;
        state.curve.extend(state.buffer.first().map(|best| best.loss));
    }
    while !state.done {
        let out_of_time = budget.seconds.is_some_and(|most| state.seconds >= most);
        // Where nothing could be tried, no step will find anything.
        let found = state.buffer.first().is_none_or(|best| best.likely);
        state.done = found || out_of_time || state.step >= budget.steps;
        if !state.done {
            hunt.step(&mut state)?;
            state.step += 1;
            state.curve.extend(state.buffer.first().map(|best| best.loss));
            state.seconds = earlier + start.elapsed().as_secs_f64();
        }
        if (state.done || state.step.is_multiple_of(budget.save_every)) && !save(&state)? {
            return Ok(None);
        }
    }
    Ok(Some(state))
}

/// What is wrong with the budget of the attack `attack`: counts that must not be 0, a limit in seconds, its target.
pub(super) fn check_budget(
    attack: &str,
    counts: &[(&str, usize)],
    seconds: Option<f64>,
    target: &str,
    at: At<'_>,
) -> Vec<Error> {
    let field = |name: &str| at(&format!("{attack}.{name}"));
    let mut errors = Vec::new();
    for (name, _) in counts.iter().filter(|(_, value)| *value == 0) {
        errors
            .push(Error::request(format!("{}: must be at least 1", field(name))).hint("leave it out for the default"));
    }
    if seconds.is_some_and(|s| !(s.is_finite() && s > 0.0)) {
        let error = Error::request(format!("{}: must be a positive number", field("seconds")));
        errors.push(error.hint("leave it out for no limit of time"));
    }
    if target.trim().is_empty() {
        let error = Error::request(format!("{}: it is empty, and the attack `{attack}` aims at it", at("target")));
        errors.push(error.hint("give the opening of an answer, as \"Sure, here is how:\""));
    }
    errors
}

/// How far a search is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Nothing is left to do.
    pub(crate) done: bool,
    /// Steps taken.
    pub(crate) step: usize,
    /// Candidates whose loss was computed.
    pub(crate) candidates: usize,
    /// Seconds spent.
    pub(crate) seconds: f64,
    /// The best suffixes or prompts, best first.
    pub(crate) buffer: Vec<Candidate>,
    /// The best loss after each step, the first before any.
    pub(crate) curve: Vec<f64>,
}

/// A suffix, or a prompt, that was tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// A suffix's tokens; empty where the search is not over tokens.
    pub(crate) suffix: Vec<u32>,
    pub(crate) text: String,
    /// Mean negative log-likelihood of the target, nats per token.
    pub(crate) loss: f64,
    /// Greedy decoding gives the target.
    pub(crate) likely: bool,
}

impl Candidate {
    /// From the target's log-probabilities by token.
    pub(crate) fn new(suffix: Vec<u32>, text: String, logprobs: &[f32]) -> Self {
        let loss = -logprobs.iter().map(|&x| f64::from(x)).sum::<f64>() / logprobs.len() as f64;
        // Each token likelier than all others together: greedy decoding must take it.
        let likely = logprobs.iter().all(|&x| f64::from(x) > -std::f64::consts::LN_2);
        Self { suffix, text, loss, likely }
    }
}

/// A line of `eval/<subject>/search/<attack>.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Line {
    /// Id of the question.
    id: String,
    /// Key of question, subject, template and settings.
    key: String,
    #[serde(flatten)]
    state: State,
}

/// The first 16 hex digits of a hash of what a search depends on besides question and subject.
pub(crate) fn settings_hash(search: &dyn Search) -> String {
    let mut hash = hex(&Sha256::digest(search.settings()));
    hash.truncate(16);
    hash
}

/// The user turn found for every question, in order; None when `alive` said to stop. The file at `path` is read first
/// and kept up to date.
pub(crate) fn run(
    search: &dyn Search,
    questions: &[&Question],
    (subject, fingerprint): (&Subject<'_>, &str),
    template: &PromptTemplate,
    path: &Path,
    alive: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<String>>> {
    let stored = answers::read::<Line>(path)?;
    let mut lines: Vec<Line> = Vec::with_capacity(questions.len());
    let mut users = Vec::with_capacity(questions.len());
    for (i, question) in questions.iter().enumerate() {
        let mut hash = Sha256::new();
        for part in
            [fingerprint, &search.settings(), &template.render(&question.text)?, &format!("{:?}", question.extra)]
        {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut key = hex(&hash.finalize());
        key.truncate(16);
        // Where files were joined, the later line is further.
        let begun =
            stored.iter().rfind(|line| line.key == key && line.id == question.id).map(|line| line.state.clone());
        let line = |state: &State| Line { id: question.id.clone(), key: key.clone(), state: state.clone() };
        let mut save = |state: &State| {
            let all: Vec<Line> = lines.iter().cloned().chain([line(state)]).collect();
            write_jsonl(path, &all)?;
            Ok(alive(i))
        };
        let state = match begun {
            Some(state) if state.done => state,
            begun => {
                let hunt = search.hunt(question, subject, template)?;
                match exhaust(&*hunt, search.budget(), begun.unwrap_or_default(), &mut save)? {
                    Some(state) => state,
                    None => return Ok(None),
                }
            }
        };
        users.push(state.buffer.first().map_or_else(|| question.text.clone(), |best| search.user(question, best)));
        lines.push(line(&state));
    }
    write_jsonl(path, &lines)?;
    Ok(Some(users))
}
