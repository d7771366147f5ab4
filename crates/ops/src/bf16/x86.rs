//! The bf16 kernel in AVX-512. In, out: as of `kernel.rs`. Invariant: a value of [`Avx512`] exists only on a processor
//! that has every instruction used here.

use super::Half;
use super::int8::{Int8Rows, TILE};
use super::tile::{LANES, Line, Place, ROWS};
use super::unpack::{expand, int8_dots};
use crate::quant::TensorType;
use half::bf16;
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm256_loadu_si256, _mm512_add_ps, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi16,
    _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_storeu_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::ops::Range;

/// Shows that the processor has AVX-512 F, BW, BF16 and VNNI. No processor has BF16 without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512(());

/// Declares a method that calls the function of the same name and arguments, which is compiled with the instructions.
macro_rules! dispatched {
    ($(#[$doc:meta])* fn $name:ident$(<$($l:lifetime),*>)?($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$doc])*
        pub(super) fn $name$(<$($l),*>)?(self, $($arg: $ty),*) $(-> $ret)? {
            // SAFETY: `self` shows that the processor has the instructions.
            #[allow(unsafe_code)]
            unsafe {
                $name($($arg),*)
            }
        }
    };
}

impl Avx512 {
    /// None where the instructions are missing.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    dispatched! {
        /// Rounds whole lines of a row, to lines `stride` apart; returns how many that were.
        fn round(row: &[f32], lines: &mut [Line], stride: usize) -> usize
    }

    dispatched! {
        /// As `kernel::pack_pairs`, of whole pairs and whole lines; returns how many pairs that were, and lines of each.
        fn pack_pairs(weight: Half<'_>, columns: &Range<usize>, lines: &mut [Line], strip: usize) -> (usize, usize)
    }

    dispatched! {
        /// Turns whole squares of 16 rows by 16 pairs into vector `vector` of the panel; returns how many pairs that
        /// were.
        fn pack_rows(rows: &[&[bf16]; LANES], depth: usize, vector: usize, vectors: usize, panel: &mut [u32]) -> usize
    }

    dispatched! {
        /// Makes pairs of two rows; returns how many.
        fn interleave(low: &[bf16], high: &[bf16], packed: &mut [u32]) -> usize
    }

    dispatched! {
        /// `out[r][t] = w[r] . x[t]` for up to 4 rows `w` and up to 4 rows of rounded `x`.
        fn dots(w: &[&[bf16]], x: &[&[u32]]) -> [[f32; 4]; 4]
    }

    dispatched! {
        /// As `unpack::expand`.
        fn expand(dtype: TensorType, row: &[u8], start: usize, values: &mut [bf16]) -> usize
    }

    dispatched! {
        /// As `unpack::int8_dots`.
        fn int8_dots(dtype: TensorType, row: &[u8], x: &Int8Rows, tokens: Range<usize>, sums: &mut [f32; TILE]) -> usize
    }

    /// As `kernel::tile`.
    ///
    /// # Safety
    /// That of `kernel::tile`.
    #[allow(unsafe_code)]
    pub(super) unsafe fn tile(self, x: &[&[u32]], panel: &[u32], vectors: usize, place: Place, add: bool) {
        let Self(()) = self;
        // SAFETY: `self` shows that the processor has the instructions; the rest is the caller's.
        unsafe {
            match vectors {
                1 => tile_of::<1>(x, panel, place, add),
                2 => tile_of::<2>(x, panel, place, add),
                3 => tile_of::<3>(x, panel, place, add),
                _ => tile_of::<4>(x, panel, place, add),
            }
        }
    }
}

/// Sixteen pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn load(pairs: &[u32; LANES]) -> __m512i {
    // SAFETY: the array is as long as the vector, and the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_si512(pairs.as_ptr().cast())
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn store(pairs: &mut [u32; LANES], vector: __m512i) {
    // SAFETY: the array is as long as the vector, and the store needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_storeu_si512(pairs.as_mut_ptr().cast(), vector);
    }
}

/// Up to 32 numbers, the missing ones zero.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn load_halves(x: &[bf16]) -> __m512i {
    let mask = if x.len() >= 32 { u32::MAX } else { (1 << x.len()) - 1 };
    // SAFETY: the mask leaves out what the slice does not hold; lanes that are masked out are not accessed.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_maskz_loadu_epi16(mask, x.as_ptr().cast())
    }
}

/// The same bits, as 32 numbers in bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn halves(vector: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute(vector)
    }
}

/// The same bits, as 16 pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn pairs(vector: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes without invalid values.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute(vector)
    }
}

/// The bits of 16 numbers, each in the low half of a pair.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn widened(x: &[bf16; LANES]) -> __m512i {
    // SAFETY: the array is as long as the vector, and the load needs no alignment.
    #[allow(unsafe_code)]
    let bits = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
    _mm512_cvtepu16_epi32(bits)
}

/// `sum + a . b`, pair by pair.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn multiply_add(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    _mm512_dpbf16_ps(sum, halves(a), halves(b))
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn round(row: &[f32], lines: &mut [Line], stride: usize) -> usize {
    let numbers = row.as_chunks::<{ 2 * LANES }>().0;
    for (x, line) in numbers.iter().zip(lines.iter_mut().step_by(stride)) {
        let (low, high) = x.split_at(LANES);
        // SAFETY: each half is as long as the vector, and the loads need no alignment.
        #[allow(unsafe_code)]
        let (low, high) = unsafe { (_mm512_loadu_ps(low.as_ptr()), _mm512_loadu_ps(high.as_ptr())) };
        store(&mut line.0, pairs(_mm512_cvtne2ps_pbh(high, low)));
    }
    numbers.len()
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_pairs(weight: Half<'_>, columns: &Range<usize>, lines: &mut [Line], strip: usize) -> (usize, usize) {
    let (pairs, strips) = (weight.rows / 2, columns.len() / LANES);
    for pair in 0..pairs {
        let row = |row: usize| weight.row(row)[columns.clone()].as_chunks::<LANES>().0;
        let (low, high) = (row(2 * pair), row(2 * pair + 1));
        for ((low, high), line) in low.iter().zip(high).zip(lines[pair..].iter_mut().step_by(strip)) {
            let (low, high) = (widened(low), widened(high));
            store(&mut line.0, _mm512_or_si512(low, _mm512_slli_epi32::<16>(high)));
        }
    }
    (pairs, strips)
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_rows(rows: &[&[bf16]; LANES], depth: usize, vector: usize, vectors: usize, panel: &mut [u32]) -> usize {
    let columns = rows[0].len().min(2 * depth);
    if rows.iter().any(|row| row.len() < columns) {
        return 0;
    }
    let squares = columns / (2 * LANES);
    let packed = panel.as_chunks_mut::<LANES>().0;
    for square in 0..squares {
        let mut r = [_mm512_setzero_si512(); LANES];
        for (r, row) in r.iter_mut().zip(rows) {
            *r = load_halves(&row[square * 2 * LANES..][..2 * LANES]);
        }
        for (pair, turned) in turn(r).into_iter().enumerate() {
            store(&mut packed[(square * LANES + pair) * vectors + vector], turned);
        }
    }
    squares * LANES
}

/// The transpose of 16 vectors of 16 pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn turn(mut r: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut t = r;
    for j in 0..8 {
        t[2 * j] = _mm512_unpacklo_epi32(r[2 * j], r[2 * j + 1]);
        t[2 * j + 1] = _mm512_unpackhi_epi32(r[2 * j], r[2 * j + 1]);
    }
    for j in (0..16).step_by(4) {
        r[j] = _mm512_unpacklo_epi64(t[j], t[j + 2]);
        r[j + 1] = _mm512_unpackhi_epi64(t[j], t[j + 2]);
        r[j + 2] = _mm512_unpacklo_epi64(t[j + 1], t[j + 3]);
        r[j + 3] = _mm512_unpackhi_epi64(t[j + 1], t[j + 3]);
    }
    for j in 0..4 {
        t[j] = _mm512_shuffle_i32x4::<0x88>(r[j], r[j + 4]);
        t[j + 4] = _mm512_shuffle_i32x4::<0xdd>(r[j], r[j + 4]);
        t[j + 8] = _mm512_shuffle_i32x4::<0x88>(r[j + 8], r[j + 12]);
        t[j + 12] = _mm512_shuffle_i32x4::<0xdd>(r[j + 8], r[j + 12]);
    }
    for j in 0..8 {
        r[j] = _mm512_shuffle_i32x4::<0x88>(t[j], t[j + 8]);
        r[j + 8] = _mm512_shuffle_i32x4::<0xdd>(t[j], t[j + 8]);
    }
    r
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn interleave(low: &[bf16], high: &[bf16], packed: &mut [u32]) -> usize {
    let n = low.len().min(high.len()).min(packed.len());
    for ((packed, low), high) in packed[..n].iter_mut().zip(&low[..n]).zip(&high[..n]) {
        *packed = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    }
    n
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[allow(unsafe_code)]
#[inline]
unsafe fn tile_of<const V: usize>(x: &[&[u32]], panel: &[u32], place: Place, add: bool) {
    // SAFETY: the caller's.
    unsafe {
        match *x {
            [a] => sums::<_, V>([a], panel).put(place, add),
            [a, b] => sums::<_, V>([a, b], panel).put(place, add),
            [a, b, c] => sums::<_, V>([a, b, c], panel).put(place, add),
            [a, b, c, d] => sums::<_, V>([a, b, c, d], panel).put(place, add),
            [a, b, c, d, e] => sums::<_, V>([a, b, c, d, e], panel).put(place, add),
            [a, b, c, d, e, f] => sums::<_, V>([a, b, c, d, e, f], panel).put(place, add),
            _ => unreachable!("a tile has 1 to {ROWS} rows"),
        }
    }
}

/// Sums of `R x V` vectors.
struct Sums<const R: usize, const V: usize>([[__m512; V]; R]);

/// The products of rows `x` and a panel of `V` vectors, both as deep.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn sums<const R: usize, const V: usize>(x: [&[u32]; R], panel: &[u32]) -> Sums<R, V> {
    let panel = panel.as_chunks::<LANES>().0.as_chunks::<V>().0;
    let x = x.map(|row| &row[..panel.len()]);
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for (i, columns) in panel.iter().enumerate() {
        let mut vectors = [_mm512_setzero_si512(); V];
        for (vector, pairs) in vectors.iter_mut().zip(columns) {
            *vector = load(pairs);
        }
        for (sums, row) in sums.iter_mut().zip(&x) {
            let pair = _mm512_set1_epi32(row[i] as i32);
            for (sum, vector) in sums.iter_mut().zip(&vectors) {
                *sum = multiply_add(*sum, pair, *vector);
            }
        }
    }
    Sums(sums)
}

impl<const R: usize, const V: usize> Sums<R, V> {
    /// Writes them or, with `add`, adds them.
    ///
    /// # Safety
    /// `place` is valid for writes of `R` rows that no one else uses; with `add` they are initialised.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[allow(unsafe_code)]
    #[inline]
    unsafe fn put(self, place: Place, add: bool) {
        for (r, sums) in self.0.into_iter().enumerate() {
            for (v, mut sum) in sums.into_iter().enumerate() {
                let columns = place.columns.saturating_sub(v * LANES).min(LANES);
                let mask = ((1u32 << columns) - 1) as u16;
                // SAFETY: the mask leaves out what is beyond the columns of the place; lanes that are masked out are
                // not accessed. The pointer stays in the row, or points one vector past it with an empty mask.
                unsafe {
                    let at = place.at.wrapping_add(r * place.stride + v * LANES);
                    if add {
                        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sum);
                    }
                    _mm512_mask_storeu_ps(at, mask, sum);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn dots(w: &[&[bf16]], x: &[&[u32]]) -> [[f32; 4]; 4] {
    if let (&[a, b, c, d], &[e, f, g, h]) = (w, x) {
        return dots_of([a, b, c, d], [e, f, g, h]);
    }
    // Fewer tokens wait for the weight: rows are read one after the other, as they lie in memory.
    let mut all = [[0.0; 4]; 4];
    for (all, w) in all.iter_mut().zip(w) {
        for (sum, x) in all.iter_mut().zip(x) {
            *sum = dots_of([w], [x])[0][0];
        }
    }
    all
}

/// The products of `R` rows of a weight and `T` rounded rows that are padded with zeros to whole vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn dots_of<const R: usize, const T: usize>(w: [&[bf16]; R], x: [&[u32]; T]) -> [[f32; 4]; 4] {
    let width = w[0].len();
    let w = w.map(|row| &row[..width]);
    let x = x.map(|row| &row.as_chunks::<LANES>().0[..width.div_ceil(2 * LANES)]);
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    for i in 0..width.div_ceil(2 * LANES) {
        let mut vectors = [_mm512_setzero_si512(); T];
        for (vector, row) in vectors.iter_mut().zip(&x) {
            *vector = load(&row[i]);
        }
        for (sums, row) in sums.iter_mut().zip(&w) {
            let row = load_halves(&row[i * 2 * LANES..]);
            for (sum, x) in sums.iter_mut().zip(&vectors) {
                *sum = multiply_add(*sum, row, *x);
            }
        }
    }
    let mut all = [[0.0; 4]; 4];
    for (all, sums) in all.iter_mut().zip(sums) {
        for (all, sum) in all.iter_mut().zip(sums) {
            *all = _mm512_reduce_add_ps(sum);
        }
    }
    all
}
