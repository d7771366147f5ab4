//! What a device other than the CPU does by operations of its own. In: tensors that live there; out: the same. Invariant:
//! on a device without such operations nothing is done, and the caller is told.

pub(crate) mod kinds;

pub use kinds::{AdamWStep, Appended, Reads, Span};

use crate::attention::shape::AttentionShape;
use candle_core::{Device, Result, Tensor, bail};

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
