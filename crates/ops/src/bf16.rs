//! Matrix products in bf16 with sums in f32. In: rows of f32 numbers, which are rounded to bf16, and a frozen weight in
//! bf16 as its file has it; out: f32. Invariant: a weight is kept once, row by row, at two bytes an element; the order
//! that the kernel reads is made for one panel at a time, in the cache.
//!
//! Both products of a linear layer run on one kernel: 6 rows of `x` against 64 columns, in registers. Its panel holds,
//! for two steps of the inner dimension at a time, the 64 columns' pairs beside each other. For `x W^T` the columns are
//! rows of the weight, so pairs are next to each other in memory and are transposed; for `g W` they are columns, so a
//! pair is made of two rows.

#[cfg(target_arch = "x86_64")]
mod amx;
mod blocks;
mod dots;
mod int8;
mod kernel;
mod rounded;
#[cfg(target_arch = "x86_64")]
mod strips;
mod tile;
#[cfg(target_arch = "x86_64")]
mod unpack;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use blocks::Blocks;
pub(crate) use rounded::Rounded;

use crate::gemm::{Update, count};
use half::bf16;
use kernel::Arch;
use rayon::prelude::*;
use std::ops::Range;
use tile::{LANES, Place, ROWS};

/// Columns of a panel.
const COLUMNS: usize = 4 * LANES;
/// Most pairs of the inner dimension in a panel, which then fills 80 kB: it stays in the second-level cache beside rows
/// of `x`.
const DEPTH: usize = 320;
/// Most rows of `x` of one task; packing a panel costs as much as the products of about a dozen rows.
const TASK_ROWS: usize = 42 * ROWS;

/// True when this processor multiplies bf16 numbers; other processors compute the same results, slowly.
pub fn is_fast() -> bool {
    instructions().is_some()
}

/// The instructions that these products use on this processor, `amx-bf16` or `avx512-bf16`. None where it has neither.
pub fn instructions() -> Option<&'static str> {
    match kernel::arch() {
        #[cfg(target_arch = "x86_64")]
        Arch::Amx(_) => Some("amx-bf16"),
        #[cfg(target_arch = "x86_64")]
        Arch::Avx512(_) => Some("avx512-bf16"),
        Arch::Portable => None,
    }
}

/// A weight in bf16, row-major.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half<'a> {
    pub(crate) values: &'a [bf16],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl<'a> Half<'a> {
    /// Some of its rows.
    pub(crate) fn slice(&self, rows: &Range<usize>) -> Self {
        let values = &self.values[rows.start * self.cols..rows.end * self.cols];
        Self { values, rows: rows.len(), cols: self.cols }
    }

    /// One row.
    pub(crate) fn row(&self, row: usize) -> &'a [bf16] {
        &self.values[row * self.cols..][..self.cols]
    }
}

/// Writes the dot products of some rows of a weight.
pub(crate) type Dots<'a> = Box<dyn Fn(&Range<usize>, &mut [f32]) + Sync + 'a>;

/// A frozen weight of products in bf16.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Frozen<'a> {
    /// In bf16.
    Half(Half<'a>),
    /// As its file has it, expanded as it is packed.
    Blocks(Blocks<'a>),
}

impl<'a> From<Half<'a>> for Frozen<'a> {
    fn from(half: Half<'a>) -> Self {
        Self::Half(half)
    }
}

impl<'a> From<Blocks<'a>> for Frozen<'a> {
    fn from(blocks: Blocks<'a>) -> Self {
        Self::Blocks(blocks)
    }
}

impl<'a> Frozen<'a> {
    /// `(out, in)`.
    pub(crate) fn dims(&self) -> (usize, usize) {
        match self {
            Self::Half(half) => (half.rows, half.cols),
            Self::Blocks(blocks) => (blocks.rows, blocks.cols),
        }
    }

    /// `out[r * tokens + t] = w[r] . x[t]` of few rows `x`, for any rows of the weight: by dot products of bf16, or of
    /// 8-bit integers with blocks.
    pub(crate) fn dots(self, x: &[f32], tokens: usize) -> Dots<'a> {
        let width = self.dims().1;
        match self {
            Self::Half(half) => {
                let x = Rounded::in_rows(x, tokens, width);
                Box::new(move |rows, out| dots::dots(out, half.slice(rows), &x))
            }
            Self::Blocks(blocks) => {
                let x = int8::Int8Rows::new(x, tokens, width);
                Box::new(move |rows, out| blocks.slice(rows).dots(out, &x))
            }
        }
    }

    /// Packs the columns of a product from pair `start` of the inner dimension on, as deep as `panel` is.
    fn pack(&self, arch: Arch, side: Side, columns: Range<usize>, start: usize, buffers: &mut Buffers) {
        let Buffers { panel, expanded } = buffers;
        let vectors = columns.len().div_ceil(LANES);
        let (half, columns, start) = match self {
            Self::Half(half) => (*half, columns, start),
            Self::Blocks(blocks) => {
                let depth = panel.len() / (vectors * LANES);
                let inner = |size: usize| 2 * start..size.min(2 * (start + depth));
                let (first, count) = (columns.start, columns.len());
                match side {
                    Side::Forward => (blocks.expand(arch, &columns, &inner(blocks.cols), expanded), 0..count, 0),
                    Side::Backward => {
                        (blocks.expand(arch, &inner(blocks.rows), &(first..first + count), expanded), 0..count, 0)
                    }
                }
            }
        };
        match side {
            Side::Forward => kernel::pack_rows(arch, half, columns, start, vectors, panel),
            Side::Backward => kernel::pack_columns(arch, half, columns, start, vectors, panel),
        }
    }
}

/// What a thread works in.
#[derive(Default)]
struct Buffers {
    /// The panel.
    panel: Vec<u32>,
    /// The piece of the weight that becomes the panel, where it is not in bf16.
    expanded: Vec<bf16>,
}

/// Which product of a weight `W` `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// `x W^T`.
    Forward,
    /// `g W`.
    Backward,
}

/// A product of rounded rows and a weight, on this thread unless [`Self::in_parallel`] is asked for.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) struct Product<'a> {
    x: &'a Rounded,
    weight: Frozen<'a>,
    side: Side,
    parallel: bool,
    arch: Arch,
}

impl<'a> Product<'a> {
    /// # Panics
    /// When the inner sizes differ or the weight does not fit its slice.
    pub(crate) fn new(x: &'a Rounded, weight: impl Into<Frozen<'a>>, side: Side) -> Self {
        let weight = weight.into();
        let (rows, cols) = weight.dims();
        assert_eq!(x.width, if side == Side::Forward { cols } else { rows }, "inner sizes differ");
        if let Frozen::Half(half) = weight {
            assert_eq!(half.values.len(), rows * cols, "weight does not fit its slice");
        }
        Self { x, weight, side, parallel: false, arch: kernel::arch() }
    }

    /// On the current rayon pool.
    pub(crate) fn in_parallel(self) -> Self {
        Self { parallel: true, ..self }
    }

    fn columns(&self) -> usize {
        let (rows, cols) = self.weight.dims();
        if self.side == Side::Forward { rows } else { cols }
    }

    /// Writes to or adds to the first columns of `dst`, row-major with rows `stride` apart.
    ///
    /// # Panics
    /// When rows of `dst` overlap or `dst` is too short.
    pub(crate) fn store(self, dst: &mut [f32], stride: usize, update: Update) {
        let (rows, columns) = (self.x.rows, self.columns());
        if rows == 0 || columns == 0 {
            return;
        }
        assert!(rows == 1 || stride >= columns, "rows of the product overlap");
        assert!(dst.len() >= (rows - 1) * stride + columns, "product does not fit its slice");
        // SAFETY: `dst` is borrowed mutably, initialised, and just seen to hold the rows.
        #[allow(unsafe_code)]
        unsafe {
            self.run(dst.as_mut_ptr(), stride, update);
        }
    }

    /// The product as a matrix of its own. Its memory is written once, by the product.
    pub(crate) fn into_vec(self) -> Vec<f32> {
        let (rows, columns) = (self.x.rows, self.columns());
        let mut values = Vec::with_capacity(rows * columns);
        // SAFETY: the capacity holds the rows, nothing else points to them, and none is read before it was written.
        #[allow(unsafe_code)]
        unsafe {
            self.run(values.as_mut_ptr(), columns, Update::Replace);
        }
        // SAFETY: `run` wrote all elements of all rows.
        #[allow(unsafe_code)]
        unsafe {
            values.set_len(rows * columns);
        }
        values
    }

    /// Writes or adds the product; with [`Update::Replace`] every element is written, also when the inner size is 0.
    ///
    /// # Safety
    /// `dst` is valid for writes of the product's rows, `stride` apart, that nothing else points to; for
    /// [`Update::Add`] they are initialised.
    #[allow(unsafe_code)]
    unsafe fn run(self, dst: *mut f32, stride: usize, update: Update) {
        let (rows, columns, inner) = (self.x.rows, self.columns(), self.x.width);
        count(rows, inner, columns);
        if rows == 0 || columns == 0 {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if let Arch::Amx(amx) = self.arch {
            // SAFETY: this function's own contract.
            return unsafe { strips::run(&self, amx, Destination(dst), stride, update) };
        }
        let piece = rows.div_ceil(rows.div_ceil(TASK_ROWS).max(1)).next_multiple_of(ROWS);
        let panels = (0..columns).step_by(COLUMNS).map(|start| start..columns.min(start + COLUMNS));
        let pieces = |columns: Range<usize>| {
            let pieces = (0..rows).step_by(piece).map(move |start| start..rows.min(start + piece));
            pieces.map(move |rows| (rows, columns.clone()))
        };
        let tasks: Vec<_> = panels.flat_map(pieces).collect();
        let dst = Destination(dst);
        let task = |buffers: &mut Buffers, (rows, columns): &(Range<usize>, Range<usize>)| {
            let dst = &dst;
            // SAFETY: the rectangle of these rows and columns lies in the product, and no other task has a part of it.
            // In it, only what was written is read: with `Replace`, by the first piece of the inner dimension.
            let at = unsafe { dst.0.add(rows.start * stride + columns.start) };
            let place = Place { at, stride, columns: columns.len() };
            unsafe { self.rectangle(buffers, rows, columns.start, place, update) };
        };
        if self.parallel {
            tasks.par_iter().with_max_len(1).for_each_init(Buffers::default, task);
        } else {
            let mut buffers = Buffers::default();
            for rectangle in &tasks {
                task(&mut buffers, rectangle);
            }
        }
    }

    /// The product's `rows` and a panel of columns from `first` on.
    ///
    /// # Safety
    /// `place` is valid for writes of the rectangle, that no one else reads or writes; for [`Update::Add`] it is
    /// initialised.
    #[allow(unsafe_code)]
    unsafe fn rectangle(self, buffers: &mut Buffers, rows: &Range<usize>, first: usize, place: Place, update: Update) {
        let Self { x, weight, side, arch, .. } = self;
        let pairs = x.width.div_ceil(2);
        // Whole groups of a row in blocks are expanded, which are 32 pairs.
        let depth = pairs.div_ceil(pairs.div_ceil(DEPTH).max(1)).max(1);
        let depth = if let Frozen::Blocks(_) = weight { depth.next_multiple_of(32) } else { depth };
        let vectors = place.columns.div_ceil(LANES);
        let mut start = 0;
        loop {
            let depth = depth.min(pairs - start);
            buffers.panel.resize(depth * vectors * LANES, 0);
            weight.pack(arch, side, first..first + place.columns, start, buffers);
            let add = start > 0 || update == Update::Add;
            for (i, row) in rows.clone().step_by(ROWS).enumerate() {
                let count = ROWS.min(rows.end - row);
                let x: [&[u32]; ROWS] = std::array::from_fn(|r| &x.row(row + r.min(count - 1))[start..start + depth]);
                // SAFETY: these rows are in the rectangle.
                unsafe {
                    let place = Place { at: place.at.add(i * ROWS * place.stride), ..place };
                    kernel::tile(arch, &x[..count], &buffers.panel, vectors, place, add);
                }
            }
            start += depth;
            if start >= pairs {
                return;
            }
        }
    }
}

/// Where tasks write, each its own part.
#[derive(Clone, Copy)]
struct Destination(*mut f32);

// SAFETY: tasks use disjoint rectangles, as [`Product::run`] says where it makes them.
#[allow(unsafe_code)]
unsafe impl Sync for Destination {}

#[cfg(test)]
mod tests;
