//! Root-mean-square normalisation. In: rows and one weight per column; out: each row divided by its root mean square,
//! times the weight. Invariant: a row depends on no other row.

use crate::{form, simd, slices};
use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Elements of one parallel task.
const TASK_ELEMENTS: usize = 1 << 14;

/// `y = x / sqrt(mean(x^2) + eps) * weight` over the last dimension. `x` `[T, d]`, `weight` `[d]`
/// (Zhang and Sennrich 2019, arXiv 1910.07467).
///
/// Errors when the weight is not one number per column. The composed form computes half precision in f32, as the
/// reference implementation does. Cost: two passes over cached rows, forward and backward.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (_, d) = x.dims2()?;
    if weight.dims() != [d] || d == 0 {
        bail!("rms_norm: rows are {d} wide but the weight is {:?}", weight.shape());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::runs(x) && !weight.track_op() {
        return crate::cuda::rms_norm(x, weight, eps);
    }
    if !form::fused(x) {
        return composed(x, weight, eps);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let op = RmsNorm { eps };
    if x.track_op() || weight.track_op() { x.apply_op2(&weight, op) } else { x.apply_op2_no_bwd(&weight, &op) }
}

fn composed(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let wide = x.to_dtype(wide)?;
    let rms = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let normed = wide.broadcast_div(&rms)?;
    if weight.dtype() == x.dtype() {
        return normed.to_dtype(x.dtype())?.broadcast_mul(weight);
    }
    // A weight in a wider type multiplies before the result is rounded.
    normed.broadcast_mul(&weight.to_dtype(normed.dtype())?)?.to_dtype(x.dtype())
}

struct RmsNorm {
    eps: f64,
}

/// `1 / sqrt(mean(x^2) + eps)`.
fn inverse(x: &[f32], eps: f64) -> f32 {
    (1.0 / (f64::from(simd::sum_squares(x)) / x.len() as f64 + eps).sqrt()) as f32
}

/// The normalised rows of `x`.
pub(crate) fn forward(x: &[f32], w: &[f32], eps: f64) -> Vec<f32> {
    let task = task_len(w.len());
    slices::filled(x.len(), task, |i, out| {
        for (out, x) in out.chunks_exact_mut(w.len()).zip(x[i * task..].chunks_exact(w.len())) {
            simd::mul_scaled(out, x, w, inverse(x, eps));
        }
    })
}

/// With `s = 1 / sqrt(mean(x^2) + eps)` and `g` the gradient of the output: `dx = s g w - x s^3 mean(g w x)`, plus
/// `also`, the gradient that reaches `x` past the norm.
pub(crate) fn input_gradient(x: &[f32], w: &[f32], g: &[f32], eps: f64, also: Option<&[f32]>) -> Vec<f32> {
    let (d, task) = (w.len(), task_len(w.len()));
    slices::filled(x.len(), task, |i, dx| {
        let rows = x[i * task..].chunks_exact(d).zip(g[i * task..].chunks_exact(d));
        for (dx, (x, g)) in dx.chunks_exact_mut(d).zip(rows) {
            let s = inverse(x, eps);
            let c = s * s * s * simd::dot3(g, w, x) / d as f32;
            simd::mul_scaled_add(dx, g, w, s, x, -c);
        }
        if let Some(also) = also {
            simd::axpy(dx, 1.0, &also[i * task..][..dx.len()]);
        }
    })
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, weight: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = forward(slices::cpu(x, lx)?, slices::cpu(weight, lw)?, self.eps);
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    /// `dx` as in [`input_gradient`]; `dw = sum over rows of s g x`.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (xs, ws, gs) = (slices::read(x), slices::read(weight), slices::read(&grad));
        let (xs, w, gs) = (xs.as_slice()?, ws.as_slice()?, gs.as_slice()?);
        let (d, task) = (w.len(), task_len(w.len()));
        let dx = x.track_op().then(|| slices::tensor(input_gradient(xs, w, gs, self.eps, None), x.shape()));
        let dw = weight.track_op().then(|| {
            let parts: Vec<Vec<f32>> = (xs.par_chunks(task).zip(gs.par_chunks(task)))
                .map(|(x, g)| {
                    let mut part = vec![0.0; d];
                    for (x, g) in x.chunks_exact(d).zip(g.chunks_exact(d)) {
                        simd::add_mul_scaled(&mut part, x, g, inverse(x, self.eps));
                    }
                    part
                })
                .collect();
            let mut dw = vec![0.0; d];
            for part in &parts {
                simd::axpy(&mut dw, 1.0, part);
            }
            slices::tensor(dw, d)
        });
        Ok((dx, dw))
    }
}

/// Whole rows of `width` elements that make up one parallel task.
fn task_len(width: usize) -> usize {
    TASK_ELEMENTS.div_ceil(width) * width
}

#[cfg(test)]
mod tests {
    use super::rms_norm;
    use crate::conformance::{Input, check, random};

    #[test]
    fn conforms() {
        for (t, d) in [(0, 4), (1, 3), (3, 7), (5, 64), (70, 577)] {
            let (x, w) = (random((t, d), 1), random(d, 2));
            for inputs in [
                [Input::Tracked(x.clone()), Input::Tracked(w.clone())],
                [Input::Tracked(x.clone()), Input::Frozen(w.clone())],
                [Input::Frozen(x.clone()), Input::Tracked(w.clone())],
            ] {
                check(&format!("rms_norm {t}x{d}"), &inputs, |x| rms_norm(&x[0], &x[1], 1e-5));
            }
        }
    }

    #[test]
    fn refuses_a_weight_of_another_width() {
        assert!(rms_norm(&random((2, 3), 1), &random(2, 1), 1e-5).is_err());
    }
}
