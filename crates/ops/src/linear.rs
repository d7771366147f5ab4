//! Linear layers, plain and with a low-rank adapter. In: token rows and weights as `[out, in]`; out: one row per token.
//! Invariant: a product is computed for an input's gradient only when that input is tracked.

pub(crate) mod dropout;
mod lora;
mod panels;
pub(crate) mod product;
mod whole;

pub use dropout::Dropout;
pub(crate) use lora::{FactorsWanted, Pair};
pub use lora::{LoraInput, Owners, lora_linear};
pub(crate) use product::Columns;
pub use whole::Factor;

use crate::gemm::Mat;
use crate::{form, simd, slices, weight};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// `y = x W^T + bias`. `x` `[T, in]`, `weight` `[out, in]`, `bias` `[out]`, result `[T, out]`. A frozen weight in bf16
/// under rows in f32 on the CPU makes a product in bf16, with sums in f32.
///
/// Errors when the shapes do not fit. Cost: one product; backward, one for each of `x` and `weight` that is tracked.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check_shapes(x, weight, bias)?;
    #[cfg(feature = "cuda")]
    if crate::cuda::runs(x) {
        return crate::cuda::linear(x, weight, bias);
    }
    if !form::fused(x) {
        return composed(x, weight, bias);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let tracked = x.track_op() || weight.track_op();
    match bias {
        None if tracked => x.apply_op2(&weight, Linear),
        None => x.apply_op2_no_bwd(&weight, &Linear),
        Some(bias) => {
            let bias = bias.contiguous()?;
            if tracked || bias.track_op() {
                x.apply_op3(&weight, &bias, Linear)
            } else {
                x.apply_op3_no_bwd(&weight, &bias, &Linear)
            }
        }
    }
}

fn check_shapes(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    let ((_, inputs), (outputs, width)) = (x.dims2()?, weight.dims2()?);
    if inputs != width {
        bail!("linear: rows are {inputs} wide but the weight is {outputs} x {width}");
    }
    if let Some(bias) = bias.filter(|bias| bias.dims() != [outputs]) {
        bail!("linear: {outputs} outputs but the bias is {:?}", bias.shape());
    }
    Ok(())
}

fn composed(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.to_dtype(x.dtype())?.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((tokens, _), (outputs, _)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        let out = product::forward(slices::cpu(x, lx)?, weight::matrix(w, lw)?, None, tokens);
        Ok((CpuStorage::F32(out), (tokens, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        Ok((input_gradient(x, w, &grad)?, weight_gradient(x, w, &grad)?))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((tokens, _), (outputs, _)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        let out = product::forward(slices::cpu(x, lx)?, weight::matrix(w, lw)?, Some(slices::cpu(b, lb)?), tokens);
        Ok((CpuStorage::F32(out), (tokens, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        Ok((input_gradient(x, w, &grad)?, weight_gradient(x, w, &grad)?, bias_gradient(b, &grad)?))
    }
}

/// `dx = g W`.
fn input_gradient(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    if !x.track_op() {
        return Ok(None);
    }
    let (w, g) = (slices::read(weight), slices::read(grad));
    let dx = product::input_gradient(g.as_slice()?, weight::read_matrix(&w)?, x.dims2()?.0);
    Ok(Some(slices::tensor(dx, x.shape())))
}

/// `dW = g^T x`.
fn weight_gradient(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    if !weight.track_op() {
        return Ok(None);
    }
    let ((outputs, inputs), tokens) = (weight.dims2()?, x.dims2()?.0);
    let (x, g) = (slices::read(x), slices::read(grad));
    let (x, g) = (Mat::new(x.as_slice()?, tokens, inputs), Mat::new(g.as_slice()?, tokens, outputs));
    Ok(Some(slices::tensor(g.t().times(x).in_parallel().into_vec(), weight.shape())))
}

/// `db = sum of the rows of g`.
fn bias_gradient(bias: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    if !bias.track_op() {
        return Ok(None);
    }
    let grad = slices::read(grad);
    let mut db = vec![0.0; bias.elem_count()];
    if !db.is_empty() {
        grad.as_slice()?.chunks_exact(db.len()).for_each(|row| simd::axpy(&mut db, 1.0, row));
    }
    Ok(Some(slices::tensor(db, bias.shape())))
}

#[cfg(test)]
mod tests {
    use super::linear;
    use crate::conformance::{Input, check, check_bf16, random};

    #[test]
    fn conforms() {
        for (t, i, o) in [(0, 5, 3), (1, 1, 1), (1, 64, 96), (3, 7, 5), (6, 33, 65), (17, 64, 48), (70, 97, 101)] {
            let (x, w, b) = (random((t, i), 1), random((o, i), 2), random(o, 3));
            for mask in 0..8 {
                let pick = |bit: usize, x: &candle_core::Tensor| {
                    if mask >> bit & 1 == 1 { Input::Tracked(x.clone()) } else { Input::Frozen(x.clone()) }
                };
                let name = format!("linear {t}x{i}x{o}, tracked {mask:03b}");
                check(&name, &[pick(0, &x), pick(1, &w), pick(2, &b)], |x| linear(&x[0], &x[1], Some(&x[2])));
                check(&name, &[pick(0, &x), pick(1, &w)], |x| linear(&x[0], &x[1], None));
            }
        }
    }

    #[test]
    fn a_weight_in_bf16_conforms() {
        for (t, i, o) in [(0, 5, 3), (1, 64, 96), (6, 33, 65), (17, 64, 48), (70, 97, 101)] {
            let (x, w, b) = (random((t, i), 1), random((o, i), 2), random(o, 3));
            let inputs = [Input::Tracked(x), Input::Frozen(b)];
            check_bf16(&format!("linear {t}x{i}x{o}"), &inputs, &w, |x, w| linear(&x[0], w, Some(&x[1])));
            check_bf16(&format!("linear {t}x{i}x{o}"), &inputs, &w, |x, w| linear(&x[0], w, None));
        }
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() {
        let x = random((2, 3), 1);
        assert!(linear(&x, &random((4, 2), 1), None).is_err());
        assert!(linear(&x, &random((4, 3), 1), Some(&random(3, 1))).is_err());
    }
}
