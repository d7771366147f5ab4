//! The kernel of the bf16 products, in its forms: the processor's own instructions, and plain code that gives the
//! same up to the order of sums. In: packed panels and rounded rows; out: a tile of sums written or added. Invariant:
//! which form runs depends on the processor only.

use super::Half;
use super::tile::{LANES, Line, Order, Place};
#[cfg(target_arch = "x86_64")]
use super::{amx::Amx, x86::Avx512};
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

/// Rounds a row to lines of bf16, `stride` apart. What the last one lacks stays.
pub(super) fn round(arch: Arch, row: &[f32], lines: &mut [Line], stride: usize) {
    let done = match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::Avx512(avx512) | Arch::Amx(Amx { avx512 }) => avx512.round(row, lines, stride),
        Arch::Portable => 0,
    };
    for (numbers, line) in row.chunks(2 * LANES).zip(lines.iter_mut().step_by(stride)).skip(done) {
        for (pair, numbers) in line.0.iter_mut().zip(numbers.chunks(2)) {
            *pair = join(bf16::from_f32(numbers[0]), numbers.get(1).map_or(bf16::ZERO, |x| bf16::from_f32(*x)));
        }
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
    /// The order of rounded rows in its products.
    pub(super) fn order(self) -> Order {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => Order::Tiles,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Order::Rows,
            Self::Portable => Order::Rows,
        }
    }
}

/// Packs `pairs` pairs of rows of the weight into lines of 16 columns each: those of a pair are `strip` apart. What they
/// lack is zero.
#[cfg(target_arch = "x86_64")]
pub(super) fn pack_pairs(
    avx512: Avx512,
    weight: Half<'_>,
    columns: &Range<usize>,
    pairs: usize,
    lines: &mut [Line],
    strip: usize,
) {
    let (whole_pairs, whole_strips) = avx512.pack_pairs(weight, columns, lines, strip);
    for pair in 0..pairs {
        let first = if pair < whole_pairs { whole_strips } else { 0 };
        let row = |row: usize| if row < weight.rows { &weight.row(row)[columns.clone()] } else { &[] };
        let (low, high) = (row(2 * pair), row(2 * pair + 1));
        for i in first..columns.len().div_ceil(LANES) {
            for (lane, packed) in lines[i * strip + pair].0.iter_mut().enumerate() {
                let at = |row: &[bf16]| row.get(i * LANES + lane).copied().unwrap_or(bf16::ZERO);
                *packed = join(at(low), at(high));
            }
        }
    }
}

/// Writes or, with `add`, adds the products of up to [`super::tile::ROWS`] rows `x` and a panel.
///
/// # Safety
/// `place` is valid for writes of as many rows as `x` has, that no one else uses; with `add` they are initialised.
#[allow(unsafe_code)]
pub(super) unsafe fn tile(arch: Arch, x: &[&[u32]], panel: &[u32], vectors: usize, place: Place, add: bool) {
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
