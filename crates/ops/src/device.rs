//! What a device other than the CPU does by operations of its own. In: tensors that live there; out: the same. Invariant:
//! on a device without such operations nothing is done, and the caller is told.

use crate::AttentionShape;
use candle_core::{Device, Result, Tensor, bail};
use std::ops::Range;

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
    return Some(device).and(None);
}

/// The numbers of a step of `AdamW`, after what depends on the step alone has been computed.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// `lr / (1 - beta1^t)`.
    pub size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub correction: f32,
    /// `1 - lr * weight_decay`.
    pub keep: f32,
    /// `1 - beta1`.
    pub less_beta1: f32,
    /// The decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`.
    pub less_beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
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

/// Rows of a pass that are appended to a cache `[layers, 2, capacity, width]`: keys and values of each layer.
#[derive(Clone, Copy, Debug)]
pub struct Appended<'a> {
    /// The cache.
    pub cache: &'a Tensor,
    /// The rows that it holds.
    pub at: usize,
    /// The rows that come.
    pub count: usize,
}

/// Keys and values that follow each other: rows of a cache, or of the pass itself (None).
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// The cache, `[layers, 2, capacity, width]`.
    pub cache: Option<&'a Tensor>,
    /// Its rows.
    pub rows: Range<usize>,
}

/// What rows of a pass that follow each other see: the keys of all spans up to their own, which are the last of them.
#[derive(Clone, Debug)]
pub struct Reads<'a> {
    /// In the order of positions.
    pub spans: Vec<Span<'a>>,
    /// The number of rows.
    pub rows: usize,
    /// The keys before the first of them.
    pub past: usize,
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
