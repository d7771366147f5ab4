//! Backward from a known gradient. In: an output and the gradient of the loss with respect to it; out: the gradients of
//! everything tracked below. Invariant: equal to the backward of `sum(output * grad)`, without computing it.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, backprop::GradStore, bail};

/// Gradients of everything tracked below `output`, given the gradient of the loss with respect to `output`.
///
/// Errors when the two differ in shape, type or device.
pub fn backward_from(output: &Tensor, grad: &Tensor) -> Result<GradStore> {
    if output.shape() != grad.shape() || output.dtype() != grad.dtype() {
        bail!(
            "output is {:?} {:?} but its gradient {:?} {:?}",
            output.shape(),
            output.dtype(),
            grad.shape(),
            grad.dtype()
        );
    }
    if !output.device().same_device(grad.device()) {
        bail!("output and its gradient are on different devices");
    }
    if output.device().is_cpu() || output.device().is_cuda() {
        output.apply_op1(Seed { grad: grad.detach() })?.backward()
    } else {
        (output * grad.detach())?.sum_all()?.backward()
    }
}

/// Stands for a loss whose gradient is known: its value is never used.
struct Seed {
    grad: Tensor,
}

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "backward_from"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, output: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let one = output.device.alloc_zeros::<f32>(1)?;
        Ok((CudaStorage::wrap_cuda_slice(one, output.device.clone()), ().into()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, _one: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.grad.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::backward_from;
    use crate::conformance::random;
    use candle_core::{DType, Tensor, Var};

    fn flat(x: &Tensor) -> Vec<f64> {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn equals_the_backward_of_the_weighted_sum() {
        for dtype in [DType::F32, DType::F64] {
            let x = Var::from_tensor(&random((3, 5), 1).to_dtype(dtype).unwrap()).unwrap();
            let grad = random((3, 5), 2).to_dtype(dtype).unwrap();
            let y = x.sqr().unwrap();
            let got = backward_from(&y, &grad).unwrap();
            let want = (&y * &grad).unwrap().sum_all().unwrap().backward().unwrap();
            assert_eq!(flat(got.get(&x).unwrap()), flat(want.get(&x).unwrap()));
        }
    }

    #[test]
    fn nothing_tracked_gives_nothing() {
        let (x, grad) = (random((2, 2), 1), random((2, 2), 2));
        assert!(backward_from(&x, &grad).unwrap().get(&x).is_none());
    }

    #[test]
    fn refuses_a_gradient_of_another_shape() {
        assert!(backward_from(&random((2, 3), 1), &random((3, 2), 2)).is_err());
    }
}
