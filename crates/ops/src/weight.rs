//! A frozen weight of a linear layer: a tensor, or the blocks of a file as they are stored. In: a tensor or bytes; out:
//! its rows, a piece at a time. Invariant: a stored weight computes exactly what its expansion to f32 would; a tensor
//! in bf16 is multiplied in bf16, with sums in f32, and so are stored blocks of which that is asked.

use crate::bf16::{Blocks, Frozen, Half};
use crate::quant::{TensorType, dequantize, dequantize_into};
use crate::slices;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};
use std::{
    fmt,
    ops::{Deref, Range},
    sync::Arc,
};

/// A weight `[out, in]`.
#[derive(Clone, Debug)]
pub enum Weight {
    /// A tensor of its own; the only form that can be trained. On the CPU in f32, or in bf16 for products in bf16.
    Dense(Tensor),
    /// Blocks of a storage type, expanded as they are used.
    Stored(Stored),
}

/// A matrix in the blocks of a storage type. Cheap to clone.
#[derive(Clone)]
pub struct Stored {
    dtype: TensorType,
    rows: usize,
    cols: usize,
    bytes: Arc<Vec<u8>>,
    /// Where the first row begins.
    start: usize,
    /// True when products are in bf16.
    half: bool,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{}, {}]", self.dtype, self.rows, self.cols)
    }
}

impl Stored {
    /// A matrix of `rows` rows of `cols` values each. Errors when a row is not a number of whole blocks or `bytes` does
    /// not hold exactly the matrix.
    pub fn new(dtype: TensorType, rows: usize, cols: usize, bytes: Vec<u8>) -> Result<Self> {
        let fits = cols.is_multiple_of(dtype.block())
            && (cols / dtype.block()).checked_mul(dtype.block_bytes()).and_then(|row| row.checked_mul(rows))
                == Some(bytes.len());
        if !fits {
            bail!("a {dtype:?} matrix of {rows} x {cols} is not {} bytes", bytes.len());
        }
        Ok(Self { dtype, rows, cols, bytes: Arc::new(bytes), start: 0, half: false })
    }

    /// `weight` `[rows, cols]` rounded to blocks of `dtype`: Q8_0 or Q4_0, as llama.cpp rounds.
    pub fn quantise(dtype: TensorType, weight: &Tensor) -> Result<Self> {
        let kind = match dtype {
            TensorType::Q8_0 => GgmlDType::Q8_0,
            TensorType::Q4_0 => GgmlDType::Q4_0,
            other => bail!("weights are not rounded to {other:?}"),
        };
        let (rows, cols) = weight.dims2()?;
        if !cols.is_multiple_of(dtype.block()) {
            bail!("rows of {cols} values are not whole blocks of {dtype:?}");
        }
        // candle quantises the whole storage of a view, so the values are copied out first.
        let values = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let dense = Tensor::from_vec(values, (rows, cols), &Device::Cpu)?;
        let bytes = QTensor::quantize(&dense, kind)?.data()?.into_owned();
        Self::new(dtype, rows, cols, bytes)
    }

    /// True when several values share a scale.
    pub fn is_quantised(&self) -> bool {
        self.dtype.block() > 1
    }

    /// The same, multiplied in bf16, and in 8-bit integers by few tokens (as llama.cpp does). Values that are not
    /// quantised are multiplied in f32 as before; as tensors in bf16 they are multiplied faster.
    #[must_use]
    pub fn in_bf16(self) -> Self {
        Self { half: self.is_quantised(), ..self }
    }

    /// The blocks, where they are multiplied in bf16.
    fn blocks(&self) -> Option<Blocks<'_>> {
        let (dtype, bytes) = (self.dtype, self.bytes(&(0..self.rows)));
        self.half.then_some(Blocks { dtype, bytes, rows: self.rows, cols: self.cols })
    }

    fn row_bytes(&self) -> usize {
        self.cols / self.dtype.block() * self.dtype.block_bytes()
    }

    /// The bytes of some rows.
    fn bytes(&self, rows: &Range<usize>) -> &[u8] {
        let row = self.row_bytes();
        &self.bytes[self.start + rows.start * row..self.start + rows.end * row]
    }
}

impl Weight {
    /// `(out, in)`.
    pub fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(tensor) => tensor.dims2(),
            Self::Stored(stored) => Ok((stored.rows, stored.cols)),
        }
    }

    /// The weight as a tensor of `dtype`: itself, converted, or expanded on `device`.
    pub fn dense(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.to_dtype(dtype),
            Self::Stored(stored) => {
                let values = dequantize(stored.dtype, stored.bytes(&(0..stored.rows)));
                Tensor::from_vec(values, (stored.rows, stored.cols), device)?.to_dtype(dtype)
            }
        }
    }

    /// True when its products are in bf16.
    pub fn is_bf16(&self) -> bool {
        match self {
            Self::Dense(tensor) => tensor.dtype() == DType::BF16,
            Self::Stored(stored) => stored.half,
        }
    }

    /// The tensor, if it is one.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Self::Dense(tensor) => Some(tensor),
            Self::Stored(_) => None,
        }
    }

    /// Weights of one width below each other, for one product instead of several; None when they are not all dense and
    /// frozen on the CPU, f32 or bf16, or all of one storage type.
    pub fn stack(weights: &[&Self]) -> Result<Option<Self>> {
        let dense: Option<Vec<&Tensor>> = weights.iter().map(|w| w.tensor()).collect();
        if let Some(tensors) = dense {
            if tensors.is_empty() {
                return Ok(None);
            }
            let dtype = tensors[0].dtype();
            let plain = |t: &&Tensor| t.device().is_cpu() && t.dtype() == dtype && !t.track_op();
            return Ok(if matches!(dtype, DType::F32 | DType::BF16) && tensors.iter().all(plain) {
                Some(Self::Dense(Tensor::cat(&tensors, 0)?))
            } else {
                None
            });
        }
        let (mut bytes, mut rows, mut first) = (Vec::new(), 0, None);
        for weight in weights {
            let Self::Stored(stored) = weight else { return Ok(None) };
            let kind = (stored.dtype, stored.cols, stored.half);
            if *first.get_or_insert(kind) != kind {
                return Ok(None);
            }
            bytes.extend_from_slice(stored.bytes(&(0..stored.rows)));
            rows += stored.rows;
        }
        let Some((dtype, cols, half)) = first else { return Ok(None) };
        Ok(Some(Self::Stored(Stored { half, ..Stored::new(dtype, rows, cols, bytes)? })))
    }

    /// Rows `start .. start + rows`, sharing memory.
    pub fn narrow(&self, start: usize, rows: usize) -> Result<Self> {
        match self {
            Self::Dense(tensor) => Ok(Self::Dense(tensor.narrow(0, start, rows)?)),
            Self::Stored(stored) if start + rows <= stored.rows => {
                let start = stored.start + start * stored.row_bytes();
                Ok(Self::Stored(Stored { rows, start, ..stored.clone() }))
            }
            Self::Stored(stored) => bail!("{stored:?} has no rows {start}..{}", start + rows),
        }
    }

    /// Runs `f` on the weight's rows; an error when it is a tensor that is not contiguous f32 or bf16 on the CPU.
    pub(crate) fn with<R>(&self, f: impl FnOnce(Rows<'_>) -> R) -> Result<R> {
        match self {
            Self::Dense(tensor) => Ok(f(read_matrix(&slices::read(tensor))?)),
            Self::Stored(stored) => {
                Ok(f(stored.blocks().map_or(Rows::Stored(stored), |blocks| Rows::Frozen(blocks.into()))))
            }
        }
    }
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

/// The rows of a weight.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// All of them, row-major.
    Dense { values: &'a [f32], rows: usize, cols: usize },
    /// For products in bf16.
    Frozen(Frozen<'a>),
    /// To be expanded, a piece at a time.
    Stored(&'a Stored),
}

/// The matrix behind a layout, f32 or bf16.
pub(crate) fn matrix<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Rows<'a>> {
    let (rows, cols) = layout.shape().dims2()?;
    Ok(match storage {
        CpuStorage::BF16(_) => Rows::Frozen(Half { values: slices::elements(storage, layout)?, rows, cols }.into()),
        _ => Rows::Dense { values: slices::elements(storage, layout)?, rows, cols },
    })
}

/// The matrix of a tensor that is locked for reading.
pub(crate) fn read_matrix<'a, S: Deref<Target = Storage>>(tensor: &'a slices::Guard<'_, S>) -> Result<Rows<'a>> {
    let (storage, layout) = tensor.cpu()?;
    matrix(storage, layout)
}

impl<'a> Rows<'a> {
    /// Some rows in f32 on this thread, expanded into `scratch` where they are not.
    pub(crate) fn read<'s>(&self, rows: &Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Self::Dense { values, cols, .. } => &values[rows.start * cols..rows.end * cols],
            Self::Frozen(Frozen::Half(half)) => {
                scratch.clear();
                scratch.extend(half.slice(rows).values.iter().map(|w| w.to_f32()));
                scratch
            }
            Self::Stored(stored) => stored.read(rows, scratch),
            Self::Frozen(Frozen::Blocks(blocks)) => {
                scratch.resize(rows.len() * blocks.cols, 0.0);
                dequantize_into(blocks.dtype, blocks.slice(rows).bytes, scratch);
                scratch
            }
        }
    }

    /// `(out, in)`.
    pub(crate) fn dims(&self) -> (usize, usize) {
        match self {
            Self::Dense { rows, cols, .. } => (*rows, *cols),
            Self::Frozen(frozen) => frozen.dims(),
            Self::Stored(stored) => (stored.rows, stored.cols),
        }
    }
}

impl Stored {
    /// Some rows, expanded into `scratch` on this thread.
    fn read<'s>(&self, rows: &Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        scratch.resize(rows.len() * self.cols, 0.0);
        dequantize_into(self.dtype, self.bytes(rows), scratch);
        scratch
    }

    /// Calls `f` with tiles of about `elements` values, expanded in parallel.
    pub(crate) fn for_each_tile(&self, elements: usize, mut f: impl FnMut(Range<usize>, &[f32])) {
        let size = elements.div_ceil(self.cols.max(1));
        for start in (0..self.rows).step_by(size) {
            let rows = start..self.rows.min(start + size);
            f(rows.clone(), &dequantize(self.dtype, self.bytes(&rows)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Stored, Weight};
    use crate::conformance::random;
    use crate::quant::TensorType;
    use candle_core::{DType, Device};

    fn stored(rows: usize, seed: u8) -> Weight {
        // Scales of small numbers, then any nibbles.
        let block = |i: usize| {
            let mut block = [(i as u8).wrapping_mul(37).wrapping_add(seed); 18];
            block[0] = i as u8;
            block[1] = 0x2c;
            block
        };
        let bytes: Vec<u8> = (0..rows * 2).flat_map(block).collect();
        Weight::Stored(Stored::new(TensorType::Q4_0, rows, 64, bytes).unwrap())
    }

    fn values(weight: &Weight) -> Vec<Vec<f32>> {
        weight.dense(DType::F32, &Device::Cpu).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn a_stack_and_its_parts_hold_the_same_rows() {
        for (a, b) in [(stored(3, 1), stored(2, 9)), (random((3, 64), 1).into(), random((2, 64), 2).into())] {
            let stack = Weight::stack(&[&a, &b]).unwrap().unwrap();
            assert_eq!(stack.dims().unwrap(), (5, 64));
            assert_eq!(values(&stack.narrow(0, 3).unwrap()), values(&a));
            assert_eq!(values(&stack.narrow(3, 2).unwrap()), values(&b));
            assert!(stack.narrow(4, 2).is_err());
        }
        assert!(Weight::stack(&[&stored(3, 1), &random((3, 64), 1).into()]).unwrap().is_none());
        assert!(Weight::stack(&[]).unwrap().is_none());
    }

    /// candle read the storage of a view from its beginning: the rows of a part were those of the whole.
    #[test]
    fn a_part_is_quantised_as_the_rows_it_shows() {
        let whole = random((6, 64), 3);
        for kind in [TensorType::Q8_0, TensorType::Q4_0] {
            let part = whole.narrow(0, 2, 3).unwrap();
            let own = candle_core::Tensor::from_vec(
                part.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                (3, 64),
                &Device::Cpu,
            );
            let rounded = |t: &candle_core::Tensor| values(&Weight::Stored(Stored::quantise(kind, t).unwrap()));
            assert_eq!(rounded(&part), rounded(&own.unwrap()));
            // A block of 32 is rounded to at most half a step of its scale: 1/127 or 1/7 of its largest value.
            let step = if kind == TensorType::Q8_0 { 1.0 / 127.0 } else { 1.0 / 7.0 };
            let exact = part.to_vec2::<f32>().unwrap();
            for (a, b) in rounded(&part).iter().flatten().zip(exact.iter().flatten()) {
                assert!((a - b).abs() <= step * 4.0, "{a} {b}");
            }
        }
        assert!(Stored::quantise(TensorType::Q4_0, &random((2, 33), 1)).is_err());
        assert!(Stored::quantise(TensorType::Q4_K, &whole).is_err());
    }

    #[test]
    fn pieces_are_the_rows() {
        let weight = stored(7, 5);
        let all = values(&weight).concat();
        let Weight::Stored(stored) = &weight else { unreachable!("made as stored") };
        let mut tiles = Vec::new();
        stored.for_each_tile(100, |range, tile| {
            assert_eq!(range.start * 64, tiles.len());
            tiles.extend_from_slice(tile);
        });
        assert_eq!(tiles, all);
        assert_eq!(stored.read(&(2..5), &mut Vec::new()), &all[128..320]);
    }

    #[test]
    fn bytes_that_do_not_fit_are_refused() {
        assert!(Stored::new(TensorType::Q4_0, 2, 64, vec![0; 71]).is_err());
        assert!(Stored::new(TensorType::Q4_0, 2, 40, vec![0; 72]).is_err());
        assert!(Stored::new(TensorType::F16, usize::MAX, 64, vec![0; 72]).is_err());
    }
}
