//! What the frozen model computes for samples that are seen several times: its final hidden states at scored positions,
//! and the input of the first adapted block. In: a batch of samples; out: states by rows of its pack. Invariant: states
//! that are kept are those that were computed, so a run that finds them takes the same steps as the one that kept them.
//!
//! The head is frozen, so final hidden states fix the reference distribution exactly, at `d` numbers a position instead
//! of a vocabulary. The blocks below the first adapted one compute the same with and without the adapter, so they run
//! once for both.

use crate::{
    feed::Drawn,
    store::{Key, Store, key},
};
use candle_core::{DType, Tensor};
use eraser_data::{Batch, Sample, Scored};
use eraser_model::{Error, Model, Result};
use std::{collections::HashMap, path::Path};

/// The frozen model's states, kept in a file.
pub struct Reference<'a> {
    model: &'a Model,
    /// The first adapted block.
    first: usize,
    store: Store,
}

/// The plainly asked samples of a micro-batch, which differ from its own in their prompts.
pub struct Anchors {
    drawn: Vec<Drawn>,
    batch: Batch,
    scored: Scored,
}

impl Anchors {
    /// Those of `drawn`; None where a sample has none.
    pub fn of(drawn: &[Drawn]) -> Option<Self> {
        let plain = |d: &Drawn| {
            let sample = d.anchor.clone()?;
            Some(Drawn { row: d.row, sample, cut: false, anchor: None, preferred: None })
        };
        let drawn: Vec<Drawn> = drawn.iter().map(plain).collect::<Option<_>>()?;
        let samples: Vec<&Sample> = drawn.iter().map(|d| &d.sample).collect();
        let batch = Batch::shared(&samples);
        let scored = batch.supervised();
        Some(Self { drawn, batch, scored })
    }
}

impl<'a> Reference<'a> {
    /// States of `model`, of which blocks from `first` on are adapted, kept in `path`.
    pub fn open(model: &'a Model, first: usize, path: &Path) -> Result<Self> {
        Ok(Self { model, first, store: Store::open(path, &model.identity(), model.config.hidden_size)? })
    }

    /// The input of the first adapted block, `[T, d]`. It is kept where the samples will be seen again (`again`).
    pub fn lower(&mut self, drawn: &[Drawn], batch: &Batch, again: bool) -> Result<Tensor> {
        let (decoder, first) = (&self.model.decoder, self.first);
        let compute = || decoder.run(decoder.embed(&batch.ids, false)?, 0..first, &batch.segments, None);
        if !again || self.first == 0 {
            return compute();
        }
        let (kind, scored) = (format!("input of block {}", self.first), batch.all());
        if let Some(states) = self.known(&kind, drawn, &scored)? {
            return Ok(states);
        }
        let states = compute()?;
        self.keep(&kind, drawn, &scored, &states)?;
        Ok(states)
    }

    /// The base model's final hidden states at `scored` rows, `[n, d]`; `lower` is the input of the first adapted
    /// block.
    pub fn states(&mut self, drawn: &[Drawn], batch: &Batch, scored: &Scored, lower: &Tensor) -> Result<Tensor> {
        let decoder = &self.model.decoder;
        if let Some(states) = self.known("final", drawn, scored)? {
            return Ok(states);
        }
        let blocks = self.first..self.model.config.num_layers;
        let top = decoder.run(lower.clone(), blocks, &batch.segments, None)?;
        let states = decoder.final_hidden(&top, &scored.rows)?.detach();
        self.keep("final", drawn, scored, &states)?;
        Ok(states)
    }

    /// The base model's final hidden states of the plainly asked `anchors`, at the answer tokens that `scored` looks
    /// at, `[n, d]`. The answers are the same on both sides, and a longer prompt can only leave fewer tokens of one.
    pub fn anchor_states(&mut self, anchors: &Anchors, scored: &Scored) -> Result<Tensor> {
        let Anchors { drawn, batch, scored: plain } = anchors;
        let lower = self.lower(drawn, batch, true)?;
        let states = self.states(drawn, batch, plain, &lower)?;
        let places: HashMap<u32, u32> = plain.rows.iter().copied().zip(0..).collect();
        let place = |&(sample, at): &(usize, usize)| places.get(plain.samples.get(sample)?.get(at)?).copied();
        let places: Option<Vec<u32>> = scored.origins.iter().map(place).collect();
        let places =
            places.ok_or_else(|| Error::failed("a plainly asked sample is shorter than the one under noise"))?;
        Ok(states.index_select(&Tensor::new(places, states.device())?, 0)?)
    }

    /// The states of the scored rows, if those of every sample are kept.
    fn known(&mut self, kind: &str, drawn: &[Drawn], scored: &Scored) -> Result<Option<Tensor>> {
        let keys: Vec<Key> = drawn.iter().zip(&scored.samples).map(|(d, rows)| identity(kind, d, rows.len())).collect();
        if !keys.iter().all(|key| self.store.contains(key)) {
            return Ok(None);
        }
        let mut samples = Vec::with_capacity(keys.len());
        for key in &keys {
            let mut values = Vec::new();
            if !self.store.read(key, &mut values)? {
                return Ok(None);
            }
            samples.push(values);
        }
        let d = self.model.config.hidden_size;
        let mut states = Vec::with_capacity(scored.rows.len() * d);
        for &(sample, at) in &scored.origins {
            match samples[sample].get(at * d..(at + 1) * d) {
                Some(row) => states.extend_from_slice(row),
                None => return Ok(None),
            }
        }
        let decoder = &self.model.decoder;
        let states = Tensor::from_vec(states, (scored.rows.len(), d), decoder.device())?;
        Ok(Some(states.to_dtype(decoder.head().dtype())?))
    }

    /// Keeps `states`, one for each scored row, by sample.
    fn keep(&mut self, kind: &str, drawn: &[Drawn], scored: &Scored, states: &Tensor) -> Result<()> {
        let d = self.model.config.hidden_size;
        let states = states.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let states: HashMap<u32, &[f32]> = scored.rows.iter().copied().zip(states.chunks_exact(d)).collect();
        for (drawn, rows) in drawn.iter().zip(&scored.samples) {
            let values: Vec<&[f32]> = rows.iter().filter_map(|row| states.get(row).copied()).collect();
            self.store.write(&identity(kind, drawn, rows.len()), &values.concat())?;
        }
        Ok(())
    }
}

/// The key of a sample's states: its tokens, and how many of them are scored (the last ones, or all).
fn identity(kind: &str, drawn: &Drawn, scored: usize) -> Key {
    key(&format!("{kind}, {scored}"), &drawn.sample.ids)
}
