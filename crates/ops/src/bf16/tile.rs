//! The tile of sums that the kernel works on: its size, where it is written, and the lines of bf16 that it is made of.
//! Invariant: all forms of the kernel use the same.

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

/// Sixteen pairs of bf16, the first number of a pair in the low half: a line of the cache.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; LANES]);

impl Line {
    /// The pairs of lines, one after the other.
    pub(super) fn pairs(lines: &[Self]) -> &[u32] {
        // SAFETY: a line is its pairs and nothing else.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LANES)
        }
    }

    /// As [`Self::pairs`].
    pub(super) fn pairs_mut(lines: &mut [Self]) -> &mut [u32] {
        // SAFETY: a line is its pairs and nothing else, and any pairs make a line.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES)
        }
    }
}

/// Where the lines of rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Row after row.
    Rows,
    /// Blocks of 16 rows; in each, the first line of every row, then the second ones, ..: a tile after the other.
    Tiles,
}

/// Rows in the order [`Order::Tiles`].
#[derive(Clone, Copy)]
pub(super) struct TileRows<'a> {
    pub(super) lines: &'a [Line],
    pub(super) rows: usize,
    /// Lines of a row.
    pub(super) stride: usize,
}

impl<'a> TileRows<'a> {
    /// The lines of the block of 16 rows that row `first` begins, tile after tile.
    ///
    /// # Panics
    /// When no block begins there.
    pub(super) fn block(&self, first: usize) -> &'a [Line] {
        assert!(first.is_multiple_of(LANES), "no block of rows begins there");
        &self.lines[first * self.stride..][..LANES * self.stride]
    }
}
