//! Products on tiles: a weight is laid out once for all rows of `x`, in strips of 16 columns, tile after tile. In: rounded
//! rows and a frozen weight; out: the product, written or added. Invariant: threads lay out a part of the weight
//! together, and only then multiply with it, so that laying it out is not done again for other rows.

use super::amx::{Amx, ROWS};
use super::kernel::{self, Arch};
use super::rounded::Line;
use super::tile::{LANES, Place};
use super::{Destination, Frozen, Product, Side};
use crate::gemm::Update;
use crate::slices;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Most lines of a weight that are laid out at a time: 8 MB.
const GROUP: usize = 1 << 17;
/// Most strips that one task lays out, or one thread alone: so many columns of a row are 4 or 8 lines of the cache.
const TASK_STRIPS: usize = 8;
/// Lines of `x` that stay in the second-level cache while strips pass by: 1 MB.
const X_LINES: usize = 1 << 14;
/// Rows of a weight in blocks that are expanded at a time for `g W`, in steps of 32.
const EXPANDED_STEPS: usize = 8;

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
    let strip = steps * LANES;
    let most = if parallel { (GROUP / strip).max(1).next_multiple_of(TASK_STRIPS) } else { TASK_STRIPS };
    let pieces = x.rows.div_ceil((X_LINES / steps).max(ROWS));
    let piece = x.rows.div_ceil(pieces).next_multiple_of(ROWS);
    for first in (0..columns).step_by(most * LANES) {
        let group = first..columns.min(first + most * LANES);
        let strips = group.len().div_ceil(LANES);
        let lay_out = |i: usize, lines: &mut [Line]| {
            let first = group.start + i * TASK_STRIPS * LANES;
            pack(product, amx, first..group.end.min(first + TASK_STRIPS * LANES), lines);
        };
        let laid = if parallel {
            slices::filled(strips * strip, TASK_STRIPS * strip, lay_out)
        } else {
            let mut lines = vec![Line::default(); strips * strip];
            lay_out(0, &mut lines);
            lines
        };
        let tasks = if parallel { 4 * rayon::current_num_threads() } else { 1 };
        let each = (strips * pieces).div_ceil(tasks).clamp(1, strips).next_multiple_of(2);
        let rectangles: Vec<_> = (0..x.rows)
            .step_by(piece)
            .flat_map(|row| (0..strips).step_by(each).map(move |s| (row..x.rows.min(row + piece), s)))
            .collect();
        let multiply = |(rows, s): &(Range<usize>, usize)| {
            let dst = &dst;
            let laid = &laid[s * strip..strips.min(s + each) * strip];
            let from = group.start + s * LANES;
            let to = group.end.min(from + each * LANES);
            let place = Place { at: dst.0.wrapping_add(rows.start * stride + from), stride, columns: to - from };
            // SAFETY: the rectangle of these rows and columns lies in the product, and no other task has a part of it.
            unsafe { amx.product(x, rows, laid, place, update == Update::Add) };
        };
        if parallel {
            rectangles.par_iter().with_max_len(1).for_each(multiply);
        } else {
            rectangles.iter().for_each(multiply);
        }
    }
}

/// Lays out the strips of some columns of the product.
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
        for pair in 0..rows.len().div_ceil(2) {
            let row = |row: usize| if row < half.rows { &half.row(row)[columns.clone()] } else { &[] };
            let lines = &mut lines[start / 2 + pair..];
            kernel::pack_pair(amx.avx512, row(2 * pair), row(2 * pair + 1), lines, strip);
        }
    }
}
