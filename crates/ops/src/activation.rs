//! The activation of an MLP. In: gate and up projections of equal shape, or the up projection alone; out: what the down
//! projection reads. Invariant: backward recomputes from the inputs, so nothing is kept but them.

use crate::{form, simd, slices};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Elements of one parallel task.
const TASK_ELEMENTS: usize = 1 << 14;

/// What an MLP does between its projections. The order is that of the numbers in `cuda/kernels/rows.cu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up` (Shazeer 2020, arXiv 2002.05202).
    #[default]
    Silu,
    /// `gelu(gate) * up`, with the tanh form of GELU.
    GeluTanh,
    /// `relu(up)^2`; there is no gate (So et al. 2021, arXiv 2109.08668).
    ReluSquared,
}

impl Activation {
    /// True when the MLP has a gate projection.
    pub fn is_gated(self) -> bool {
        self != Self::ReluSquared
    }
}

/// The activation of `gate`, where there is one, and `up`, element by element, both `[T, f]`.
///
/// Errors when the shapes differ, or a gate is missing or too many. Cost: one pass forward, one per tracked input
/// backward.
pub fn activate(activation: Activation, gate: Option<&Tensor>, up: &Tensor) -> Result<Tensor> {
    let Some(gate) = gate else {
        if activation.is_gated() {
            bail!("activation: {activation:?} needs a gate");
        }
        #[cfg(feature = "cuda")]
        if crate::cuda::runs(up) {
            return crate::cuda::activate(activation as u32, None, up);
        }
        if !form::fused(up) {
            return up.relu()?.sqr();
        }
        let up = up.contiguous()?;
        return if up.track_op() { up.apply_op1(ReluSquared) } else { up.apply_op1_no_bwd(&ReluSquared) };
    };
    if !activation.is_gated() || gate.shape() != up.shape() {
        bail!("activation: {activation:?} of a gate {:?} and up {:?}", gate.shape(), up.shape());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::runs(up) {
        return crate::cuda::activate(activation as u32, Some(gate), up);
    }
    if !form::fused(gate) {
        return match activation {
            Activation::GeluTanh => composed_gelu(gate)?.mul(up),
            _ => gate.silu()?.mul(up),
        };
    }
    let (gate, up, op) = (gate.contiguous()?, up.contiguous()?, Gated(activation));
    if gate.track_op() || up.track_op() { gate.apply_op2(&up, op) } else { gate.apply_op2_no_bwd(&up, &op) }
}

/// candle's own has constants of six digits.
fn composed_gelu(x: &Tensor) -> Result<Tensor> {
    let z = ((x.sqr()? * 0.044_715)? + 1.0)?.mul(x)?;
    let z = (z * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?;
    (x * 0.5)?.mul(&(z + 1.0)?)
}

struct Gated(Activation);

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated activation"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, lg: &Layout, up: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = gated(self.0, slices::cpu(gate, lg)?, slices::cpu(up, lu)?);
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
                mul_dgate(self.0, out, g, u, d);
            });
            slices::tensor(dgate, gate.shape())
        });
        let dup = up.track_op().then(|| slices::tensor(gated(self.0, g, d), up.shape()));
        Ok((dgate, dup))
    }
}

struct ReluSquared;

impl CustomOp1 for ReluSquared {
    fn name(&self) -> &'static str {
        "squared relu"
    }

    fn cpu_fwd(&self, up: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(squared(slices::cpu(up, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, up: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (u, d) = (slices::read(up), slices::read(&grad));
        let (mut dup, d) = (u.as_slice()?.to_vec(), d.as_slice()?);
        squared_gradient(&mut dup, d);
        Ok(Some(slices::tensor(dup, up.shape())))
    }
}

/// `out = act(gate) * up`.
fn mul(activation: Activation, out: &mut [f32], gate: &[f32], up: &[f32]) {
    match activation {
        Activation::GeluTanh => simd::gelu_mul(out, gate, up),
        _ => simd::silu_mul(out, gate, up),
    }
}

/// Given the gradient of `act(gate) * up`, the gradient of `gate`.
fn mul_dgate(activation: Activation, dgate: &mut [f32], gate: &[f32], up: &[f32], grad: &[f32]) {
    match activation {
        Activation::GeluTanh => simd::gelu_mul_dgate(dgate, gate, up, grad),
        _ => simd::silu_mul_dgate(dgate, gate, up, grad),
    }
}

fn gated(activation: Activation, gate: &[f32], up: &[f32]) -> Vec<f32> {
    slices::filled(gate.len(), TASK_ELEMENTS, |i, out| {
        let (gate, up) = (task(gate, i, out.len()), task(up, i, out.len()));
        mul(activation, out, gate, up);
    })
}

fn squared(up: &[f32]) -> Vec<f32> {
    slices::filled(up.len(), TASK_ELEMENTS, |i, out| {
        let up = task(up, i, out.len());
        out.iter_mut().zip(up).for_each(|(y, x)| *y = x.max(0.0) * x.max(0.0));
    })
}

/// Replaces `up` by its gradient, given that of [`squared`].
fn squared_gradient(up: &mut [f32], grad: &[f32]) {
    let tasks = up.par_chunks_mut(TASK_ELEMENTS).zip(grad.par_chunks(TASK_ELEMENTS));
    tasks.for_each(|(up, grad)| up.iter_mut().zip(grad).for_each(|(u, d)| *u = 2.0 * u.max(0.0) * d));
}

/// The elements of task `i`, which has `len` of them.
fn task(x: &[f32], i: usize, len: usize) -> &[f32] {
    &x[i * TASK_ELEMENTS..][..len]
}

/// The activation of rows that hold gate and up beside each other, `[T, 2 f]` to `[T, f]`; without a gate, of `[T, f]`.
pub(crate) fn of_rows(activation: Activation, gate_up: &[f32], f: usize) -> Vec<f32> {
    if !activation.is_gated() {
        return squared(gate_up);
    }
    let rows = TASK_ELEMENTS.div_ceil(f);
    slices::filled(gate_up.len() / 2, rows * f, |i, out| {
        let gate_up = &gate_up[i * rows * 2 * f..];
        for (out, row) in out.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f)) {
            let (gate, up) = row.split_at(f);
            mul(activation, out, gate, up);
        }
    })
}

/// Replaces rows of gate and up by their gradients, given that of [`of_rows`].
pub(crate) fn rows_gradient(activation: Activation, gate_up: &mut [f32], grad: &[f32], f: usize) {
    if !activation.is_gated() {
        return squared_gradient(gate_up, grad);
    }
    let rows = TASK_ELEMENTS.div_ceil(f);
    let tasks = gate_up.par_chunks_mut(rows * 2 * f).zip(grad.par_chunks(rows * f));
    tasks.for_each_init(Vec::new, |d_gate, (gate_up, grad)| {
        d_gate.resize(f, 0.0);
        for (row, grad) in gate_up.chunks_exact_mut(2 * f).zip(grad.chunks_exact(f)) {
            let (gate, up) = row.split_at_mut(f);
            mul_dgate(activation, d_gate, gate, up, grad);
            mul(activation, up, gate, grad);
            gate.copy_from_slice(d_gate);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{Activation, activate};
    use crate::conformance::{Input, check, random};

    const GATED: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

    #[test]
    fn gated_activations_conform() {
        for shape in [(0, 5), (1, 1), (3, 7), (5, 64), (23, 1023)] {
            let (g, u) = (random(shape, 1), random(shape, 2));
            for inputs in [
                [Input::Tracked(g.clone()), Input::Tracked(u.clone())],
                [Input::Tracked(g.clone()), Input::Frozen(u.clone())],
                [Input::Frozen(g.clone()), Input::Tracked(u.clone())],
            ] {
                for act in GATED {
                    let name = format!("{act:?} {shape:?}");
                    check(&name, &inputs, |x| activate(act, Some(&(&x[0] * 8.0)?), &x[1]));
                }
            }
        }
    }

    #[test]
    fn squared_relu_conforms() {
        for shape in [(0, 5), (1, 1), (3, 7), (23, 1023)] {
            let input = [Input::Tracked(random(shape, 1))];
            check(&format!("{shape:?}"), &input, |x| activate(Activation::ReluSquared, None, &x[0]));
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (a, b) = (random((2, 3), 1), random((3, 2), 1));
        for act in GATED {
            assert!(activate(act, Some(&a), &b).is_err());
            assert!(activate(act, None, &a).is_err());
        }
        assert!(activate(Activation::ReluSquared, Some(&a), &a).is_err());
    }
}
