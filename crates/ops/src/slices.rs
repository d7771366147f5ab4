//! The f32 elements of a CPU tensor as a slice. In: a contiguous f32 tensor, or the storage and layout a custom
//! operation is handed; out: its elements, row-major. Invariant: exactly `elem_count` elements, never a copy.

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail, op::BackpropOp};
use std::ops::Deref;

/// The elements behind a layout.
pub(crate) fn cpu<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("tensor is not contiguous") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// A tensor locked for reading.
pub(crate) struct Guard<'a, S> {
    storage: S,
    layout: &'a Layout,
}

/// Locks `x`, which must be contiguous f32 on the CPU.
pub(crate) fn read(x: &Tensor) -> Guard<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = x.storage_and_layout();
    Guard { storage, layout }
}

impl<S: Deref<Target = Storage>> Guard<'_, S> {
    /// The elements.
    pub(crate) fn as_slice(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => cpu(storage, self.layout),
            _ => bail!("tensor is not on the CPU"),
        }
    }
}

/// A CPU tensor of these elements, outside any graph.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cpu(CpuStorage::F32(values)), shape, BackpropOp::none(), false)
}

/// A vector of `len` elements that hold nothing yet, for a kernel that writes every one of them.
///
/// Zero-filling would cost a pass over memory that for a layer's output is a noticeable part of its product.
pub(crate) fn unwritten(len: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`, and every bit pattern is an f32. Callers hand the vector to a kernel that writes
    // all of its elements before one is read.
    #[allow(unsafe_code, clippy::uninit_vec)]
    unsafe {
        values.set_len(len);
    }
    values
}
