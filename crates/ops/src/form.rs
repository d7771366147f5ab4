//! Which form of an operation runs: fused on the CPU, that of `cuda` on a CUDA device, composed elsewhere or when a test
//! asks for it.

use candle_core::{DType, Result, Tensor};
use std::cell::Cell;

thread_local! {
    static COMPOSED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with every operation called on this thread in its composed form, so that what runs on a GPU is run on
/// the CPU too.
pub fn with_composed<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            COMPOSED.with(|c| c.set(self.0));
        }
    }
    let _restore = Restore(COMPOSED.with(|c| c.replace(true)));
    f()
}

/// True when a test asks for the composed form.
pub fn is_composed() -> bool {
    COMPOSED.with(Cell::get)
}

/// True when `x` lives where the fused CPU form can run.
pub fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && !COMPOSED.with(Cell::get)
}

/// `x` in the precision that sums and exponentials of a composed form are taken in: f32, or f64 if it is f64.
pub(crate) fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 })
}
