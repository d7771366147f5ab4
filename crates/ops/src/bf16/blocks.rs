//! Quantised blocks in products in bf16. In: a matrix as its file has it, and rows of f32 numbers; out: its numbers in
//! bf16, a piece at a time, or sums of products of 8-bit integers. Invariant: the matrix is kept as it is stored, and
//! what a product needs of it is expanded in the cache.
//!
//! In products of many rows the numbers are rounded to bf16. In products of few, reading the matrix takes most of the
//! time: there the rows are rounded to 8-bit integers with a scale for each 32 numbers, as llama.cpp does, and multiplied
//! as integers.

use super::Half;
#[cfg(target_arch = "x86_64")]
use super::amx::Amx;
use super::int8::{Int8Rows, TILE};
use super::kernel::{self, Arch};
use crate::quant::{TensorType, dequantize_into};
use half::bf16;
use std::ops::Range;

/// A matrix in the blocks of a storage type, row-major.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks<'a> {
    pub(crate) dtype: TensorType,
    pub(crate) bytes: &'a [u8],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl<'a> Blocks<'a> {
    /// Some of its rows.
    pub(crate) fn slice(&self, rows: &Range<usize>) -> Self {
        let row = self.row_bytes();
        Self { bytes: &self.bytes[rows.start * row..rows.end * row], rows: rows.len(), ..*self }
    }

    fn row_bytes(&self) -> usize {
        self.cols / self.dtype.block() * self.dtype.block_bytes()
    }

    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes()..][..self.row_bytes()]
    }

    /// The columns of some rows in bf16, made in `scratch`. `columns` begins at a multiple of [`super::int8::GROUP`] and ends at one,
    /// or where the row does.
    pub(super) fn expand<'s>(
        &self,
        arch: Arch,
        rows: &Range<usize>,
        columns: &Range<usize>,
        scratch: &'s mut Vec<bf16>,
    ) -> Half<'s> {
        let cols = columns.len();
        scratch.resize(rows.len() * cols, bf16::ZERO);
        for (row, values) in rows.clone().zip(scratch.chunks_exact_mut(cols.max(1))) {
            let row = self.row(row);
            let done = match arch {
                #[cfg(target_arch = "x86_64")]
                Arch::Avx512(avx512) | Arch::Amx(Amx { avx512 }) => {
                    avx512.expand(self.dtype, row, columns.start, values)
                }
                Arch::Portable => 0,
            };
            if done < cols {
                self.expand_plainly(row, columns.start + done, &mut values[done..]);
            }
        }
        Half { values: scratch, rows: rows.len(), cols }
    }

    /// Numbers of a row from `start` on, by the conversion to f32.
    fn expand_plainly(&self, row: &[u8], start: usize, values: &mut [bf16]) {
        for (at, value) in self.plain(row, start..start + values.len()) {
            values[at - start] = bf16::from_f32(value);
        }
    }

    /// The numbers of a row and their places, from blocks that are converted one by one.
    fn plain(&self, row: &[u8], columns: Range<usize>) -> impl Iterator<Item = (usize, f32)> {
        let (dtype, size, bytes) = (self.dtype, self.dtype.block(), self.dtype.block_bytes());
        let blocks = columns.start / size..columns.end.div_ceil(size);
        blocks.flat_map(move |block| {
            let mut values = [0.0; 256];
            dequantize_into(dtype, &row[block * bytes..][..bytes], &mut values[..size]);
            let places = columns.start.max(block * size)..columns.end.min((block + 1) * size);
            places.map(move |at| (at, values[at - block * size]))
        })
    }

    /// `out[r * tokens + t] = w[r] . x[t]`.
    ///
    /// # Panics
    /// When widths or lengths differ.
    pub(crate) fn dots(&self, out: &mut [f32], x: &Int8Rows) {
        self.dots_on(kernel::arch(), out, x);
    }

    pub(super) fn dots_on(&self, arch: Arch, out: &mut [f32], x: &Int8Rows) {
        let tokens = x.rows;
        assert!(self.cols == x.width && out.len() == self.rows * tokens, "lengths differ");
        for (row, out) in out.chunks_exact_mut(tokens.max(1)).enumerate() {
            let row = self.row(row);
            for (i, out) in out.chunks_mut(TILE).enumerate() {
                let (first, mut sums) = (i * TILE, [0.0; TILE]);
                let done = match arch {
                    #[cfg(target_arch = "x86_64")]
                    Arch::Avx512(avx512) | Arch::Amx(Amx { avx512 }) => {
                        avx512.int8_dots(self.dtype, row, x, first..first + out.len(), &mut sums)
                    }
                    Arch::Portable => 0,
                };
                if done < self.cols {
                    for (at, w) in self.plain(row, done..self.cols) {
                        for (t, sum) in sums[..out.len()].iter_mut().enumerate() {
                            *sum += w * x.value(first + t, at);
                        }
                    }
                }
                out.copy_from_slice(&sums[..out.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
