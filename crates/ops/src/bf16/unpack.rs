//! Quantised blocks in AVX-512: 64 numbers at a time, as unsigned integers with a scale and an offset for every 16. In:
//! a row as it is stored; out: its numbers in bf16, or sums of products with 8-bit integers. Invariant: number `k` of a
//! group is `scales[k / 16] * integers[k] - offsets[k / 16]`, whatever the storage type.

use super::blocks::{GROUP, Int8Rows, TILE};
use crate::quant::{TensorType, scale_min};
use half::bf16;
use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_fmadd_ps, _mm_hadd_ps,
    _mm_loadu_ps, _mm_loadu_si128, _mm_setzero_ps, _mm256_and_si256, _mm256_loadu_si256, _mm256_or_si256,
    _mm256_permute2x128_si256, _mm256_set_m128i, _mm256_set1_epi8, _mm256_slli_epi16, _mm256_srli_epi16, _mm512_castps128_ps512,
    _mm512_castsi256_si512, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtne2ps_pbh, _mm512_dpbusd_epi32,
    _mm512_extracti32x4_epi32, _mm512_fmadd_ps, _mm512_fmsub_ps, _mm512_inserti64x4, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_add_epi8, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi8, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_si512,
    _mm512_xor_si512,
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
    scales: [f32; 4],
    offsets: [f32; 4],
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
    match tokens.len() {
        1 => by_type!(dtype, 0, dots_of::<_, 1>(row, x, tokens.start, sums)),
        2 => by_type!(dtype, 0, dots_of::<_, 2>(row, x, tokens.start, sums)),
        3 => by_type!(dtype, 0, dots_of::<_, 3>(row, x, tokens.start, sums)),
        4 => by_type!(dtype, 0, dots_of::<_, 4>(row, x, tokens.start, sums)),
        _ => 0,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn expand_of<const TYPE: u8>(row: &[u8], start: usize, values: &mut [bf16]) -> usize {
    let groups = values.as_chunks_mut::<GROUP>().0;
    let count = groups.len();
    for (i, values) in groups.iter_mut().enumerate() {
        let Group { integers, scales, offsets } = unpack::<TYPE>(row, start / GROUP + i);
        let quarters = [
            _mm512_extracti32x4_epi32::<0>(integers),
            _mm512_extracti32x4_epi32::<1>(integers),
            _mm512_extracti32x4_epi32::<2>(integers),
            _mm512_extracti32x4_epi32::<3>(integers),
        ];
        let mut numbers = [_mm512_setzero_ps(); 4];
        for (k, number) in numbers.iter_mut().enumerate() {
            let integers = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(quarters[k]));
            *number = _mm512_fmsub_ps(integers, _mm512_set1_ps(scales[k]), _mm512_set1_ps(offsets[k]));
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
        _mm512_storeu_si512(values.as_mut_ptr().cast(), std::mem::transmute::<_, __m512i>(rounded));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn dots_of<const TYPE: u8, const T: usize>(row: &[u8], x: &Int8Rows, first: usize, sums: &mut [f32; TILE]) -> usize {
    let groups = x.width / GROUP;
    let fours = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let starts: [usize; T] = std::array::from_fn(|t| (first + t) * x.groups);
    let integers = starts.map(|start| &x.integers.as_chunks::<GROUP>().0[start..start + groups]);
    let scales = starts.map(|start| &x.scales.as_chunks::<{ GROUP / 4 }>().0[start..start + groups]);
    let offsets = starts.map(|start| &x.sums.as_chunks::<{ GROUP / 16 }>().0[start..start + groups]);
    let (mut products, mut less) = ([_mm512_setzero_ps(); T], [_mm_setzero_ps(); T]);
    for i in 0..groups {
        let group = unpack::<TYPE>(row, i);
        // SAFETY: the arrays are as long as the vectors, and the loads need no alignment.
        #[allow(unsafe_code)]
        let (scale, offset) = unsafe { (_mm_loadu_ps(group.scales.as_ptr()), _mm_loadu_ps(group.offsets.as_ptr())) };
        let scale = _mm512_permutexvar_ps(fours, _mm512_castps128_ps512(scale));
        for t in 0..T {
            // SAFETY: the arrays are as long as the vectors, and the loads need no alignment.
            #[allow(unsafe_code)]
            let (x, x_scale, x_sum) = unsafe {
                let x = _mm512_loadu_si512(integers[t][i].as_ptr().cast());
                (x, _mm512_loadu_ps(scales[t][i].as_ptr()), _mm_loadu_ps(offsets[t][i].as_ptr()))
            };
            let product = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), group.integers, x));
            products[t] = _mm512_fmadd_ps(product, _mm512_mul_ps(scale, x_scale), products[t]);
            less[t] = _mm_fmadd_ps(offset, x_sum, less[t]);
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

/// The number in half precision at `at`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn half_at(block: &[u8], at: usize) -> f32 {
    let bits = u16::from_le_bytes([block[at], block[at + 1]]);
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
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
    let blocks = &row[2 * i * BYTES..][..2 * BYTES];
    let (first, second) = blocks.split_at(BYTES);
    // From bytes of both blocks to numbers in order: the low bits of a block, then its high ones.
    let [low, high] = nibbles(_mm256_set_m128i(sixteen(&second[AT..]), sixteen(&first[AT..])));
    let firsts = _mm256_permute2x128_si256::<0x20>(low, high);
    let seconds = _mm256_permute2x128_si256::<0x31>(low, high);
    let mut integers = join([firsts, seconds]);
    if TYPE == Q5_0 || TYPE == Q5_1 {
        let fifth = |b: &[u8]| u64::from(u32::from_le_bytes([b[AT - 4], b[AT - 3], b[AT - 2], b[AT - 1]]));
        let mask = fifth(first) | fifth(second) << 32;
        integers = _mm512_mask_add_epi8(integers, mask, integers, _mm512_set1_epi8(16));
    }
    let (a, b) = (half_at(first, 0), half_at(second, 0));
    let (c, d) = match TYPE {
        Q4_0 => (8.0 * a, 8.0 * b),
        Q5_0 => (16.0 * a, 16.0 * b),
        _ => (-half_at(first, 2), -half_at(second, 2)),
    };
    Group { integers, scales: [a, a, b, b], offsets: [c, c, d, d] }
}

/// Two blocks of 32 signed bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q8_0(row: &[u8], i: usize) -> Group {
    let (first, second) = row[68 * i..][..68].split_at(34);
    let signed = join([thirty_two(&first[2..]), thirty_two(&second[2..])]);
    let (a, b) = (half_at(first, 0), half_at(second, 0));
    Group {
        // 128 more, which makes them unsigned.
        integers: _mm512_xor_si512(signed, _mm512_set1_epi8(-128)),
        scales: [a, a, b, b],
        offsets: [128.0 * a, 128.0 * a, 128.0 * b, 128.0 * b],
    }
}

/// Scales and offsets of sub-blocks `2 i` and `2 i + 1` of a super-block of Q4_K or Q5_K.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of_k(block: &[u8], i: usize) -> ([f32; 4], [f32; 4]) {
    let (d, least) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    let ((a, b), (c, e)) = (scale_min(2 * i, packed), scale_min(2 * i + 1, packed));
    ([d * a, d * a, d * c, d * c], [least * b, least * b, least * e, least * e])
}

/// A quarter of a super-block: low bits of 32 bytes, then high bits.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q4_k(row: &[u8], i: usize) -> Group {
    let (block, quarter) = (&row[i / 4 * 144..][..144], i % 4);
    let (scales, offsets) = scales_of_k(block, quarter);
    Group { integers: join(nibbles(thirty_two(&block[16 + 32 * quarter..]))), scales, offsets }
}

/// As `q4_k`, with fifth bits in 32 bytes of their own: bit `j` of each is of sub-block `j`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q5_k(row: &[u8], i: usize) -> Group {
    let (block, quarter) = (&row[i / 4 * 176..][..176], i % 4);
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
    let (block, half, upper) = (&row[i / 4 * 210..][..210], i % 4 / 2, i % 2 == 1);
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
    let d = half_at(block, 208);
    let scales: [f32; 4] =
        std::array::from_fn(|k| d * f32::from(block[192 + 8 * half + 4 * usize::from(upper) + k].cast_signed()));
    Group {
        integers: join([_mm256_or_si256(pair[0], bits[0]), _mm256_or_si256(pair[1], bits[1])]),
        scales,
        offsets: scales.map(|scale| 32.0 * scale),
    }
}
