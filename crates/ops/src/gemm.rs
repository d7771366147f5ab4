//! Matrix products on row-major slices, by the gemm crate. In: two matrices as slices with row strides; out: the
//! product written or added into a third. Invariant: every slice is checked to cover the matrix it stands for.

/// A borrowed row-major matrix, or its transpose: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A contiguous row-major `rows x cols` matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows are `row_stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || data.len() >= (rows - 1) * row_stride + cols, "matrix does not fit its slice");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, without moving data.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// `dst = alpha * a @ b`, or `dst += ...` when `accumulate`. `dst` is row-major, `a.rows x b.cols`, with rows
/// `dst_stride` apart. Runs on the current rayon pool when `parallel`, else on this thread.
pub fn matmul_into(dst: &mut [f32], dst_stride: usize, a: Mat<'_>, b: Mat<'_>, alpha: f32, accumulate: bool, parallel: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "inner sizes differ");
    if m == 0 || n == 0 {
        return;
    }
    assert!(dst.len() >= (m - 1) * dst_stride + n, "product does not fit its slice");
    let threads = if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: `Mat` and the assertion above prove that every element addressed by (rows, cols, strides) lies inside
    // its slice; `dst` is borrowed mutably, so it cannot overlap `a` or `b`.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m, n, k,
            dst.as_mut_ptr(), 1, dst_stride as isize,
            accumulate,
            a.data.as_ptr(), a.col_stride as isize, a.row_stride as isize,
            b.data.as_ptr(), b.col_stride as isize, b.row_stride as isize,
            1.0, alpha,
            false, false, false,
            threads,
        );
    }
}
