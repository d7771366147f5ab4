//! Quantised blocks in AVX-512: 64 numbers at a time, as unsigned integers with a scale and an offset for every 16. In:
//! a row as it is stored; out: its numbers in bf16, or sums of products with 8-bit integers. Invariant: number `k` of a
//! group is `scales[k / 16] * integers[k] - offsets[k / 16]`, whatever the storage type.

use super::int8::{GROUP, Int8Group, Int8Rows, TILE};
use crate::quant::TensorType;
use half::bf16;
use std::arch::x86_64::{
    __m128, __m128i, __m256i, __m512, __m512bh, __m512i, _mm_cvtepi8_epi32, _mm_cvtepi32_ps, _mm_cvtepu8_epi32,
    _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_fmadd_ps, _mm_hadd_ps, _mm_loadu_ps, _mm_loadu_si128,
    _mm_mul_ps, _mm_permute_ps, _mm_set1_ps, _mm_setzero_ps, _mm_sub_ps, _mm256_and_si256, _mm256_loadu_si256,
    _mm256_or_si256, _mm256_permute2x128_si256, _mm256_set_m128i, _mm256_set1_epi8, _mm256_slli_epi16,
    _mm256_srli_epi16, _mm512_castps128_ps512, _mm512_castsi256_si512, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32,
    _mm512_cvtne2ps_pbh, _mm512_dpbusd_epi32, _mm512_extracti32x4_epi32, _mm512_fmadd_ps, _mm512_fmsub_ps,
    _mm512_inserti64x4, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_add_epi8, _mm512_mul_ps,
    _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setr_epi32,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_si512, _mm512_xor_si512,
};
use std::ops::Range;

/// The storage types as numbers, so that a function is compiled for each.
const Q4_0: u8 = 0;
const Q4_1: u8 = 1;
const Q5_0: u8 = 2;
const Q5_1: u8 = 3;
const Q8_0: u8 = 4;
const Q4_K: u8 = 5;
const Q5_K: u8 = 6;
const Q6_K: u8 = 7;

/// Calls a function with the number of a storage type; `$none` for types that are no quantised blocks.
macro_rules! by_type {
    ($dtype:expr, $none:expr, $f:ident::<_ $(, $more:tt)*>($($arg:expr),*)) => {
        match $dtype {
            TensorType::Q4_0 => $f::<Q4_0 $(, $more)*>($($arg),*),
            TensorType::Q4_1 => $f::<Q4_1 $(, $more)*>($($arg),*),
            TensorType::Q5_0 => $f::<Q5_0 $(, $more)*>($($arg),*),
            TensorType::Q5_1 => $f::<Q5_1 $(, $more)*>($($arg),*),
            TensorType::Q8_0 => $f::<Q8_0 $(, $more)*>($($arg),*),
            TensorType::Q4_K => $f::<Q4_K $(, $more)*>($($arg),*),
            TensorType::Q5_K => $f::<Q5_K $(, $more)*>($($arg),*),
            TensorType::Q6_K => $f::<Q6_K $(, $more)*>($($arg),*),
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => $none,
        }
    };
}

/// 64 numbers of a row.
struct Group {
    integers: __m512i,
    scales: __m128,
    offsets: __m128,
}

/// Writes numbers of a row from number `start` on, a multiple of 64, to `values`: whole groups; returns how many
/// numbers that were.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
pub(super) fn expand(dtype: TensorType, row: &[u8], start: usize, values: &mut [bf16]) -> usize {
    by_type!(dtype, 0, expand_of::<_>(row, start, values))
}

/// Adds the products of a row and rows `tokens` of `x`, at most 4 of them, to the first of `sums`: whole groups;
/// returns how many numbers of the row that were.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
pub(super) fn int8_dots(
    dtype: TensorType,
    row: &[u8],
    x: &Int8Rows,
    tokens: Range<usize>,
    sums: &mut [f32; TILE],
) -> usize {
    if tokens.len() == TILE {
        return by_type!(dtype, 0, dots_of::<_, TILE>(row, x, tokens.start, sums));
    }
    let mut done = 0;
    for (token, sum) in tokens.zip(sums) {
        done = by_type!(dtype, 0, dots_of::<_, 1>(row, x, token, std::array::from_mut(sum)));
    }
    done
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn expand_of<const TYPE: u8>(row: &[u8], start: usize, values: &mut [bf16]) -> usize {
    let groups = values.as_chunks_mut::<GROUP>().0;
    let count = groups.len();
    for (i, values) in groups.iter_mut().enumerate() {
        let Group { integers, scales, offsets } = unpack::<TYPE>(row, start / GROUP + i);
        let (scales, offsets) = (_mm512_castps128_ps512(scales), _mm512_castps128_ps512(offsets));
        let quarters = [
            _mm512_extracti32x4_epi32::<0>(integers),
            _mm512_extracti32x4_epi32::<1>(integers),
            _mm512_extracti32x4_epi32::<2>(integers),
            _mm512_extracti32x4_epi32::<3>(integers),
        ];
        let mut numbers = [_mm512_setzero_ps(); 4];
        for (k, number) in numbers.iter_mut().enumerate() {
            let integers = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(quarters[k]));
            let k = _mm512_set1_epi32(k as i32);
            let (scale, offset) = (_mm512_permutexvar_ps(k, scales), _mm512_permutexvar_ps(k, offsets));
            *number = _mm512_fmsub_ps(integers, scale, offset);
        }
        let (low, high) = values.split_at_mut(GROUP / 2);
        put(low, numbers[0], numbers[1]);
        put(high, numbers[2], numbers[3]);
    }
    count * GROUP
}

/// Rounds 32 numbers to bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn put(values: &mut [bf16], first: __m512, second: __m512) {
    let values = &mut values[..GROUP / 2];
    let rounded = _mm512_cvtne2ps_pbh(second, first);
    // SAFETY: both are 64 bytes without invalid values, the slice is as long, and the store needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_storeu_si512(values.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(rounded));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn dots_of<const TYPE: u8, const T: usize>(row: &[u8], x: &Int8Rows, first: usize, sums: &mut [f32; T]) -> usize {
    let groups = x.width / GROUP;
    let fours = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let mut rows: [&[Int8Group]; T] = [&[]; T];
    for (t, row) in rows.iter_mut().enumerate() {
        *row = &x.row(first + t)[..groups];
    }
    let (mut products, mut less) = ([_mm512_setzero_ps(); T], [_mm_setzero_ps(); T]);
    for i in 0..groups {
        let Group { integers, scales, offsets } = unpack::<TYPE>(row, i);
        let scales = _mm512_permutexvar_ps(fours, _mm512_castps128_ps512(scales));
        for ((x, products), less) in rows.iter().zip(&mut products).zip(&mut less) {
            let x = &x[i];
            let product = _mm512_dpbusd_epi32(_mm512_setzero_si512(), integers, sixty_four(&x.integers));
            let scale = _mm512_mul_ps(scales, sixteen_floats(&x.scales));
            *products = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, *products);
            *less = _mm_fmadd_ps(offsets, four_floats(&x.sums), *less);
        }
    }
    for t in 0..T {
        let pairs = _mm_hadd_ps(less[t], less[t]);
        sums[t] += _mm512_reduce_add_ps(products[t]) - _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs));
    }
    groups * GROUP
}

/// Group `i` of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn unpack<const TYPE: u8>(row: &[u8], i: usize) -> Group {
    match TYPE {
        Q4_0 => small::<18, 2, TYPE>(row, i),
        Q4_1 => small::<20, 4, TYPE>(row, i),
        Q5_0 => small::<22, 6, TYPE>(row, i),
        Q5_1 => small::<24, 8, TYPE>(row, i),
        Q8_0 => q8_0(row, i),
        Q4_K => q4_k(row, i),
        Q5_K => q5_k(row, i),
        _ => q6_k(row, i),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn sixty_four(integers: &[i8; 64]) -> __m512i {
    // SAFETY: the array is as long as the vector, and the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_si512(integers.as_ptr().cast())
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn sixteen_floats(floats: &[f32; 16]) -> __m512 {
    // SAFETY: the array is as long as the vector, and the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_ps(floats.as_ptr())
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn four_floats(floats: &[f32; 4]) -> __m128 {
    // SAFETY: the array is as long as the vector, and the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm_loadu_ps(floats.as_ptr())
    }
}

/// Two numbers in half precision, each twice.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn halves(a: [u8; 2], b: [u8; 2]) -> __m128 {
    let both = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes([a[0], a[1], b[0], b[1]])));
    _mm_permute_ps::<0b01_01_00_00>(both)
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn sixteen(bytes: &[u8]) -> __m128i {
    let bytes = &bytes[..16];
    // SAFETY: the slice is as long as the vector, and the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm_loadu_si128(bytes.as_ptr().cast())
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn thirty_two(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..32];
    // SAFETY: the slice is as long as the vector, and the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().cast())
    }
}

/// The low and the high four bits of each byte.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn nibbles(bytes: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask)]
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn join([low, high]: [__m256i; 2]) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Two blocks of `BYTES` of 32 numbers in 4 or 5 bits, which begin at `AT`: in each byte number `j` and number
/// `j + 16`; fifth bits in the four bytes before.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn small<const BYTES: usize, const AT: usize, const TYPE: u8>(row: &[u8], i: usize) -> Group {
    let [first, second] = &row.as_chunks::<BYTES>().0.as_chunks::<2>().0[i];
    // From bytes of both blocks to numbers in order: the low bits of a block, then its high ones.
    let [low, high] = nibbles(_mm256_set_m128i(sixteen(&second[AT..]), sixteen(&first[AT..])));
    let firsts = _mm256_permute2x128_si256::<0x20>(low, high);
    let seconds = _mm256_permute2x128_si256::<0x31>(low, high);
    let mut integers = join([firsts, seconds]);
    if TYPE == Q5_0 || TYPE == Q5_1 {
        let fifth = |b: &[u8; BYTES]| u64::from(u32::from_le_bytes([b[AT - 4], b[AT - 3], b[AT - 2], b[AT - 1]]));
        let mask = fifth(first) | fifth(second) << 32;
        integers = _mm512_mask_add_epi8(integers, mask, integers, _mm512_set1_epi8(16));
    }
    let scales = halves([first[0], first[1]], [second[0], second[1]]);
    let offsets = match TYPE {
        Q4_0 => _mm_mul_ps(scales, _mm_set1_ps(8.0)),
        Q5_0 => _mm_mul_ps(scales, _mm_set1_ps(16.0)),
        _ => _mm_sub_ps(_mm_setzero_ps(), halves([first[2], first[3]], [second[2], second[3]])),
    };
    Group { integers, scales, offsets }
}

/// Two blocks of 32 signed bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q8_0(row: &[u8], i: usize) -> Group {
    let [first, second] = &row.as_chunks::<34>().0.as_chunks::<2>().0[i];
    let signed = join([thirty_two(&first[2..]), thirty_two(&second[2..])]);
    let scales = halves([first[0], first[1]], [second[0], second[1]]);
    // 128 more, which makes them unsigned.
    let integers = _mm512_xor_si512(signed, _mm512_set1_epi8(-128));
    Group { integers, scales, offsets: _mm_mul_ps(scales, _mm_set1_ps(128.0)) }
}

/// Scales and offsets of sub-blocks `2 i` and `2 i + 1` of a super-block of `Q4_K` or `Q5_K`: six bits each, packed into
/// 12 bytes as [`crate::quant`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of_k<const BYTES: usize>(block: &[u8; BYTES], i: usize) -> (__m128, __m128) {
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let (a, b, c) = (word(4), word(8), word(12));
    // Four scales and four offsets, a byte each.
    let (scales, offsets) = if i < 2 {
        (a & 0x3f3f_3f3f, b & 0x3f3f_3f3f)
    } else {
        (c & 0x0f0f_0f0f | (a >> 6 & 0x0303_0303) << 4, c >> 4 & 0x0f0f_0f0f | (b >> 6 & 0x0303_0303) << 4)
    };
    let shift = 16 * (i % 2);
    let pair = |bytes: u32| {
        let floats = _mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128((bytes >> shift & 0xffff) as i32)));
        _mm_permute_ps::<0b01_01_00_00>(floats)
    };
    let both = halves([block[0], block[1]], [block[2], block[3]]);
    let (d, least) = (_mm_permute_ps::<0>(both), _mm_permute_ps::<0b11_11_11_11>(both));
    (_mm_mul_ps(d, pair(scales)), _mm_mul_ps(least, pair(offsets)))
}

/// A quarter of a super-block: low bits of 32 bytes, then high bits.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q4_k(row: &[u8], i: usize) -> Group {
    let (block, quarter) = (&row.as_chunks::<144>().0[i / 4], i % 4);
    let (scales, offsets) = scales_of_k(block, quarter);
    Group { integers: join(nibbles(thirty_two(&block[16 + 32 * quarter..]))), scales, offsets }
}

/// As `q4_k`, with fifth bits in 32 bytes of their own: bit `j` of each is of sub-block `j`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q5_k(row: &[u8], i: usize) -> Group {
    let (block, quarter) = (&row.as_chunks::<176>().0[i / 4], i % 4);
    let (scales, offsets) = scales_of_k(block, quarter);
    let (fifth, [low, high]) = (thirty_two(&block[16..]), nibbles(thirty_two(&block[48 + 32 * quarter..])));
    let mask = |bit: usize| _mm256_and_si256(fifth, _mm256_set1_epi8((1u8 << bit).cast_signed()));
    // The bit of a byte is moved to bit 4; what passes from byte to byte is masked out.
    let at_four = |bit: usize| {
        let shifted = match bit {
            0 => _mm256_slli_epi16::<4>(mask(0)),
            1 => _mm256_slli_epi16::<3>(mask(1)),
            2 => _mm256_slli_epi16::<2>(mask(2)),
            3 => _mm256_slli_epi16::<1>(mask(3)),
            4 => mask(4),
            5 => _mm256_srli_epi16::<1>(mask(5)),
            6 => _mm256_srli_epi16::<2>(mask(6)),
            _ => _mm256_srli_epi16::<3>(mask(7)),
        };
        _mm256_and_si256(shifted, _mm256_set1_epi8(16))
    };
    let pair = [_mm256_or_si256(low, at_four(2 * quarter)), _mm256_or_si256(high, at_four(2 * quarter + 1))];
    Group { integers: join(pair), scales, offsets }
}

/// A quarter of a super-block: 32 numbers each of two of the four groups of a half, low bits in 64 bytes, two upper
/// bits in 32, a signed scale for each 16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q6_k(row: &[u8], i: usize) -> Group {
    let (block, half, upper) = (&row.as_chunks::<210>().0[i / 4], i % 4 / 2, i % 2 == 1);
    let (low, high) = (&block[64 * half..][..64], thirty_two(&block[128 + 32 * half..]));
    let [first, second] = [nibbles(thirty_two(low)), nibbles(thirty_two(&low[32..]))];
    let mask = _mm256_set1_epi8(0x30);
    // Two bits of each byte, moved to bits 4 and 5.
    let (bits, pair) = if upper {
        ([high, _mm256_srli_epi16::<2>(high)], [first[1], second[1]])
    } else {
        ([_mm256_slli_epi16::<4>(high), _mm256_slli_epi16::<2>(high)], [first[0], second[0]])
    };
    let bits = bits.map(|bits| _mm256_and_si256(bits, mask));
    let d = _mm_permute_ps::<0>(halves([block[208], block[209]], [0, 0]));
    let at = 192 + 8 * half + 4 * usize::from(upper);
    let four = i32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let scales = _mm_mul_ps(d, _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four))));
    Group {
        integers: join([_mm256_or_si256(pair[0], bits[0]), _mm256_or_si256(pair[1], bits[1])]),
        scales,
        offsets: _mm_mul_ps(scales, _mm_set1_ps(32.0)),
    }
}
