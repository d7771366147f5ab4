//! Weights in 4 bits, as bitsandbytes has them (nf4 and fp4). In: a matrix's packed codes and the tensors beside it;
//! out: f32. Invariant: every value is the one that bitsandbytes gives, in the type that the checkpoint was made from.

use crate::{Error, Result};
use half::{bf16, f16};
use rayon::prelude::*;
use serde::Deserialize;

/// What the names of the descriptions end with, for the two sets of values.
pub(super) const STATES: [&str; 2] = [".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"];
/// Values of a code of 4 bits.
pub(super) const VALUES: usize = 16;
/// Values of a code of 8 bits: of scales that are themselves quantised.
pub(super) const NESTED_VALUES: usize = 256;
/// Values that one task expands: whole bytes of codes.
const TASK: usize = 1 << 15;

/// What is beside a matrix in JSON.
#[derive(Debug, Deserialize)]
pub(super) struct State {
    /// Shape of the matrix.
    pub(super) shape: Vec<usize>,
    blocksize: usize,
    dtype: Kind,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

/// Type that values are rounded to.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Float32,
    Float16,
    Bfloat16,
}

/// Scales that are quantised too: their codes, what the codes stand for, and scales of their blocks.
#[derive(Debug)]
pub(super) struct Nested<'a> {
    pub(super) codes: &'a [u8],
    pub(super) values: &'a [f32],
    pub(super) scales: &'a [f32],
}

impl State {
    /// Reads the description.
    ///
    /// # Errors
    /// Text that is none; sizes that no matrix has.
    pub(super) fn read(json: &[u8]) -> Result<Self> {
        let state: Self =
            serde_json::from_slice(json).map_err(|e| Error::request(format!("its `quant_state` is none: {e}")))?;
        if state.blocksize == 0 || state.nested_blocksize == Some(0) {
            return Err(Error::request("its `quant_state` has blocks of 0 values"));
        }
        Ok(state)
    }

    /// Scales that were quantised, as they were.
    ///
    /// # Errors
    /// Too few of them; a description that does not mention them.
    pub(super) fn scales(&self, nested: &Nested<'_>) -> Result<Vec<f32>> {
        let (Some(block), Some(offset)) = (self.nested_blocksize, self.nested_offset) else {
            return Err(Error::request("its scales are quantised, and its `quant_state` does not say how"));
        };
        if nested.scales.len() != nested.codes.len().div_ceil(block) || nested.values.len() != NESTED_VALUES {
            return Err(Error::request("its quantised scales lack some of their own scales or values"));
        }
        let value = |(at, code): (usize, &u8)| {
            let scaled = nested.values[usize::from(*code)] * nested.scales[at / block];
            scaled + offset as f32
        };
        Ok(nested.codes.iter().enumerate().map(value).collect())
    }

    /// The matrix: of each byte of `codes` the upper half first.
    ///
    /// # Errors
    /// More or fewer codes, values or scales than the matrix has.
    pub(super) fn expand(&self, codes: &[u8], values: &[f32], scales: &[f32]) -> Result<Vec<f32>> {
        let count = self.shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
        let fits = |n: &usize| n.div_ceil(2) == codes.len() && n.div_ceil(self.blocksize) == scales.len();
        let Some(count) = count.filter(fits).filter(|_| values.len() == VALUES) else {
            return Err(Error::request(format!(
                "a matrix of shape {:?} in blocks of {} has not {} bytes, {} scales and {} values",
                self.shape,
                self.blocksize,
                codes.len(),
                scales.len(),
                values.len()
            )));
        };
        let mut out = vec![0.0; count];
        out.par_chunks_mut(TASK).enumerate().for_each(|(task, out)| {
            for (i, out) in out.iter_mut().enumerate() {
                let at = task * TASK + i;
                let code = if at.is_multiple_of(2) { codes[at / 2] >> 4 } else { codes[at / 2] & 15 };
                *out = self.dtype.round(values[usize::from(code)] * scales[at / self.blocksize]);
            }
        });
        Ok(out)
    }
}

impl Kind {
    fn round(self, value: f32) -> f32 {
        match self {
            Self::Float32 => value,
            Self::Float16 => f16::from_f32(value).to_f32(),
            Self::Bfloat16 => bf16::from_f32(value).to_f32(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(json: &str) -> State {
        State::read(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_upper_half_of_a_byte_comes_first_and_blocks_cross_rows() {
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let made = state(r#"{"shape": [3, 1], "blocksize": 2, "dtype": "float32", "quant_type": "nf4"}"#);
        assert_eq!(made.expand(&[0x12, 0x30], &values, &[1.0, 10.0]).unwrap(), [1.0, 2.0, 30.0]);
        for (codes, values, scales) in
            [(&[0u8][..], &values[..], &[1.0, 1.0][..]), (&[0, 0], &values, &[1.0]), (&[0, 0], &values[1..], &[1.0; 2])]
        {
            let error = made.expand(codes, values, scales).unwrap_err().to_string();
            assert!(error.contains("shape [3, 1] in blocks of 2"), "{error}");
        }
    }

    #[test]
    fn scales_that_are_quantised_get_their_offset_after_their_scale() {
        let values: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let json =
            r#"{"shape": [6], "blocksize": 2, "dtype": "bfloat16", "nested_blocksize": 2, "nested_offset": 0.5}"#;
        let nested = Nested { codes: &[1, 2, 3], values: &values, scales: &[2.0, 4.0] };
        assert_eq!(state(json).scales(&nested).unwrap(), [2.5, 4.5, 12.5]);
        assert!(state(json).scales(&Nested { scales: &[2.0], ..nested }).is_err());
        let plain = r#"{"shape": [6], "blocksize": 2, "dtype": "float16"}"#;
        let nested = Nested { codes: &[1], values: &values, scales: &[2.0] };
        assert!(state(plain).scales(&nested).unwrap_err().to_string().contains("does not say how"));
    }

    proptest! {
        #[test]
        fn any_description_is_no_panic(
            text in any::<String>(), rows in any::<usize>(), cols in 0usize..9, block in any::<usize>(),
            codes in prop::collection::vec(any::<u8>(), 0..9), scales in prop::collection::vec(any::<f32>(), 0..9),
        ) {
            let _ = State::read(text.as_bytes());
            for rows in [rows, rows % 4] {
                let json = format!(
                    r#"{{"shape": [{rows}, {cols}], "blocksize": {block}, "dtype": "float16",
                    "nested_blocksize": {block}, "nested_offset": 1e300}}"#
                );
                if let Ok(state) = State::read(json.as_bytes()) {
                    let _ = state.expand(&codes, &[0.0; VALUES], &scales);
                    let nested = Nested { codes: &codes, values: &[0.0; NESTED_VALUES], scales: &scales };
                    let _ = state.scales(&nested);
                }
            }
        }
    }
}
