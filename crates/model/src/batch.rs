//! Continuous batching. In: sequences as they come; out: their tokens, one pass of the model at a time. Invariant: a
//! sequence yields the same tokens whenever it is admitted and whatever runs beside it, up to rounding.
//!
//! A finished sequence's place can be taken at once by the next. A beginning that neighbours share is computed once and
//! kept for those that come later.

use crate::cache::KvCache;
use crate::sample::{own_stream, sample};
use crate::tree::common;
use crate::{Adapter, Decoder, GenerateOptions, Result};
use eraser_ops::Segments;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::ops::ControlFlow;

/// Shared beginnings shorter than this are computed again: copying a cache costs too.
const MIN_SHARED: usize = 16;
/// New tokens that a copied beginning has room for from the start; a longer answer is copied once more.
const ROOM: usize = 256;
/// Most tokens that one prefill pass takes: bounds its activations.
const PREFILL_TOKENS: usize = 2048;

/// A sequence to be generated.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// The caller's name for it.
    pub key: usize,
    /// At least one token.
    pub prompt: Vec<u32>,
    /// `max_new_tokens` is at least 1.
    pub options: GenerateOptions,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At a stop token, which is not part of the text.
    Stopped,
    /// At `max_new_tokens`.
    Full,
}

/// A token as it comes.
#[derive(Clone, Copy, Debug)]
pub struct Emitted<'a> {
    /// Of which sequence.
    pub key: usize,
    /// The token.
    pub id: u32,
    /// The logits it was drawn from, before penalty and temperature.
    pub logits: &'a [f32],
    /// Set on the last token.
    pub end: Option<End>,
}

/// Sees every token; Break drops its sequence.
pub type OnToken<'f> = &'f mut dyn FnMut(Emitted<'_>) -> ControlFlow<()>;

/// Sequences that are generated together by one model with one adapter.
pub struct Batch<'a> {
    decoder: &'a Decoder,
    adapter: Option<&'a Adapter>,
    /// A beginning that is likely to come again, and its keys and values.
    shared: Option<(Vec<u32>, KvCache)>,
    active: Vec<Active>,
    caches: Vec<KvCache>,
}

/// A sequence that is being generated.
struct Active {
    key: usize,
    prompt: Vec<u32>,
    options: GenerateOptions,
    new: Vec<u32>,
    rng: ChaCha8Rng,
}

impl Active {
    fn new(sequence: Sequence) -> Self {
        let rng = own_stream(sequence.options.seed, &sequence.prompt);
        let Sequence { key, prompt, options } = sequence;
        Self { key, prompt, options, new: Vec::new(), rng }
    }

    /// Draws the next token.
    fn draw(&mut self, logits: &[f32]) -> u32 {
        let id = sample(logits, &self.prompt, &self.new, &self.options, &mut self.rng);
        self.new.push(id);
        id
    }

    /// Tells of a token; true if the sequence goes on.
    fn tell(&self, id: u32, logits: &[f32], on_token: OnToken<'_>) -> bool {
        let end = if self.options.stops.contains(&id) {
            Some(End::Stopped)
        } else {
            (self.new.len() >= self.options.max_new_tokens).then_some(End::Full)
        };
        on_token(Emitted { key: self.key, id, logits, end }).is_continue() && end.is_none()
    }
}

impl<'a> Batch<'a> {
    /// An empty batch.
    pub fn new(decoder: &'a Decoder, adapter: Option<&'a Adapter>) -> Self {
        Self { decoder, adapter, shared: None, active: Vec::new(), caches: Vec::new() }
    }

    /// Sequences that are running.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// True when nothing is running.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// The keys of the sequences that are running.
    pub fn keys(&self) -> impl Iterator<Item = usize> + '_ {
        self.active.iter().map(|s| s.key)
    }

    /// Drops the sequences that `gone` names.
    pub fn remove(&mut self, mut gone: impl FnMut(usize) -> bool) {
        for i in (0..self.active.len()).rev() {
            if gone(self.active[i].key) {
                self.active.swap_remove(i);
                self.caches.swap_remove(i);
            }
        }
    }

    /// Runs the prompts of new sequences and draws a first token for each. `after` is a prompt that is likely to come
    /// next: what a prompt has in common with its successor is worth keeping.
    ///
    /// # Errors
    /// A prompt without tokens or with an id outside the vocabulary, and one that is longer than the model's positions.
    pub fn admit(&mut self, mut wave: Vec<Sequence>, after: Option<&[u32]>, on_token: OnToken<'_>) -> Result<()> {
        wave.sort_by(|a, b| b.prompt.cmp(&a.prompt));
        while let Some(first) = wave.last() {
            let renew = self.is_worth_keeping(&first.prompt, wave.iter().rev().nth(1).map(|s| &*s.prompt).or(after));
            let mut group: Vec<(Sequence, usize)> = Vec::new();
            let mut tokens = 0;
            while let Some(sequence) = wave.pop_if(|next| {
                let more = next.prompt.len() - self.start(&next.prompt);
                group.is_empty() || (!renew && tokens + more <= PREFILL_TOKENS)
            }) {
                let start = self.start(&sequence.prompt);
                tokens += sequence.prompt.len() - start;
                group.push((sequence, start));
            }
            self.prefill(group, renew, on_token)?;
        }
        Ok(())
    }

    /// Whether `prompt` should run alone and become the kept beginning: with its successor it has much more in common
    /// than with what is kept.
    fn is_worth_keeping(&self, prompt: &[u32], next: Option<&[u32]>) -> bool {
        let kept = self.shared.as_ref().map_or(0, |(ids, _)| common(ids, prompt));
        let neighbour = next.map_or(0, |next| common(prompt, next));
        neighbour >= MIN_SHARED && neighbour > kept + kept / 4
    }

    /// How many tokens of `prompt` need not be computed.
    fn start(&self, prompt: &[u32]) -> usize {
        let kept = self.shared.as_ref().map_or(0, |(ids, _)| common(ids, prompt));
        let start = kept.min(prompt.len().saturating_sub(1));
        if start < MIN_SHARED { 0 } else { start }
    }

    fn prefill(&mut self, group: Vec<(Sequence, usize)>, renew: bool, on_token: OnToken<'_>) -> Result<()> {
        let mut caches = Vec::with_capacity(group.len());
        let mut ids = Vec::new();
        for (sequence, start) in &group {
            ids.extend_from_slice(&sequence.prompt[*start..]);
            caches.push(match &self.shared {
                Some((_, cache)) if *start > 0 => {
                    let more = sequence.options.max_new_tokens.min(ROOM);
                    cache.prefix(*start, sequence.prompt.len() - start + more)?
                }
                _ => KvCache::new(self.decoder),
            });
        }
        let segments = Segments::from_lengths(group.iter().map(|(sequence, start)| sequence.prompt.len() - start));
        let hidden = self.decoder.extend(&ids, &segments, &mut caches, self.adapter)?;
        let logits = self.decoder.logits(&hidden)?.to_vec2::<f32>()?;
        if renew && let (Some((sequence, _)), Some(cache)) = (group.first(), caches.first()) {
            self.shared = Some((sequence.prompt.clone(), cache.clone()));
        }
        for (((sequence, _), cache), logits) in group.into_iter().zip(caches).zip(logits) {
            let mut sequence = Active::new(sequence);
            let id = sequence.draw(&logits);
            if sequence.tell(id, &logits, on_token) {
                self.active.push(sequence);
                self.caches.push(cache);
            }
        }
        Ok(())
    }

    /// One more token for every sequence.
    ///
    /// # Errors
    /// A sequence that is longer than the model's positions.
    pub fn step(&mut self, on_token: OnToken<'_>) -> Result<()> {
        if self.active.is_empty() {
            return Ok(());
        }
        let ids: Vec<u32> = self.active.iter().filter_map(|s| s.new.last().copied()).collect();
        let segments = Segments::from_lengths(self.active.iter().map(|_| 1));
        let hidden = self.decoder.extend(&ids, &segments, &mut self.caches, self.adapter)?;
        let logits = self.decoder.logits(&hidden)?.to_vec2::<f32>()?;
        let drawn: Vec<u32> =
            self.active.par_iter_mut().zip(&logits).map(|(sequence, row)| sequence.draw(row)).collect();
        for (i, (row, id)) in logits.iter().zip(drawn).enumerate().rev() {
            if !self.active[i].tell(id, row, on_token) {
                self.active.swap_remove(i);
                self.caches.swap_remove(i);
            }
        }
        Ok(())
    }
}
