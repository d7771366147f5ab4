//! De-quantisation of GGUF's storage types to f32. In: stored bytes; out: their values. Invariant: the same float
//! operations in the same order as the `gguf` Python package (and ggml's scalar code), so the results are equal bit for
//! bit.

use crate::slices;
use half::{bf16, f16};

/// Storage types that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)] // ggml's names
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Elements of a K-quant super-block.
const QK_K: usize = 256;
/// Blocks that one task converts at least: enough work to be worth a thread.
const BLOCKS_PER_TASK: usize = 512;

impl TensorType {
    /// Elements of a block.
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => QK_K,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }
}

/// The values stored in `bytes`: whole blocks, as many as `bytes` holds. In parallel.
pub fn dequantize(dtype: TensorType, bytes: &[u8]) -> Vec<f32> {
    let (block, block_bytes) = (dtype.block(), dtype.block_bytes());
    let task = BLOCKS_PER_TASK.max((1 << 14) / block);
    slices::filled(bytes.len() / block_bytes * block, task * block, |i, values| {
        let bytes = &bytes[i * task * block_bytes..][..values.len() / block * block_bytes];
        dequantize_into(dtype, bytes, values);
    })
}

/// Writes the values stored in `bytes` to `values`, which holds as many as the blocks do.
///
/// # Panics
/// When it does not.
pub fn dequantize_into(dtype: TensorType, bytes: &[u8], values: &mut [f32]) {
    assert_eq!(bytes.len() / dtype.block_bytes() * dtype.block(), values.len(), "values are not as many as stored");
    match dtype {
        TensorType::F32 => blocks(bytes, values, |[a, b, c, d]: &[u8; 4], y: &mut [f32; 1]| {
            y[0] = f32::from_le_bytes([*a, *b, *c, *d]);
        }),
        TensorType::F16 => {
            blocks(bytes, values, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = f16::from_le_bytes(*b).to_f32());
        }
        TensorType::BF16 => {
            blocks(bytes, values, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = bf16::from_le_bytes(*b).to_f32());
        }
        TensorType::Q4_0 => blocks(bytes, values, q4_0),
        TensorType::Q4_1 => blocks(bytes, values, q4_1),
        TensorType::Q5_0 => blocks(bytes, values, q5_0),
        TensorType::Q5_1 => blocks(bytes, values, q5_1),
        TensorType::Q8_0 => blocks(bytes, values, q8_0),
        TensorType::Q4_K => blocks(bytes, values, q4_k),
        TensorType::Q5_K => blocks(bytes, values, q5_k),
        TensorType::Q6_K => blocks(bytes, values, q6_k),
    }
}

/// Converts blocks of `B` bytes to `N` values each.
fn blocks<const B: usize, const N: usize>(bytes: &[u8], values: &mut [f32], convert: impl Fn(&[u8; B], &mut [f32; N])) {
    for (block, values) in bytes.as_chunks::<B>().0.iter().zip(values.as_chunks_mut::<N>().0) {
        convert(block, values);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q4_0(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (j, q) in block[2..].iter().enumerate() {
        y[j] = d * (f32::from(q & 15) - 8.0);
        y[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, q) in block[4..].iter().enumerate() {
        y[j] = d * f32::from(q & 15) + m;
        y[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// The 5-bit numbers of a block: low nibbles in `low`, fifth bits in `high`.
fn five_bits(low: &[u8], high: u32, mut put: impl FnMut(usize, f32)) {
    for (j, q) in low.iter().enumerate() {
        let (first, second) = ((high >> j & 1) as u8, (high >> (j + 16) & 1) as u8);
        put(j, f32::from(q & 15 | first << 4));
        put(j + 16, f32::from(q >> 4 | second << 4));
    }
}

fn q5_0(block: &[u8; 22], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    five_bits(&block[6..], high, |j, q| y[j] = d * (q - 16.0));
}

fn q5_1(block: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    five_bits(&block[8..], high, |j, q| y[j] = d * q + m);
}

fn q8_0(block: &[u8; 34], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (y, q) in y.iter_mut().zip(&block[2..]) {
        *y = f32::from(*q as i8) * d;
    }
}

/// Scale and minimum of sub-block `j` (0..8), six bits each, packed into 12 bytes: four low pairs first, then the low
/// nibbles of the other four, whose upper two bits are in the upper bits of the first eight bytes.
fn scale_min(j: usize, packed: &[u8]) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8; 144], y: &mut [f32; QK_K]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = block[4..].split_at(12);
    for (pair, (y, q)) in y.chunks_exact_mut(64).zip(quants.chunks_exact(32)).enumerate() {
        let (s0, m0) = scale_min(2 * pair, packed);
        let (s1, m1) = scale_min(2 * pair + 1, packed);
        let (d0, m0, d1, m1) = (d * s0, dmin * m0, d * s1, dmin * m1);
        let (low, high) = y.split_at_mut(32);
        for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
            *low = d0 * f32::from(q & 15) - m0;
            *high = d1 * f32::from(q >> 4) - m1;
        }
    }
}

fn q5_k(block: &[u8; 176], y: &mut [f32; QK_K]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, rest) = block[4..].split_at(12);
    let (fifth, quants) = rest.split_at(32);
    for (pair, (y, q)) in y.chunks_exact_mut(64).zip(quants.chunks_exact(32)).enumerate() {
        let (s0, m0) = scale_min(2 * pair, packed);
        let (s1, m1) = scale_min(2 * pair + 1, packed);
        let (d0, m0, d1, m1) = (d * s0, dmin * m0, d * s1, dmin * m1);
        let (low, high) = y.split_at_mut(32);
        for (((low, high), q), fifth) in low.iter_mut().zip(high).zip(q).zip(fifth) {
            let bits = fifth >> (2 * pair);
            *low = d0 * f32::from(q & 15 | (bits & 1) << 4) - m0;
            *high = d1 * f32::from(q >> 4 | (bits >> 1 & 1) << 4) - m1;
        }
    }
}

fn q6_k(block: &[u8; 210], y: &mut [f32; QK_K]) {
    let d = half_at(block, 208);
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let scales = &rest[..16];
    // Two halves of 128: four groups of 32, nibbles from 64 bytes of `low`, two upper bits from 32 bytes of `high`.
    for half in 0..2 {
        let (low, high, scales) = (&low[half * 64..], &high[half * 32..], &scales[half * 8..]);
        let y = &mut y[half * 128..][..128];
        for l in 0..32 {
            let quads = [low[l] & 15, low[l + 32] & 15, low[l] >> 4, low[l + 32] >> 4];
            for (group, nibble) in quads.into_iter().enumerate() {
                let q = (nibble | (high[l] >> (2 * group) & 3) << 4) as i8 - 32;
                let scale = d * f32::from(scales[2 * group + l / 16] as i8);
                y[32 * group + l] = scale * f32::from(q);
            }
        }
    }
}
