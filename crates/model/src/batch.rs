//! Continuous batching. In: sequences as they come; out: their tokens, one forward pass at a time. Invariant: a
//! sequence yields the same tokens whenever it is admitted and whatever runs beside it, up to rounding.
//!
//! A finished sequence's place can be taken at once by the next. A beginning that neighbours share is computed once and
//! kept for those that come later.

use crate::budget::{Budget, Spent};
use crate::cache::KvCache;
use crate::sample::GenerateOptions;
use crate::sample::{own_stream, sample, tell_of_nan};
use crate::tree::common;
use crate::{Adapter, Decoder, Error, Result, SideBySide};
use candle_core::Tensor;
use eraser_ops::{Segments, device};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::ops::ControlFlow;

/// Shared beginnings shorter than this are computed again: copying a cache costs too.
const MIN_SHARED: usize = 16;
/// New tokens that a copied beginning has room for from the start; a longer answer is copied once more.
const ROOM: usize = 256;
/// Most tokens of new prompts in one forward pass: bounds its activations.
const PREFILL_TOKENS: usize = 2048;
/// Tokens of a share of a small model's forward pass. Shares run in parallel, each on one core, which is faster than
/// dividing operations that take microseconds. It is a multiple of every processor's vectors, and does not follow the
/// number of cores, since no result may depend on that.
const SHARE_TOKENS: usize = 16;

/// A sequence to be generated.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// The caller's name for it.
    pub key: usize,
    /// Its adapter's place among those beside each other; 0 where there is one adapter for all.
    pub adapter: usize,
    /// At least one token.
    pub prompt: Vec<u32>,
    /// `max_new_tokens` is at least 1.
    pub options: GenerateOptions,
    /// Whether the logits of each token are asked for: else a device may keep them.
    pub logits: bool,
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
    /// The logits it was drawn from, before penalty and temperature; empty where they were not asked for and stayed on a
    /// device.
    pub logits: &'a [f32],
    /// Set on the last token.
    pub end: Option<End>,
}

/// Sees every token; Break drops its sequence.
pub type OnToken<'f> = &'f mut dyn FnMut(Emitted<'_>) -> ControlFlow<()>;

/// What is beside the base model.
#[derive(Clone, Copy)]
enum Adapters<'a> {
    /// One adapter or none, for all sequences.
    One(Option<&'a Adapter>),
    /// One for each sequence.
    Each(&'a SideBySide),
}

/// Sequences that are generated together by one model, with one adapter or each with one of several.
pub struct Batch<'a> {
    decoder: &'a Decoder,
    adapters: Adapters<'a>,
    /// Of each adapter, a beginning that is likely to come again, and its keys and values.
    shared: Vec<Option<(Vec<u32>, KvCache)>>,
    active: Vec<Active>,
    caches: Vec<KvCache>,
}

/// A sequence that is being generated.
struct Active {
    key: usize,
    adapter: usize,
    prompt: Vec<u32>,
    /// Tokens of the prompt that its cache had from the start.
    known: usize,
    options: GenerateOptions,
    logits: bool,
    new: Vec<u32>,
    /// Where the options have a budget.
    spent: Option<Spent>,
    rng: ChaCha8Rng,
}

impl Active {
    fn new(sequence: Sequence, known: usize) -> Self {
        let rng = own_stream(sequence.options.seed, &sequence.prompt);
        let Sequence { key, adapter, prompt, options, logits } = sequence;
        let spent = options.budget.as_ref().map(Budget::begin);
        Self { key, adapter, prompt, known, options, logits, new: Vec::new(), spent, rng }
    }

    /// What the next forward pass runs: the rest of the prompt, then the token drawn last.
    fn due(&self) -> &[u32] {
        self.new.last().map_or_else(|| &self.prompt[self.known..], std::slice::from_ref)
    }

    /// Whether the logits of its next token are needed for nothing but the largest of them.
    fn takes_largest(&self) -> bool {
        !self.logits && self.options.takes_largest(self.new.len())
    }

    /// Draws the next token.
    fn draw(&mut self, logits: &[f32]) -> u32 {
        let id = sample(logits, &self.prompt, &self.new, &self.options, &mut self.rng);
        self.new.push(id);
        id
    }

    /// Whether it may have no more tokens.
    fn is_full(&mut self) -> bool {
        let most = self.options.max_new_tokens;
        match (&mut self.spent, &self.options.budget) {
            (Some(spent), Some(budget)) => spent.all(budget, &self.new, most),
            _ => self.new.len() >= most,
        }
    }

    /// Reports a token; true if the sequence continues.
    fn tell(&mut self, id: u32, logits: &[f32], on_token: OnToken<'_>) -> bool {
        let end =
            if self.options.stops.contains(&id) { Some(End::Stopped) } else { self.is_full().then_some(End::Full) };
        on_token(Emitted { key: self.key, id, logits, end }).is_continue() && end.is_none()
    }
}

impl<'a> Batch<'a> {
    /// An empty batch of sequences with one adapter or none.
    pub fn new(decoder: &'a Decoder, adapter: Option<&'a Adapter>) -> Self {
        Self::of(decoder, Adapters::One(adapter), 1)
    }

    /// An empty batch of sequences that each have one of several adapters: the base's products are computed once for
    /// all of them.
    pub fn side_by_side(decoder: &'a Decoder, adapters: &'a SideBySide) -> Self {
        Self::of(decoder, Adapters::Each(adapters), adapters.len())
    }

    fn of(decoder: &'a Decoder, adapters: Adapters<'a>, count: usize) -> Self {
        Self { decoder, adapters, shared: (0..count).map(|_| None).collect(), active: Vec::new(), caches: Vec::new() }
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

    /// Takes in new sequences and gives every sequence, old and new, a token, at least one. `after` is a prompt that is
    /// likely to come next: what a prompt has in common with its successor is worth keeping.
    ///
    /// # Errors
    /// A prompt without tokens or with an id outside the vocabulary, a sequence that is longer than the model's
    /// positions, and a place where there is no adapter. The state of the other sequences is then undefined.
    pub fn step(&mut self, mut wave: Vec<Sequence>, after: Option<&[u32]>, on_token: OnToken<'_>) -> Result<()> {
        if wave.iter().any(|sequence| sequence.adapter >= self.shared.len()) {
            return Err(Error::request(format!("there are {} adapters beside each other", self.shared.len())));
        }
        if wave.iter().any(|sequence| sequence.prompt.is_empty()) {
            return Err(Error::request("a prompt has no tokens"));
        }
        wave.sort_by(|a, b| (b.adapter, &b.prompt).cmp(&(a.adapter, &a.prompt)));
        loop {
            let next = wave.iter().rev().nth(1);
            let renew = wave.last().is_some_and(|first| {
                let next = match next {
                    Some(next) => (next.adapter == first.adapter).then_some(&*next.prompt),
                    None => after,
                };
                self.is_worth_keeping(first, next)
            });
            let (mut tokens, mut admitted) = (0, 0);
            while let Some(sequence) = wave.pop_if(|next| {
                let more = next.prompt.len() - self.known(next);
                admitted == 0 || (!renew && tokens + more <= PREFILL_TOKENS)
            }) {
                let known = self.known(&sequence);
                let more = sequence.prompt.len() - known;
                self.caches.push(match &self.shared[sequence.adapter] {
                    Some((_, cache)) if known > 0 => {
                        cache.prefix(known, more + sequence.options.max_new_tokens.min(ROOM))?
                    }
                    _ => KvCache::new(self.decoder),
                });
                self.active.push(Active::new(sequence, known));
                (tokens, admitted) = (tokens + more, admitted + 1);
            }
            self.pass(renew, on_token)?;
            if wave.is_empty() {
                return Ok(());
            }
        }
    }

    /// What its prompt has in common with the beginning that is kept for its adapter.
    fn kept(&self, sequence: &Sequence) -> usize {
        self.shared[sequence.adapter].as_ref().map_or(0, |(ids, _)| common(ids, &sequence.prompt))
    }

    /// Whether `sequence` should run alone and its prompt become the kept beginning: with its successor it has much more
    /// in common than with what is kept.
    fn is_worth_keeping(&self, sequence: &Sequence, next: Option<&[u32]>) -> bool {
        let kept = self.kept(sequence);
        let neighbour = next.map_or(0, |next| common(&sequence.prompt, next));
        neighbour >= MIN_SHARED && neighbour > kept + kept / 4
    }

    /// How many tokens of its prompt need not be computed.
    fn known(&self, sequence: &Sequence) -> usize {
        let start = self.kept(sequence).min(sequence.prompt.len().saturating_sub(1));
        if start < MIN_SHARED { 0 } else { start }
    }

    /// Runs the pending tokens of every sequence and draws its next token. With `renew`, the last one's prompt is kept.
    fn pass(&mut self, renew: bool, on_token: OnToken<'_>) -> Result<()> {
        let mut shares = Vec::new();
        let (mut active, mut caches) = (self.active.as_mut_slice(), self.caches.as_mut_slice());
        while !active.is_empty() {
            let count = if self.decoder.is_small() { share(active) } else { active.len() };
            let (now, later) = active.split_at_mut(count);
            let (cached, others) = caches.split_at_mut(count);
            (active, caches) = (later, others);
            shares.push((now, cached));
        }
        let (decoder, adapters) = (self.decoder, self.adapters);
        let drawn = shares
            .into_par_iter()
            .map(|(active, caches)| {
                let ids: Vec<u32> = active.iter().flat_map(Active::due).copied().collect();
                let segments = Segments::from_lengths(active.iter().map(|s| s.due().len()));
                let hidden = match adapters {
                    Adapters::One(adapter) => decoder.extend(&ids, &segments, caches, adapter)?,
                    Adapters::Each(adapters) => {
                        let places: Vec<usize> = active.iter().map(|sequence| sequence.adapter).collect();
                        decoder.extend_each(&ids, &segments, caches, adapters, &places)?
                    }
                };
                let logits = decoder.logits(&hidden)?;
                if device::has_operations(logits.device()) && active.iter().all(Active::takes_largest) {
                    return largest(active, &logits);
                }
                let logits = logits.to_vec2::<f32>()?;
                let draw = |(sequence, row): (&mut Active, Vec<f32>)| (sequence.draw(&row), row);
                Ok(active.par_iter_mut().zip(logits).map(draw).collect::<Vec<_>>())
            })
            .collect::<Result<Vec<_>>>()?;
        if renew && let (Some(sequence), Some(cache)) = (self.active.last(), self.caches.last()) {
            self.shared[sequence.adapter] = Some((sequence.prompt.clone(), cache.prefix(cache.len(), 0)?));
        }
        let drawn: Vec<_> = drawn.into_iter().flatten().collect();
        for (i, (id, row)) in drawn.into_iter().enumerate().rev() {
            if !self.active[i].tell(id, &row, on_token) {
                self.active.swap_remove(i);
                self.caches.swap_remove(i);
            }
        }
        Ok(())
    }
}

/// Gives each sequence its largest logit, which is looked for where the logits are.
fn largest(active: &mut [Active], logits: &Tensor) -> Result<Vec<(u32, Vec<f32>)>> {
    let ids = device::argmax(logits)?;
    // Where nothing is a number, the first is found: it is seldom the answer otherwise.
    let suspect = ids.iter().position(|&id| id == 0);
    if let Some(row) = suspect
        && logits.get(row)?.get(0)?.to_scalar::<f32>()?.is_nan()
    {
        tell_of_nan();
    }
    active.iter_mut().zip(&ids).for_each(|(sequence, &id)| sequence.new.push(id));
    Ok(ids.into_iter().map(|id| (id, Vec::new())).collect())
}

/// How many of the sequences make a share of a forward pass.
fn share(active: &[Active]) -> usize {
    let mut tokens = 0;
    let full = active.iter().position(|sequence| {
        let before = tokens;
        tokens += sequence.due().len();
        before > 0 && tokens > SHARE_TOKENS
    });
    full.unwrap_or(active.len())
}
