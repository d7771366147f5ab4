//! Weights of 8-bit floats (e4m3), as checkpoints in FP8 have them. In: a matrix's bytes and its scales; out: f32.
//! Invariant: every element gets one scale: its tensor's, its row's, or that of its block of 128 x 128.

use crate::{Error, Result};
use rayon::prelude::*;

/// Rows and columns that share a scale, in the checkpoints of `DeepSeek` and Qwen.
const BLOCK: usize = 128;

/// The value of a byte: a sign, four bits of exponent and three of mantissa; without infinities, and with one NaN.
pub(super) fn value(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 128 == 0 { size } else { -size }
}

/// A matrix of `cols` columns, multiplied by its scales of shape `of`.
///
/// # Errors
/// Scales of another shape than one, one for each row, or one for each block.
pub(super) fn expand(bytes: &[u8], [rows, cols]: [usize; 2], scales: &[f32], of: &[usize]) -> Result<Vec<f32>> {
    let across = cols.div_ceil(BLOCK);
    let by_block = of == [rows.div_ceil(BLOCK), across];
    let by_row = of == [rows] || of == [rows, 1];
    if !(by_block || by_row || scales.len() == 1) {
        return Err(Error::request(format!("its scales have shape {of:?}, for a matrix of {rows} x {cols}"))
            .hint("supported are one scale, one for each row, and one for each block of 128 x 128"));
    }
    let scale = |row: usize, col: usize| match (scales.len(), by_block) {
        (1, _) => scales[0],
        (_, true) => scales[row / BLOCK * across + col / BLOCK],
        _ => scales[row],
    };
    let mut values = vec![0.0; rows * cols];
    values.par_chunks_mut(cols).zip(bytes.par_chunks(cols)).enumerate().for_each(|(row, (values, bytes))| {
        for (col, (out, byte)) in values.iter_mut().zip(bytes).enumerate() {
            *out = value(*byte) * scale(row, col);
        }
    });
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By torch: `torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()`.
    #[test]
    fn bytes_are_the_values_that_torch_gives_them() {
        let known = [(0x00, 0.0), (0x01, 0.001_953_125), (0x07, 0.013_671_875), (0x08, 0.015_625), (0x38, 1.0)];
        for (byte, expected) in known.into_iter().chain([(0x39, 1.125), (0x7e, 448.0), (0xb8, -1.0), (0xfe, -448.0)]) {
            assert_eq!(value(byte).to_bits(), f32::to_bits(expected), "{byte:#x}");
        }
        assert!(value(0x7f).is_nan() && value(0xff).is_nan());
        let finite: f64 = (0..=255).map(value).filter(|x| x.is_finite()).map(|x| f64::from(x.abs())).sum();
        assert!((finite - 10815.75).abs() < 1e-9, "{finite}");
    }

    #[test]
    fn every_element_has_its_scale() {
        let one = vec![0x38; 200 * 300];
        let scales: Vec<f32> = (1..=6).map(|i| i as f32).collect();
        let blocks = expand(&one, [200, 300], &scales, &[2, 3]).unwrap();
        for (row, col, expected) in [(0, 0, 1.0), (127, 128, 2.0), (0, 299, 3.0), (128, 127, 4.0), (199, 299, 6.0)] {
            assert_eq!(blocks[row * 300 + col].to_bits(), f32::to_bits(expected), "{row}, {col}");
        }
        let rows = expand(&[0x38; 6], [3, 2], &[1.0, 2.0, 3.0], &[3, 1]).unwrap();
        assert_eq!(rows, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
        assert_eq!(expand(&[0x38; 2], [1, 2], &[0.5], &[]).unwrap(), [0.5, 0.5]);
        assert!(expand(&one, [200, 300], &scales, &[3, 2]).is_err());
    }
}
