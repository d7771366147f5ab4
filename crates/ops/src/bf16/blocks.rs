//! Quantised blocks in products in bf16. In: a matrix as its file has it, and rows of f32 numbers; out: its numbers in
//! bf16, a piece at a time, or sums of products of 8-bit integers. Invariant: the matrix is kept as it is stored, and
//! what a product needs of it is expanded in the cache.
//!
//! In products of many rows the numbers are rounded to bf16. In products of few, reading the matrix takes most of the
//! time: there the rows are rounded to 8-bit integers with a scale for each 32 numbers, as llama.cpp does, and multiplied
//! as integers.

use super::Half;
use super::kernel::{self, Arch};
use crate::quant::{TensorType, dequantize_into};
use half::bf16;
use std::ops::Range;

/// Numbers that are unpacked at a time.
pub(super) const GROUP: usize = 64;
/// Numbers of a row that share a scale when they are rounded to 8 bits.
const SHARED: usize = 32;
/// Largest 8-bit integer that a number is rounded to.
const LARGEST: f32 = 127.0;
/// Rows that are multiplied at a time: what is unpacked is used so many times.
pub(super) const TILE: usize = 4;

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

    /// The columns of some rows in bf16, made in `scratch`. `columns` begins at a multiple of [`GROUP`] and ends at one,
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
                Arch::Avx512(avx512) => avx512.expand(self.dtype, row, columns.start, values),
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
                    Arch::Avx512(avx512) => avx512.int8_dots(self.dtype, row, x, first..first + out.len(), &mut sums),
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

/// 64 numbers rounded to 8-bit integers, each 32 of them with a scale of their own: the largest becomes 127.
#[derive(Clone, Debug)]
pub(super) struct Int8Group {
    pub(super) integers: [i8; GROUP],
    /// The scale of every four of them: a vector of sums of fours is multiplied by a vector of scales.
    pub(super) scales: [f32; GROUP / 4],
    /// The sum of every sixteen, times their scale.
    pub(super) sums: [f32; GROUP / 16],
}

impl Int8Group {
    const ZERO: Self = Self { integers: [0; GROUP], scales: [0.0; GROUP / 4], sums: [0.0; GROUP / 16] };

    /// Rounds up to 64 numbers, to nearest; what they lack is zero.
    fn new(numbers: &[f32]) -> Self {
        let mut group = Self::ZERO;
        for (half, numbers) in numbers.chunks(SHARED).enumerate() {
            let integers = &mut group.integers[half * SHARED..][..SHARED];
            let scale = numbers.iter().fold(0f32, |most, x| most.max(x.abs())) / LARGEST;
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            for (integer, x) in integers.iter_mut().zip(numbers) {
                *integer = (x * inverse).round_ties_even() as i8;
            }
            group.scales[half * SHARED / 4..][..SHARED / 4].fill(scale);
            for (sum, sixteen) in group.sums[half * SHARED / 16..].iter_mut().zip(integers.chunks(16)) {
                *sum = scale * sixteen.iter().map(|&x| i32::from(x)).sum::<i32>() as f32;
            }
        }
        group
    }
}

/// Rows of numbers rounded to 8-bit integers.
#[derive(Debug)]
pub(crate) struct Int8Rows {
    groups: Vec<Int8Group>,
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Int8Rows {
    /// Rounds `rows` rows of `width` numbers.
    pub(crate) fn new(x: &[f32], rows: usize, width: usize) -> Self {
        let groups = x.chunks_exact(width.max(1)).take(rows).flat_map(|row| row.chunks(GROUP).map(Int8Group::new));
        Self { groups: groups.collect(), rows, width }
    }

    /// The groups of a row.
    pub(super) fn row(&self, row: usize) -> &[Int8Group] {
        let groups = self.width.div_ceil(GROUP);
        &self.groups[row * groups..][..groups]
    }

    /// Number `at` of row `row`, as rounded.
    fn value(&self, row: usize, at: usize) -> f32 {
        let group = &self.row(row)[at / GROUP];
        group.scales[at % GROUP / 4] * f32::from(group.integers[at % GROUP])
    }
}

#[cfg(test)]
mod tests;
