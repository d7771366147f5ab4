//! The f32 elements of a CPU tensor as a slice. In: a contiguous f32 tensor, or the storage and layout a custom
//! operation is handed; out: its elements, row-major. Invariant: exactly `elem_count` elements, never a copy.

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, WithDType, bail, op::BackpropOp};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Deref;

/// The elements behind a layout.
pub(crate) fn cpu<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    elements(storage, layout)
}

/// The elements of any type behind a layout.
pub(crate) fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("tensor is not contiguous") };
    Ok(&storage.as_slice::<T>()?[start..end])
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
        let (storage, layout) = self.cpu()?;
        cpu(storage, layout)
    }

    /// The storage on the CPU, and where in it the elements are.
    pub(crate) fn cpu(&self) -> Result<(&CpuStorage, &Layout)> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok((storage, self.layout)),
            _ => bail!("tensor is not on the CPU"),
        }
    }
}

/// A CPU tensor of these elements, outside any graph.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cpu(CpuStorage::F32(values)), shape, BackpropOp::none(), false)
}

/// A vector of `len` elements made in parallel: `fill(i, piece)` gets piece `i` of `size` elements (the last may be
/// shorter) as zeros and puts in what belongs there.
///
/// The zeros are written by the task that fills the piece, right before, so they are still in its cache: a pass over
/// the whole vector in memory, which zeroing it as it is made would be, is a noticeable part of a layer's product.
pub(crate) fn filled<T: Copy + Default + Send>(
    len: usize,
    size: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    filled_with(len, size, || (), |(), i, piece| fill(i, piece))
}

/// As [`filled`], with a buffer of each thread's own.
pub(crate) fn filled_with<T: Copy + Default + Send, B>(
    len: usize,
    size: usize,
    buffer: impl Fn() -> B + Sync + Send,
    fill: impl Fn(&mut B, usize, &mut [T]) + Sync,
) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    let pieces = values.spare_capacity_mut()[..len].par_chunks_mut(size.max(1)).enumerate();
    pieces.for_each_init(buffer, |buffer, (i, piece)| fill(buffer, i, zeroed(piece)));
    // SAFETY: the capacity is at least `len`, and the pieces, all of which were zeroed, are the first `len` elements.
    // If a task panics, so does `for_each_init`, and the vector stays empty.
    #[allow(unsafe_code)]
    unsafe {
        values.set_len(len);
    }
    values
}

fn zeroed<T: Copy + Default>(piece: &mut [MaybeUninit<T>]) -> &mut [T] {
    piece.fill(MaybeUninit::new(T::default()));
    // SAFETY: every element was written in the line above.
    #[allow(unsafe_code)]
    unsafe {
        piece.assume_init_mut()
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // exact by construction
mod tests {
    use super::*;

    #[test]
    fn every_element_is_filled_or_zero() {
        for (len, size) in [(0, 0), (0, 3), (1, 0), (7, 3), (9, 3), (5, 100)] {
            let odd_pieces = filled(len, size, |i, piece: &mut [f32]| {
                assert!(piece.iter().all(|&x| x == 0.0));
                if i % 2 == 1 {
                    piece.fill(i as f32);
                }
            });
            let want = |at: usize| at / size.max(1) % 2 * (at / size.max(1));
            assert_eq!(odd_pieces, (0..len).map(|at| want(at) as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    #[should_panic(expected = "a task's own")]
    fn a_panic_of_a_task_is_passed_on() {
        filled(10, 3, |i, _: &mut [f32]| assert!(i != 2, "a task's own"));
    }
}
