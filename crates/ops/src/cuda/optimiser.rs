//! The optimiser on the device. In: parameters, moments and gradients in f32; out: the same memory, changed. Invariant:
//! nothing goes through the host but one norm.

use super::device::{Arg, Fresh, address, launch, launch_each, of, ready};
use crate::device::kinds::AdamWStep;
use candle_core::{DType, Result, Tensor, bail};

/// Blocks that a sum of squares is cut into: few enough to be read at once, enough for the device.
const PARTS: usize = 64;

/// Threads of each.
const THREADS: u32 = 256;

/// One step of `AdamW` (Loshchilov and Hutter 2019) on the device: changes `theta`, `first` and `second` in place, whoever
/// else holds them. All are contiguous, in f32 and of one size.
///
/// Errors when they are not, or not on a CUDA device.
pub(crate) fn adamw(theta: &Tensor, first: &Tensor, second: &Tensor, gradient: &Tensor, step: AdamWStep) -> Result<()> {
    let (device, n) = (of(theta)?, theta.elem_count());
    for x in [theta, first, second, gradient] {
        if x.elem_count() != n || x.dtype() != DType::F32 {
            bail!("adamw: {n} parameters, and {:?} {:?} beside them", x.dtype(), x.shape());
        }
    }
    let AdamWStep { size, correction, keep, less_beta1, beta2, less_beta2, epsilon } = step;
    let gradient = ready(gradient)?;
    let arguments = [
        Arg::At(address(theta)?),
        Arg::At(address(first)?),
        Arg::At(address(second)?),
        Arg::At(address(&gradient)?),
        Arg::U64(n as u64),
        Arg::F32(size),
        Arg::F32(correction),
        Arg::F32(keep),
        Arg::F32(less_beta1),
        Arg::F32(beta2),
        Arg::F32(less_beta2),
        Arg::F32(epsilon),
    ];
    launch_each(&device, "adamw", n, &arguments)
}

/// The Euclidean norm of `gradients`, all together; on the device, read once.
///
/// Errors when one is not in f32 on a CUDA device.
pub(crate) fn norm(gradients: &[&Tensor]) -> Result<f64> {
    let Some(first) = gradients.first() else { return Ok(0.0) };
    let device = of(first)?;
    let parts = Fresh::new(&device, DType::F32, gradients.len() * PARTS)?;
    for (i, gradient) in gradients.iter().enumerate() {
        let gradient = ready(gradient)?;
        if gradient.dtype() != DType::F32 {
            bail!("norm: a gradient is in {:?}", gradient.dtype());
        }
        let to = parts.at()?.after(i * PARTS * 4);
        let arguments = [Arg::At(address(&gradient)?), Arg::At(to), Arg::U64(gradient.elem_count() as u64)];
        launch(&device, "sum_squares", PARTS as u64, THREADS, &arguments)?;
    }
    let parts = parts.into_tensor().to_vec1::<f32>()?;
    Ok(parts.into_iter().map(f64::from).sum::<f64>().sqrt())
}
