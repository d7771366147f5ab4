//! The base model's final hidden states at scored positions. The head is frozen, so they fix the reference distribution
//! exactly at `d` numbers a position instead of a vocabulary. In: samples; out: `[positions, d]`. Invariant: a row that is
//! drawn again, in a later epoch, is not computed again while the budget lasts.

use crate::feed::Drawn;
use candle_core::Tensor;
use eraser_data::Batch;
use eraser_model::{Model, Result};
use std::collections::HashMap;

/// Most memory for kept states, in bytes; beyond it states are computed each time.
const BUDGET: usize = 2 << 30;

/// Reference states of the rows of one set.
pub struct Reference<'a> {
    model: &'a Model,
    kept: HashMap<usize, Tensor>,
    bytes: usize,
}

impl<'a> Reference<'a> {
    /// Nothing kept yet.
    pub fn new(model: &'a Model) -> Self {
        Self { model, kept: HashMap::new(), bytes: 0 }
    }

    /// States of `batch`'s samples at `rows`, of which sample `i` has `counts[i]`, in order.
    pub fn states(&mut self, drawn: &[Drawn], batch: &Batch, rows: &[u32], counts: &[usize]) -> Result<Tensor> {
        let known: Option<Vec<&Tensor>> = drawn.iter().map(|d| self.kept.get(&d.row)).collect();
        if let Some(states) = known {
            return Ok(Tensor::cat(&states, 0)?);
        }
        let states = self.model.decoder.hidden_rows(&batch.ids, &batch.segments, rows, None)?;
        let mut start = 0;
        for (d, &count) in drawn.iter().zip(counts) {
            let bytes = count * self.model.config.hidden_size * size_of::<f32>();
            if self.bytes + bytes <= BUDGET && !self.kept.contains_key(&d.row) {
                // A copy: a view would keep the whole batch alive.
                self.kept.insert(d.row, states.narrow(0, start, count)?.force_contiguous()?.copy()?);
                self.bytes += bytes;
            }
            start += count;
        }
        Ok(states)
    }
}
