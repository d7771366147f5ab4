//! Rows of numbers rounded to bf16. In: rows of f32 numbers; out: pairs of bf16, in the order that the kernel reads.
//! Invariant: the numbers are the same in both orders, and what a row lacks to whole lines is zero.

use super::kernel::{self, Arch};
#[cfg(target_arch = "x86_64")]
use super::tile::TileRows;
use super::tile::{LANES, Line, Order};
use crate::slices;

/// Rows of numbers rounded to bf16, two by two.
#[derive(Debug)]
pub(crate) struct Rounded {
    lines: Vec<Line>,
    pub(super) rows: usize,
    pub(super) width: usize,
    /// Lines of a row.
    pub(super) stride: usize,
    order: Order,
}

impl Rounded {
    /// Rounds `rows` rows of `width` numbers, to nearest and ties to even, for products.
    pub(crate) fn new(x: &[f32], rows: usize, width: usize) -> Self {
        Self::on(kernel::arch(), x, rows, width)
    }

    /// As [`Self::new`], for the products of `arch`.
    pub(super) fn on(arch: Arch, x: &[f32], rows: usize, width: usize) -> Self {
        Self::ordered(arch, x, rows, width, arch.order())
    }

    /// As [`Self::new`], row after row, for dot products.
    pub(super) fn in_rows(x: &[f32], rows: usize, width: usize) -> Self {
        Self::ordered(kernel::arch(), x, rows, width, Order::Rows)
    }

    fn ordered(arch: Arch, x: &[f32], rows: usize, width: usize, order: Order) -> Self {
        let lines = width.div_ceil(2 * LANES);
        let (stride, height) = match order {
            // An odd number of lines, so that rows do not share one set of the cache.
            Order::Rows => (lines | 1, 1),
            Order::Tiles => (lines, LANES),
        };
        let block = height * stride;
        let blocks = ((1 << 10) / block.max(1)).max(1);
        let x = &x[..rows * width];
        let lines = slices::filled(rows.div_ceil(height) * block, blocks * block, |i, lines| {
            let rows = x[i * blocks * height * width..].chunks(height * width.max(1));
            for (rows, block) in rows.zip(lines.chunks_exact_mut(block.max(1))) {
                for (r, row) in rows.chunks_exact(width.max(1)).enumerate() {
                    kernel::round(arch, row, &mut block[r..], height);
                }
            }
        });
        Self { lines, rows, width, stride, order }
    }

    /// The rounded numbers.
    pub(crate) fn expand(&self) -> Vec<f32> {
        let task = ((1 << 10) / self.stride.max(1)).max(1);
        slices::filled(self.rows * self.width, task * self.width, |i, values| {
            for (r, values) in values.chunks_exact_mut(self.width).enumerate() {
                for (k, values) in values.chunks_mut(2 * LANES).enumerate() {
                    kernel::expand(&self.line(i * task + r, k).0, values);
                }
            }
        })
    }

    /// Line `k` of row `row`.
    fn line(&self, row: usize, k: usize) -> &Line {
        let at = match self.order {
            Order::Rows => row * self.stride + k,
            Order::Tiles => (row / LANES * self.stride + k) * LANES + row % LANES,
        };
        &self.lines[at]
    }

    /// The pairs of row `i`.
    ///
    /// # Panics
    /// When the order is another one.
    pub(super) fn row(&self, i: usize) -> &[u32] {
        assert_eq!(self.order, Order::Rows, "rows are in tiles");
        Line::pairs(&self.lines[i * self.stride..][..self.stride])
    }

    /// The rows in tiles.
    ///
    /// # Panics
    /// When the order is another one.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn in_tiles(&self) -> TileRows<'_> {
        assert_eq!(self.order, Order::Tiles, "rows are not in tiles");
        TileRows { lines: &self.lines, rows: self.rows, stride: self.stride }
    }
}
