//! The gated activation of a Llama block. In: gate and up projections of equal shape; out: `silu(gate) * up`. Invariant:
//! backward recomputes from the two inputs, so nothing is kept but them.

use crate::{form, simd, slices};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Elements of one parallel task.
const TASK_ELEMENTS: usize = 1 << 14;

/// `silu(gate) * up`, element by element, both `[T, f]` (Shazeer 2020, arXiv 2002.05202, without the projections).
///
/// Errors when the shapes differ. Cost: one pass forward, one per tracked input backward.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("swiglu: gate is {:?} but up is {:?}", gate.shape(), up.shape());
    }
    if !form::fused(gate) {
        return gate.silu()?.mul(up);
    }
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
    if gate.track_op() || up.track_op() { gate.apply_op2(&up, Swiglu) } else { gate.apply_op2_no_bwd(&up, &Swiglu) }
}

struct Swiglu;

impl CustomOp2 for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, lg: &Layout, up: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = silu_mul(slices::cpu(gate, lg)?, slices::cpu(up, lu)?);
        Ok((CpuStorage::F32(out), lg.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (g, u, d) = (slices::read(gate), slices::read(up), slices::read(&grad));
        let (g, u, d) = (g.as_slice()?, u.as_slice()?, d.as_slice()?);
        let dgate = gate.track_op().then(|| {
            let dgate = slices::filled(g.len(), TASK_ELEMENTS, |i, out| {
                let part = |x| task(x, i, out.len());
                let (g, u, d) = (part(g), part(u), part(d));
                simd::silu_mul_dgate(out, g, u, d);
            });
            slices::tensor(dgate, gate.shape())
        });
        let dup = up.track_op().then(|| slices::tensor(silu_mul(g, d), up.shape()));
        Ok((dgate, dup))
    }
}

fn silu_mul(gate: &[f32], up: &[f32]) -> Vec<f32> {
    slices::filled(gate.len(), TASK_ELEMENTS, |i, out| {
        let (gate, up) = (task(gate, i, out.len()), task(up, i, out.len()));
        simd::silu_mul(out, gate, up);
    })
}

/// The elements of task `i`, which has `len` of them.
fn task(x: &[f32], i: usize, len: usize) -> &[f32] {
    &x[i * TASK_ELEMENTS..][..len]
}

/// `silu(gate) * up` of rows that hold gate and up beside each other, `[T, 2 f]` to `[T, f]`.
pub(crate) fn of_rows(gate_up: &[f32], f: usize) -> Vec<f32> {
    let rows = TASK_ELEMENTS.div_ceil(f);
    slices::filled(gate_up.len() / 2, rows * f, |i, out| {
        let gate_up = &gate_up[i * rows * 2 * f..];
        for (out, row) in out.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f)) {
            let (gate, up) = row.split_at(f);
            simd::silu_mul(out, gate, up);
        }
    })
}

/// Replaces rows of gate and up by their gradients, given that of [`of_rows`].
pub(crate) fn rows_gradient(gate_up: &mut [f32], grad: &[f32], f: usize) {
    let rows = TASK_ELEMENTS.div_ceil(f);
    let tasks = gate_up.par_chunks_mut(rows * 2 * f).zip(grad.par_chunks(rows * f));
    tasks.for_each_init(Vec::new, |d_gate, (gate_up, grad)| {
        d_gate.resize(f, 0.0);
        for (row, grad) in gate_up.chunks_exact_mut(2 * f).zip(grad.chunks_exact(f)) {
            let (gate, up) = row.split_at_mut(f);
            simd::silu_mul_dgate(d_gate, gate, up, grad);
            simd::silu_mul(up, gate, grad);
            gate.copy_from_slice(d_gate);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::swiglu;
    use crate::conformance::{Input, check, random};

    #[test]
    fn conforms() {
        for shape in [(0, 5), (1, 1), (3, 7), (5, 64), (23, 1023)] {
            let (g, u) = (random(shape, 1), random(shape, 2));
            for inputs in [
                [Input::Tracked(g.clone()), Input::Tracked(u.clone())],
                [Input::Tracked(g.clone()), Input::Frozen(u.clone())],
                [Input::Frozen(g.clone()), Input::Tracked(u.clone())],
            ] {
                check(&format!("swiglu {shape:?}"), &inputs, |x| swiglu(&(&x[0] * 8.0)?, &x[1]));
            }
        }
    }

    #[test]
    fn refuses_shapes_that_differ() {
        assert!(swiglu(&random((2, 3), 1), &random((3, 2), 1)).is_err());
    }
}
