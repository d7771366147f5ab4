//! What the losses at the output head share: tiles of logits and their way back. In: hidden states and the head's
//! weight, f32 or bf16; out: products a tile of the vocabulary at a time, on the calling thread. Invariant: no more
//! than the caller's tile is made.

use crate::bf16::{self, Frozen, Half, Rounded, Side};
use crate::gemm::{Mat, Update};
use crate::weight::Rows as Weight;
use crate::{form, simd};
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a matrix `d` wide.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) d: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn len(&self) -> usize {
        self.data.len().checked_div(self.d).unwrap_or(0)
    }

    pub(crate) fn slice(&self, rows: &Range<usize>) -> &'a [f32] {
        &self.data[rows.start * self.d..rows.end * self.d]
    }

    pub(crate) fn mat(&self, rows: &Range<usize>) -> Mat<'a> {
        Mat::new(self.slice(rows), rows.len(), self.d)
    }
}

/// The head's weight, `[V, d]`.
#[derive(Clone, Copy)]
pub(crate) enum Head<'a> {
    /// In f32.
    Dense(Rows<'a>),
    /// In bf16; products are then in bf16, with sums in f32.
    Half(Half<'a>),
}

/// Hidden states, made ready for the products with a head.
pub(crate) enum Hidden<'a> {
    /// In f32.
    Dense { x: Mat<'a>, head: Rows<'a> },
    /// Rounded once for all tiles.
    Half { x: Rounded, head: Half<'a> },
}

impl Hidden<'_> {
    /// Writes the logits of a tile of the vocabulary, `[n, tile]`.
    pub(crate) fn logits(&self, tile: &Range<usize>, logits: &mut [f32]) {
        match self {
            Self::Dense { x, head } => x.times(head.mat(tile).t()).write(logits, tile.len()),
            Self::Half { x, head } => {
                bf16::Product::new(x, head.slice(tile), Side::Forward).store(logits, tile.len(), Update::Replace);
            }
        }
    }
}

impl<'a> Head<'a> {
    /// The head behind a weight's rows. None when they are stored in blocks.
    pub(crate) fn new(weight: Weight<'a>) -> Option<Self> {
        match weight {
            Weight::Dense { values, cols, .. } => Some(Self::Dense(Rows { data: values, d: cols })),
            Weight::Frozen(Frozen::Half(half)) => Some(Self::Half(half)),
            Weight::Frozen(Frozen::Blocks(_)) | Weight::Stored(_) => None,
        }
    }

    /// Width of a hidden state.
    pub(crate) fn d(&self) -> usize {
        match self {
            Self::Dense(rows) => rows.d,
            Self::Half(half) => half.cols,
        }
    }

    /// Size of the vocabulary.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Dense(rows) => rows.len(),
            Self::Half(half) => half.rows,
        }
    }

    /// Hidden states `[n, d]`.
    pub(crate) fn hidden<'h>(&self, x: &'h [f32]) -> Hidden<'h>
    where
        'a: 'h,
    {
        let (d, n) = (self.d(), x.len().checked_div(self.d()).unwrap_or(0));
        match *self {
            Self::Dense(head) => Hidden::Dense { x: Mat::new(x, n, d), head },
            Self::Half(head) => Hidden::Half { x: Rounded::new(x, n, d), head },
        }
    }

    /// Adds `weights` `[n, tile]` times the tile's rows to `out` `[n, d]`.
    pub(crate) fn add_weighted(&self, weights: &[f32], n: usize, tile: &Range<usize>, out: &mut [f32]) {
        match self {
            Self::Dense(rows) => Mat::new(weights, n, tile.len()).times(rows.mat(tile)).add_to(out, rows.d),
            Self::Half(half) => {
                let weights = Rounded::new(weights, n, tile.len());
                bf16::Product::new(&weights, half.slice(tile), Side::Backward).store(out, half.cols, Update::Add);
            }
        }
    }

    /// Takes `factor` times the row of token `token` from `out`.
    pub(crate) fn subtract_row(&self, token: usize, factor: f32, out: &mut [f32]) {
        match self {
            Self::Dense(rows) => simd::axpy(out, -factor, rows.slice(&(token..token + 1))),
            Self::Half(half) => out.iter_mut().zip(half.row(token)).for_each(|(out, w)| *out -= factor * w.to_f32()),
        }
    }
}

/// Every row times its own factor.
pub(crate) fn scale_rows(x: &[f32], factors: &[f32], d: usize) -> Vec<f32> {
    let mut out = x.to_vec();
    out.par_chunks_exact_mut(d).zip(factors).for_each(|(row, factor)| simd::scale(row, *factor));
    out
}

/// `range` in pieces of `size`, the last one shorter.
pub(crate) fn tiles(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..end.min(start + size))
}

/// The number of ranges of the vocabulary that the work is cut into: several for each thread, so that none waits long
/// for the last.
pub(crate) fn parallel_ranges() -> usize {
    4 * rayon::current_num_threads()
}

/// Logits whose magnitude a cap keeps below it: `cap * tanh(logit / cap)`.
pub(crate) fn capped(logits: Tensor, cap: Option<f32>) -> Result<Tensor> {
    match cap {
        None => Ok(logits),
        Some(cap) => (logits / f64::from(cap))?.tanh()? * f64::from(cap),
    }
}

/// Of each row, capped, in f32 at least.
pub(crate) fn log_softmax(logits: &Tensor, cap: Option<f32>) -> Result<Tensor> {
    let logits = capped(form::wide(logits)?, cap)?;
    let logits = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    logits.broadcast_sub(&logits.exp()?.sum_keepdim(1)?.log()?)
}
