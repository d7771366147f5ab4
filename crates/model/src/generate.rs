//! Generation for a list of prompts. In: prompts as token ids; out: new tokens for each. Invariant: a sequence draws
//! from a random stream that seed and prompt fix and attends to itself only, so what else is generated at the same time
//! changes nothing but rounding.
//!
//! Prompts are admitted in lexicographic order, so that those that share a beginning (a system prompt, a jailbreak
//! template) come together and compute it once.

use crate::batch::{Batch, Emitted, End, Sequence};
use crate::sample::GenerateOptions;
use crate::{Adapter, Decoder, Error, Result};
use std::ops::ControlFlow;

/// What was generated for one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// New tokens, the stop token left out.
    pub tokens: Vec<u32>,
    /// Ended at a stop token, not at the limit.
    pub stopped: bool,
}

/// Generates for every prompt, at most `batch` sequences at a time. `on_token(i, id)` sees every new token of sequence
/// i as it comes; Break ends the whole generation early, with what is there so far.
///
/// # Errors
/// An empty prompt, or a prompt that leaves no room within the model's positions.
pub fn generate(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    batch: usize,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    let mut on_done = |_: usize, _: &Generation| Ok(());
    generate_each(decoder, adapter, prompts, &|_| options.clone(), batch, on_token, &mut on_done)
}

/// As [`generate`], with the options of each prompt by its index; `on_done(i, generation)` sees every sequence once,
/// when it has ended by itself or at the limit, so that it can be stored before the others end. Its error ends the
/// generation.
pub fn generate_each(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    prompts: &[Vec<u32>],
    options: &dyn Fn(usize) -> GenerateOptions,
    batch: usize,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    on_done: &mut dyn FnMut(usize, &Generation) -> Result<()>,
) -> Result<Vec<Generation>> {
    let done = vec![Generation::default(); prompts.len()];
    if (0..prompts.len()).all(|i| options(i).max_new_tokens == 0) {
        done.iter().enumerate().try_for_each(|(i, nothing)| on_done(i, nothing))?;
        return Ok(done);
    }
    if prompts.iter().any(Vec::is_empty) {
        return Err(Error::request("a prompt has no tokens"));
    }
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by(|&a, &b| prompts[b].cmp(&prompts[a]));
    let mut running = Batch::new(decoder, adapter);
    let mut collect = Collect { done, on_token, on_done, ended: None };
    loop {
        let room = batch.max(1) - running.len();
        let wave = order.split_off(order.len().saturating_sub(room));
        if wave.is_empty() && running.is_empty() {
            break;
        }
        let sequence = |&key: &usize| Sequence {
            key,
            adapter: 0,
            prompt: prompts[key].clone(),
            options: options(key),
            logits: false,
        };
        let after = order.last().map(|&next| prompts[next].as_slice());
        running.step(wave.iter().map(sequence).collect(), after, &mut |token| collect.take(token))?;
        if collect.ended.is_some() {
            break;
        }
    }
    collect.ended.unwrap_or(Ok(())).map(|()| collect.done)
}

/// What was generated so far, and the callbacks.
struct Collect<'a> {
    done: Vec<Generation>,
    on_token: &'a mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    on_done: &'a mut dyn FnMut(usize, &Generation) -> Result<()>,
    /// Set when the whole generation ends before its sequences do.
    ended: Option<Result<()>>,
}

impl Collect<'_> {
    fn take(&mut self, token: Emitted<'_>) -> ControlFlow<()> {
        if self.ended.is_some() {
            return ControlFlow::Break(());
        }
        let generation = &mut self.done[token.key];
        generation.stopped = token.end == Some(End::Stopped);
        if !generation.stopped {
            generation.tokens.push(token.id);
            if (self.on_token)(token.key, token.id).is_break() {
                self.ended = Some(Ok(()));
                return ControlFlow::Break(());
            }
        }
        if token.end.is_some()
            && let Err(e) = (self.on_done)(token.key, generation)
        {
            self.ended = Some(Err(e));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
