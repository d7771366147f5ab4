//! What a device other than the CPU does by operations of its own. In: tensors that live there; out: the same. Invariant:
//! on a device without such operations nothing is done, and the caller is told.

pub(crate) mod kinds;

#[cfg(feature = "nccl")]
pub use crate::cuda::nccl::{Communicator, ID, new_id};
pub use kinds::{AdamWStep, Appended, Reads, Span};

use crate::attention::shape::AttentionShape;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of this process among those that share the devices of its machine.
static PLACE: AtomicUsize = AtomicUsize::new(0);

/// Says that this process is number `place` (from 0) of several on this machine, so that each takes a CUDA device of
/// its own where none is named.
pub fn share_devices(place: usize) {
    PLACE.store(place, Ordering::Relaxed);
}

/// The number of the CUDA device that this process takes where none is named: the first one, or that of its place among
/// several processes. Where there are more of them than devices, they begin again with the first.
pub fn own_cuda() -> usize {
    of_place(PLACE.load(Ordering::Relaxed), cuda_devices())
}

fn of_place(place: usize, devices: usize) -> usize {
    place % devices.max(1)
}

/// How many CUDA devices this process sees.
fn cuda_devices() -> usize {
    #[cfg(feature = "cuda")]
    return crate::cuda::count();
    #[cfg(not(feature = "cuda"))]
    0
}

/// True when optimiser and gradients need not go through the host's memory.
pub fn has_operations(device: &Device) -> bool {
    cfg!(feature = "cuda") && device.is_cuda()
}

/// The CUDA device of this number, with the operations compiled for it, so that faults of its own (a driver that is too
/// old for the kernels) are told before any work. All threads of the process share its one stream of work.
pub fn cuda(number: usize) -> Result<Device> {
    // Device::new_cuda would give each thread a stream of its own, and what one has written another could read too soon.
    let device = Device::new_cuda_with_stream(number)?;
    #[cfg(feature = "cuda")]
    crate::cuda::prepare(&device)?;
    Ok(device)
}

/// Bytes of memory that are free on a device; None where that is not known.
pub fn free_memory(device: &Device) -> Option<usize> {
    #[cfg(feature = "cuda")]
    return crate::cuda::free_memory(device);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        None
    }
}

/// One step of `AdamW` (Loshchilov and Hutter 2019) on the device: changes `theta`, `first` and `second` in place, whoever
/// else holds them. All are contiguous, in f32 and of one size.
///
/// Errors when they are not, or the device has no such operation.
pub fn adamw(theta: &Tensor, first: &Tensor, second: &Tensor, gradient: &Tensor, step: AdamWStep) -> Result<()> {
    #[cfg(feature = "cuda")]
    if has_operations(theta.device()) {
        return crate::cuda::adamw(theta, first, second, gradient, step);
    }
    let _ = (first, second, gradient, step);
    bail!("{:?} has no optimiser of its own", theta.device())
}

/// The Euclidean norm of `gradients`, all together; on the device, read once.
///
/// Errors when one is not in f32, or the device has no such operation.
pub fn norm(gradients: &[&Tensor]) -> Result<f64> {
    let Some(first) = gradients.first() else { return Ok(0.0) };
    #[cfg(feature = "cuda")]
    if has_operations(first.device()) {
        return crate::cuda::norm(gradients);
    }
    bail!("{:?} has no norm of its own", first.device())
}

/// The place of the largest number of each row of `logits` `[n, V]` in f32: of equals the first, and what is no number is
/// never the largest (0, where nothing else is there).
///
/// Errors when they are in another type, or the device has no such operation.
pub fn argmax(logits: &Tensor) -> Result<Vec<u32>> {
    if logits.dtype() != DType::F32 {
        bail!("argmax: rows are in {:?}", logits.dtype());
    }
    #[cfg(feature = "cuda")]
    if has_operations(logits.device()) {
        return crate::cuda::argmax(logits);
    }
    bail!("{:?} has no search of rows of its own", logits.device())
}

/// Attention of a pass to keys and values that are kept on the device: made once, used in every layer.
pub struct CachedAttention {
    #[cfg(feature = "cuda")]
    slots: crate::cuda::Slots,
    #[cfg(feature = "cuda")]
    plan: crate::cuda::Plan,
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

impl CachedAttention {
    /// Readies a pass of which rows are `appended` to caches (all, in order, or none) and see what `reads` says (all, in
    /// order). The caches must be what they are now until the pass is done.
    ///
    /// Errors when a cache has no room, or the device has no such operation.
    pub fn new(device: &Device, appended: &[Appended<'_>], reads: &[Reads<'_>]) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            let (slots, plan) = (crate::cuda::Slots::new(device, appended)?, crate::cuda::Plan::new(device, reads)?);
            return Ok(Self { slots, plan });
        }
        let _ = (appended, reads);
        bail!("{device:?} has no attention to caches of its own")
    }

    /// Appends keys and values `[T, kv_heads * head_dim]` of a layer to the caches.
    pub fn append(&self, k: &Tensor, v: &Tensor, layer: usize) -> Result<()> {
        #[cfg(feature = "cuda")]
        return self.slots.append(k, v, layer);
        #[cfg(not(feature = "cuda"))]
        match (self.never, k, v, layer) {}
    }

    /// Head outputs `[T, heads * head_dim]` of a layer; `qkv` are the rows of the pass. No gradient.
    pub fn attend(&self, qkv: [&Tensor; 3], layer: usize, shape: AttentionShape) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        return self.plan.attend(qkv, layer, shape);
        #[cfg(not(feature = "cuda"))]
        match (self.never, qkv, layer, shape) {}
    }
}

#[cfg(test)]
mod tests {
    use crate::conformance::{device, random};
    use candle_core::{Device, Tensor};

    #[test]
    fn processes_of_a_machine_take_its_devices_in_turn() {
        let numbers = |devices| [0, 1, 2, 3].map(|place| super::of_place(place, devices));
        assert_eq!(numbers(4), [0, 1, 2, 3]);
        assert_eq!(numbers(2), [0, 1, 0, 1], "more processes than devices");
        assert_eq!(numbers(1), [0; 4], "each sees one, its own");
        assert_eq!(numbers(0), [0; 4], "what opens it says that there is none");
    }

    /// On the device of the environment; the CPU has no such operation, and says so.
    #[test]
    fn the_largest_of_each_row_conforms() {
        assert!(super::argmax(&random((2, 3), 1)).is_err());
        let Some(device) = device() else { return };
        for width in [1, 31, 32, 513, 5000] {
            let mut rows = random((7, width), width as u64).to_vec2::<f32>().unwrap();
            rows[0].fill(f32::NAN);
            rows[1].fill(f32::NEG_INFINITY);
            rows[2].fill(0.5);
            rows[3][width / 2..].fill(2.0);
            rows[4][width - 1] = 3.0;
            rows[5][0] = f32::NAN;
            let first = |row: &Vec<f32>| {
                let mut best = (0, f32::NEG_INFINITY);
                for (i, &z) in row.iter().enumerate() {
                    best = if z > best.1 { (i, z) } else { best };
                }
                best.0 as u32
            };
            let want: Vec<u32> = rows.iter().map(first).collect();
            let logits = Tensor::new(rows, &Device::Cpu).unwrap().to_device(&device).unwrap();
            assert_eq!(super::argmax(&logits).unwrap(), want, "rows of {width}");
        }
    }
}
