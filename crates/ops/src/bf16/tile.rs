//! The tile of sums that the kernel works on: its size, and where it is written. Invariant: both forms of the kernel
//! use the same.

/// Columns of one vector of sums.
pub(super) const LANES: usize = 16;
/// Rows of `x` whose sums are in registers together: with 6 x 4 vectors of sums, 4 of the panel and one of `x`, 29 of
/// 32 registers are in use.
pub(super) const ROWS: usize = 6;

/// Where a tile goes: `columns` of rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) at: *mut f32,
    pub(super) stride: usize,
    pub(super) columns: usize,
}
