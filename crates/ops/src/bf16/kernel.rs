//! The kernel of the bf16 products, in its forms: the processor's own instructions, and plain code that gives the
//! same up to the order of sums. In: packed panels and rounded rows; out: a tile of sums written or added. Invariant:
//! which form runs depends on the processor only.

use super::tile::{LANES, Place, ROWS};
use super::{Half, Rounded};
#[cfg(target_arch = "x86_64")]
use super::{
    amx::{self, Amx},
    x86::Avx512,
};
use half::bf16;
use std::ops::Range;

/// The instructions that the kernel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arch {
    /// AVX-512 with BF16, and tiles for the products of many rows.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    /// AVX-512 with BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// Any processor.
    Portable,
}

/// The best form for this processor.
pub(super) fn arch() -> Arch {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx512) = Avx512::detect() {
        return Amx::detect(avx512).map_or(Arch::Avx512(avx512), Arch::Amx);
    }
    Arch::Portable
}

/// Rounds a row to pairs of bf16; what `pairs` has beyond the row stays.
pub(super) fn round(arch: Arch, row: &[f32], pairs: &mut [u32]) {
    let (twos, last) = row.as_chunks::<2>();
    let done = match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::Avx512(avx512) | Arch::Amx(Amx { avx512 }) => avx512.round(row, pairs),
        Arch::Portable => 0,
    };
    for (pair, [a, b]) in pairs.iter_mut().zip(twos).skip(done) {
        *pair = join(bf16::from_f32(*a), bf16::from_f32(*b));
    }
    if let ([a], Some(pair)) = (last, pairs.get_mut(twos.len())) {
        *pair = join(bf16::from_f32(*a), bf16::ZERO);
    }
}

/// The numbers of pairs, as many as `values` holds.
pub(super) fn expand(pairs: &[u32], values: &mut [f32]) {
    let (twos, last) = values.as_chunks_mut::<2>();
    for (two, pair) in twos.iter_mut().zip(pairs) {
        *two = split(*pair).into();
    }
    if let ([value], Some(pair)) = (last, pairs.get(twos.len())) {
        *value = split(*pair).0;
    }
}

fn join(low: bf16, high: bf16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

/// Packs rows `columns` of the weight, from pair `start` of the inner dimension on, as deep as `panel` is.
pub(super) fn pack_rows(
    arch: Arch,
    weight: Half<'_>,
    columns: Range<usize>,
    start: usize,
    vectors: usize,
    panel: &mut [u32],
) {
    #[cfg(target_arch = "x86_64")]
    let depth = panel.len() / (vectors * LANES);
    for vector in 0..vectors {
        let first = columns.start + vector * LANES;
        let rows: [&[bf16]; LANES] = std::array::from_fn(|lane| match first + lane {
            row if row < columns.end => &weight.row(row)[2 * start..],
            _ => &[],
        });
        let done = match arch {
            #[cfg(target_arch = "x86_64")]
            Arch::Avx512(avx512) | Arch::Amx(Amx { avx512 }) => avx512.pack_rows(&rows, depth, vector, vectors, panel),
            Arch::Portable => 0,
        };
        for (pair, packed) in panel.chunks_exact_mut(vectors * LANES).enumerate().skip(done) {
            for (packed, row) in packed[vector * LANES..][..LANES].iter_mut().zip(&rows) {
                let at = |i: usize| row.get(i).copied().unwrap_or(bf16::ZERO);
                *packed = join(at(2 * pair), at(2 * pair + 1));
            }
        }
    }
}

/// Packs columns `columns` of the weight, from pair `start` of the inner dimension (its rows) on, as deep as `panel`
/// is.
pub(super) fn pack_columns(
    arch: Arch,
    weight: Half<'_>,
    columns: Range<usize>,
    start: usize,
    vectors: usize,
    panel: &mut [u32],
) {
    for (pair, packed) in panel.chunks_exact_mut(vectors * LANES).enumerate() {
        let row = |row: usize| if row < weight.rows { &weight.row(row)[columns.clone()] } else { &[] };
        let (low, high) = (row(2 * (start + pair)), row(2 * (start + pair) + 1));
        let done = match arch {
            #[cfg(target_arch = "x86_64")]
            Arch::Avx512(avx512) | Arch::Amx(Amx { avx512 }) => avx512.interleave(low, high, packed),
            Arch::Portable => 0,
        };
        for (lane, packed) in packed.iter_mut().enumerate().skip(done) {
            let at = |row: &[bf16]| row.get(lane).copied().unwrap_or(bf16::ZERO);
            *packed = join(at(low), at(high));
        }
    }
}

impl Arch {
    /// Rows of `x` whose sums are made together.
    pub(super) fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => amx::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => ROWS,
            Self::Portable => ROWS,
        }
    }

    /// Most rows of `x` of one task. Packing a panel costs as much as the products of about a dozen rows, or of some
    /// hundred rows with tiles.
    pub(super) fn task_rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => 64 * amx::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => 42 * ROWS,
            Self::Portable => 42 * ROWS,
        }
    }

    /// Panels are whole numbers of so many pairs deep; what the inner dimension lacks is zero.
    pub(super) fn step(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => amx::STEP,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => 1,
            Self::Portable => 1,
        }
    }
}

/// Writes or, with `add`, adds the products of some rows `x`, from pair `start` of the inner dimension on, and a panel.
///
/// # Safety
/// `place` is valid for writes of these rows, that no one else uses; with `add` they are initialised.
#[allow(unsafe_code)]
pub(super) unsafe fn product(
    arch: Arch,
    (x, rows): (&Rounded, &Range<usize>),
    start: usize,
    (panel, vectors): (&[u32], usize),
    place: Place,
    add: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if let Arch::Amx(amx) = arch {
        // SAFETY: this function's own contract.
        return unsafe { amx.product((x, rows), start, (panel, vectors), place, add) };
    }
    let depth = panel.len() / (vectors * LANES);
    for (i, row) in rows.clone().step_by(ROWS).enumerate() {
        let count = ROWS.min(rows.end - row);
        let x: [&[u32]; ROWS] = std::array::from_fn(|r| &x.row(row + r.min(count - 1))[start..start + depth]);
        let place = Place { at: place.at.wrapping_add(i * ROWS * place.stride), ..place };
        // SAFETY: these rows are among those of the caller.
        unsafe { tile(arch, &x[..count], panel, vectors, place, add) };
    }
}

/// Writes or, with `add`, adds the products of up to [`ROWS`] rows `x` and a panel.
///
/// # Safety
/// `place` is valid for writes of as many rows as `x` has, that no one else uses; with `add` they are initialised.
#[allow(unsafe_code)]
unsafe fn tile(arch: Arch, x: &[&[u32]], panel: &[u32], vectors: usize, place: Place, add: bool) {
    assert!(x.iter().all(|row| row.len() * vectors * LANES == panel.len()), "panel of another depth");
    assert!(place.columns <= vectors * LANES, "panel of fewer columns");
    #[cfg(target_arch = "x86_64")]
    if let Arch::Avx512(avx512) = arch {
        // SAFETY: this function's own contract, and the lengths that were seen above.
        return unsafe { avx512.tile(x, panel, vectors, place, add) };
    }
    for (r, row) in x.iter().enumerate() {
        let mut sums = [0f32; 4 * LANES];
        for (pair, packed) in row.iter().zip(panel.chunks_exact(vectors * LANES)) {
            let (low, high) = split(*pair);
            for (sum, packed) in sums.iter_mut().zip(packed) {
                let (packed_low, packed_high) = split(*packed);
                *sum += low * packed_low + high * packed_high;
            }
        }
        for (column, sum) in sums.iter().enumerate().take(place.columns) {
            // SAFETY: row and column are in the tile that the caller guarantees.
            unsafe {
                let to = place.at.add(r * place.stride + column);
                to.write(if add { to.read() + sum } else { *sum });
            }
        }
    }
}

/// The two numbers of a pair.
pub(super) fn split(pair: u32) -> (f32, f32) {
    (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000))
}
