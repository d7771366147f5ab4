//! Products on tiles: a weight is laid out once for all rows of `x`, in strips of 16 columns, tile after tile. In:
//! rounded rows and a frozen weight; out: the product, written or added. Invariant: no part of the weight is laid out
//! more than once: either a task has all rows, or threads lay out strips together and only then multiply with them.

use super::amx::{Amx, ROWS};
use super::kernel::{self, Arch};
use super::tile::{LANES, Line, Place};
use super::{Destination, Frozen, Product, Side};
use crate::gemm::Update;
use half::bf16;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Most lines of a weight that are laid out at a time: 8 MB.
const GROUP: usize = 1 << 17;
/// Strips that one task lays out: so many columns of a row are two lines of the cache, and a whole group of numbers in
/// blocks.
const TASK_STRIPS: usize = 4;
/// Lines of `x` that stay in the second-level cache while strips pass by: 1 MB.
const X_LINES: usize = 1 << 14;
/// Rows of a weight in blocks that are expanded at a time for `g W`, in steps of 32.
const EXPANDED_STEPS: usize = 8;

thread_local! {
    /// Where strips are laid out; kept, since new memory costs about as much as filling it.
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Writes or adds the product.
///
/// # Safety
/// That of [`Product::run`], and neither side is empty.
#[allow(unsafe_code)]
pub(super) unsafe fn run(product: &Product<'_>, amx: Amx, dst: Destination, stride: usize, update: Update) {
    let Product { x, parallel, .. } = *product;
    let (columns, steps) = (product.columns(), x.stride);
    if steps == 0 {
        for row in 0..if update == Update::Add { 0 } else { x.rows } {
            // SAFETY: these are the columns of a row of the product, of whose numbers all sums are empty.
            unsafe { dst.0.add(row * stride).write_bytes(0, columns) };
        }
        return;
    }
    let work = Work { product, amx, dst, stride, update };
    let pieces = x.rows.div_ceil((X_LINES / steps).max(ROWS));
    if !parallel {
        work.columns(0..columns);
    } else if pieces == 1 {
        let parts = 4 * rayon::current_num_threads();
        let part = columns.div_ceil(LANES).div_ceil(parts).next_multiple_of(TASK_STRIPS) * LANES;
        let parts = (0..columns.div_ceil(part)).into_par_iter().with_max_len(1);
        parts.for_each(|i| work.columns(i * part..columns.min((i + 1) * part)));
    } else {
        work.together(x.rows.div_ceil(pieces).next_multiple_of(ROWS));
    }
}

/// A product and where it goes, as of [`run`].
#[derive(Clone, Copy)]
struct Work<'a> {
    product: &'a Product<'a>,
    amx: Amx,
    dst: Destination,
    stride: usize,
    update: Update,
}

impl Work<'_> {
    /// Some columns, on this thread: few strips at a time, which stay in the cache. No other task has one of them.
    fn columns(&self, columns: Range<usize>) {
        let rows = self.product.x.rows;
        for first in columns.clone().step_by(TASK_STRIPS * LANES) {
            let columns = first..columns.end.min(first + TASK_STRIPS * LANES);
            self.with_lines(columns.len(), |lines| {
                pack(self.product, self.amx, columns.clone(), lines);
                self.multiply(0..rows, lines, columns.clone());
            });
        }
    }

    /// All columns, on all threads: a part of the weight is laid out and then multiplied with `piece` rows at a time.
    fn together(&self, piece: usize) {
        let (columns, rows, strip) = (self.product.columns(), self.product.x.rows, self.strip());
        let most = (GROUP / strip).max(1).next_multiple_of(TASK_STRIPS) * LANES;
        for first in (0..columns).step_by(most) {
            let group = first..columns.min(first + most);
            let strips = group.len().div_ceil(LANES);
            let columns = |strips: Range<usize>| {
                group.start + strips.start * LANES..group.end.min(group.start + strips.end * LANES)
            };
            self.with_lines(group.len(), |lines| {
                lines.par_chunks_mut(TASK_STRIPS * strip).enumerate().for_each(|(i, lines)| {
                    pack(self.product, self.amx, columns(i * TASK_STRIPS..(i + 1) * TASK_STRIPS), lines);
                });
                let tasks = (strips * rows.div_ceil(piece)).div_ceil(4 * rayon::current_num_threads());
                let each = tasks.clamp(1, strips).next_multiple_of(2);
                let rectangles: Vec<_> = (0..rows)
                    .step_by(piece)
                    .flat_map(|row| (0..strips).step_by(each).map(move |s| (row..rows.min(row + piece), s)))
                    .collect();
                let lines = &*lines;
                rectangles.into_par_iter().with_max_len(1).for_each(|(rows, s)| {
                    let strips = s..strips.min(s + each);
                    self.multiply(rows, &lines[strips.start * strip..strips.end * strip], columns(strips));
                });
            });
        }
    }

    /// Lines of a strip.
    fn strip(&self) -> usize {
        self.product.x.stride * LANES
    }

    /// Lends memory for the strips of so many columns. A task that this thread takes over meanwhile gets other memory.
    fn with_lines(&self, columns: usize, f: impl FnOnce(&mut [Line])) {
        let (mut lines, count) = (LINES.take(), columns.div_ceil(LANES) * self.strip());
        if lines.len() < count {
            lines.resize(count, Line::default());
        }
        f(&mut lines[..count]);
        LINES.set(lines);
    }

    /// Some rows and columns, from the columns' strips. No other task has a part of this rectangle.
    fn multiply(&self, rows: Range<usize>, strips: &[Line], columns: Range<usize>) {
        let at = self.dst.0.wrapping_add(rows.start * self.stride + columns.start);
        let place = Place { at, stride: self.stride, columns: columns.len() };
        // SAFETY: the rectangle lies in the product, whose place [`run`] was given, and no other task has a part of it.
        #[allow(unsafe_code)]
        unsafe {
            self.amx.product(self.product.x.in_tiles(), &rows, strips, place, self.update == Update::Add);
        }
    }
}

/// Lays out the strips of some columns of the product; every line is written.
fn pack(product: &Product<'_>, amx: Amx, columns: Range<usize>, lines: &mut [Line]) {
    let Product { x, weight, side, .. } = *product;
    let (arch, strip, mut scratch) = (Arch::Amx(amx), x.stride * LANES, Vec::<bf16>::new());
    if side == Side::Forward {
        for (first, lines) in columns.clone().step_by(LANES).zip(lines.chunks_exact_mut(strip)) {
            let rows = first..columns.end.min(first + LANES);
            let (half, rows) = match weight {
                Frozen::Half(half) => (half, rows),
                Frozen::Blocks(blocks) => (blocks.expand(arch, &rows, &(0..blocks.cols), &mut scratch), 0..rows.len()),
            };
            kernel::pack_rows(arch, half, rows, 0, 1, Line::pairs_mut(lines));
        }
        return;
    }
    for start in (0..x.width).step_by(EXPANDED_STEPS * 2 * LANES) {
        let rows = start..x.width.min(start + EXPANDED_STEPS * 2 * LANES);
        let (half, columns) = match weight {
            Frozen::Half(half) => (half.slice(&rows), columns.clone()),
            Frozen::Blocks(blocks) => (blocks.expand(arch, &rows, &columns, &mut scratch), 0..columns.len()),
        };
        let pairs = rows.len().div_ceil(2).next_multiple_of(LANES);
        kernel::pack_pairs(amx.avx512, half, &columns, pairs, &mut lines[start / 2..], strip);
    }
}
