//! How weights are held in memory. In: a source of tensors; out: weights in that form. Invariant: what is computed
//! depends on it only by rounding.

use crate::{Result, weights::TensorSource};
use candle_core::{DType, Device};
use eraser_ops::{Stored, Weight, quant::TensorType};
use half::{bf16, f16};
use std::fmt;

/// How weights are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightStorage {
    /// As tensors of this type.
    Dense(DType),
    /// The linear layers in the blocks that they are stored in, the rest in f32.
    AsStored,
    /// The linear layers in half-precision blocks of this type, the rest in f32.
    Half(TensorType),
    /// Linear layers, embedding and head in bf16 on the CPU, where they are multiplied in bf16 with sums in f32; the
    /// rest in f32.
    MultipliedInBf16,
    /// The linear layers in the quantised blocks that they are stored in, multiplied in bf16 on the CPU; linear layers in
    /// other types, embedding and head as of [`Self::MultipliedInBf16`].
    StoredInBf16,
}

/// A name for each way: `f32`, `as stored`, `bf16 blocks`.
impl fmt::Display for WeightStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(dtype) => f.write_str(dtype.as_str()),
            Self::AsStored => f.write_str("as stored"),
            Self::Half(kind) => write!(f, "{} blocks", format!("{kind:?}").to_lowercase()),
            Self::MultipliedInBf16 => f.write_str("bf16, multiplied in bf16"),
            Self::StoredInBf16 => f.write_str("as stored, multiplied in bf16"),
        }
    }
}

impl From<DType> for WeightStorage {
    fn from(dtype: DType) -> Self {
        Self::Dense(dtype)
    }
}

impl WeightStorage {
    /// Whether every weight is held and multiplied in f32.
    pub fn is_f32(self) -> bool {
        self == Self::Dense(DType::F32)
    }

    /// Type of what is held as tensors.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::Dense(dtype) => dtype,
            Self::AsStored | Self::Half(_) | Self::MultipliedInBf16 | Self::StoredInBf16 => DType::F32,
        }
    }

    /// Type of embedding and head.
    pub(super) fn head_dtype(self) -> DType {
        match self {
            Self::MultipliedInBf16 | Self::StoredInBf16 => DType::BF16,
            _ => self.dtype(),
        }
    }

    /// The matrix `name` of `source`.
    pub(super) fn weight(
        self,
        source: &dyn TensorSource,
        name: &str,
        shape: [usize; 2],
        device: &Device,
    ) -> Result<Weight> {
        let dense = || source.tensor(name, &shape, self.dtype(), device);
        let half = || source.tensor(name, &shape, DType::BF16, device);
        let kind = match self {
            Self::Dense(_) => return Ok(dense()?.into()),
            Self::MultipliedInBf16 => return Ok(half()?.into()),
            Self::StoredInBf16 => {
                return Ok(match source.stored(name, shape)?.filter(Stored::is_quantised) {
                    Some(stored) => Weight::Stored(stored.in_bf16()),
                    None => half()?.into(),
                });
            }
            Self::AsStored => {
                return Ok(match source.stored(name, shape)? {
                    Some(stored) => Weight::Stored(stored),
                    None => dense()?.into(),
                });
            }
            Self::Half(kind) => kind,
        };
        let values = dense()?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Weight::Stored(Stored::new(kind, shape[0], shape[1], halves(kind, &values))?))
    }
}

/// Values in half precision: f16, or else bf16.
pub(super) fn halves(kind: TensorType, values: &[f32]) -> Vec<u8> {
    match kind {
        TensorType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}
