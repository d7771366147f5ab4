//! Matrix products, by cuBLAS. In: matrices in rows, f32 or bf16; out: their product. Invariant: sums are in f32, and a
//! product of bf16 is rounded once, if its result is bf16.

use super::device::Address;
use candle_core::cuda_backend::{
    CudaDevice, WrapErr,
    cudarc::cublas::{
        result::gemm_strided_batched_ex,
        sys::{cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType},
    },
};
use candle_core::{DType, Result, bail};
use std::ffi::c_void;

/// A matrix on the device, in rows without gaps; or several, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    at: Address<'a>,
    dtype: DType,
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// `rows` by `cols`, from `at` on.
    pub(super) fn new(at: Address<'a>, dtype: DType, rows: usize, cols: usize) -> Self {
        Self { at, dtype, rows, cols, transposed: false }
    }

    /// The same, read as its transpose.
    pub(super) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn dims(self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    fn op(self) -> cublasOperation_t {
        if self.transposed { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N }
    }
}

/// `out = alpha * a b + beta * out`, for each of `batch` matrices that lie one after the other on all sides.
///
/// Errors when the shapes or types do not fit.
#[allow(unsafe_code)]
pub(super) fn multiply(
    device: &CudaDevice,
    [a, b, out]: [Matrix<'_>; 3],
    batch: usize,
    (alpha, beta): (f32, f32),
) -> Result<()> {
    let ((m, k), (k_b, n)) = (a.dims(), b.dims());
    if k != k_b || out.dims() != (m, n) || out.transposed || a.dtype != b.dtype {
        bail!("no product of {:?} {:?} and {:?} {:?} as {:?}", a.dims(), a.dtype, b.dims(), b.dtype, out.dims());
    }
    if m * n * batch == 0 {
        return Ok(());
    }
    let kind = |dtype: DType| match dtype {
        DType::BF16 => Ok(cudaDataType::CUDA_R_16BF),
        DType::F32 => Ok(cudaDataType::CUDA_R_32F),
        other => bail!("no product of {other:?}"),
    };
    let size = |n: usize| i32::try_from(n).map_err(|_| candle_core::Error::Msg(format!("a matrix of {n} rows")).bt());
    let stride = |x: Matrix<'_>| (x.rows * x.cols) as i64;
    let (alpha, beta): (*const f32, *const f32) = (&raw const alpha, &raw const beta);
    // cuBLAS counts by columns: rows read so are the transpose, and `(a b)^T = b^T a^T`.
    // SAFETY: the addresses are those of matrices of these shapes and types, which the callers keep alive and of which
    // the last may be written; the factors are read before the call returns.
    unsafe {
        gemm_strided_batched_ex(
            *device.cublas_handle().handle(),
            b.op(),
            a.op(),
            size(n)?,
            size(m)?,
            size(k)?,
            alpha.cast::<c_void>(),
            b.at.at as *const c_void,
            kind(b.dtype)?,
            size(b.cols)?,
            stride(b),
            a.at.at as *const c_void,
            kind(a.dtype)?,
            size(a.cols)?,
            stride(a),
            beta.cast::<c_void>(),
            out.at.at as *mut c_void,
            kind(out.dtype)?,
            size(n)?,
            stride(out),
            size(batch)?,
            cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}
