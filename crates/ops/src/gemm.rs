//! Matrix products on row-major slices, by the gemm crate. In: two matrices as slices with row strides; out: the
//! product written or added into a third. Invariant: every slice is checked to cover the matrix it stands for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Operations of all products so far.
static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Floating-point operations of all matrix products of this process so far, a multiply and an add counted as two: what an
/// arithmetic rate is taken from.
pub fn operations() -> u64 {
    OPERATIONS.load(Ordering::Relaxed)
}

/// Counts a product of `m x k` and `k x n`.
pub(crate) fn count(m: usize, k: usize, n: usize) {
    OPERATIONS.fetch_add(2 * m as u64 * k as u64 * n as u64, Ordering::Relaxed);
}

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
    ///
    /// # Panics
    /// When the slice is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows are `row_stride` elements apart.
    ///
    /// # Panics
    /// When the slice is too short.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || cols == 0 || data.len() >= (rows - 1) * row_stride + cols,
            "matrix does not fit its slice"
        );
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, without moving data.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// `dst = alpha * a @ b`, or `dst += ...` when `accumulate`. `dst` is row-major, `a.rows x b.cols`, with rows
/// `dst_stride` apart. Runs on the current rayon pool when `parallel`, else on this thread. Every element of the
/// product is written when not accumulating, also when the inner size is 0.
///
/// # Panics
/// When the inner sizes differ, rows of `dst` overlap or `dst` is too short.
pub fn matmul_into(
    dst: &mut [f32],
    dst_stride: usize,
    a: Mat<'_>,
    b: Mat<'_>,
    alpha: f32,
    accumulate: bool,
    parallel: bool,
) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "inner sizes differ");
    if m == 0 || n == 0 {
        return;
    }
    assert!(m == 1 || dst_stride >= n, "rows of the product overlap");
    assert!(dst.len() >= (m - 1) * dst_stride + n, "product does not fit its slice");
    count(m, k, n);
    let threads = if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: `Mat` and the assertions of above prove that every element addressed by (rows, cols, strides)
    // lies inside its slice; `dst` is borrowed mutably, so it cannot overlap `a` or `b`.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // exact by construction
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 + seed * 17) % 23) as f32 - 11.0).collect()
    }

    #[test]
    fn agrees_with_the_definition_on_strided_and_transposed_matrices() {
        for (m, k, n) in [(0, 3, 2), (1, 1, 1), (3, 0, 2), (5, 7, 3), (17, 33, 9), (70, 65, 130)] {
            let (a_stride, b_stride, c_stride) = (m + 2, n + 3, n + 1);
            // `a` is stored transposed: k rows of m.
            let (a, b, c) = (numbers(k * a_stride, 1), numbers(k * b_stride, 2), numbers(m * c_stride, 3));
            for (accumulate, parallel) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut got = c.clone();
                let (left, right) = (Mat::strided(&a, k, m, a_stride).t(), Mat::strided(&b, k, n, b_stride));
                matmul_into(&mut got, c_stride, left, right, 0.5, accumulate, parallel);
                for i in 0..m {
                    for j in 0..c_stride {
                        let sum: f32 =
                            (0..k).map(|l| a[l * a_stride + i] * b.get(l * b_stride + j).unwrap_or(&0.0)).sum();
                        let old = c[i * c_stride + j];
                        let want = if j >= n { old } else { 0.5 * sum + if accumulate { old } else { 0.0 } };
                        assert_eq!(got[i * c_stride + j], want, "{m}x{k}x{n} at {i}, {j}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn refuses_a_slice_that_is_too_short() {
        Mat::new(&[0.0; 5], 2, 3);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn refuses_a_product_that_is_too_short() {
        matmul_into(&mut [0.0; 5], 3, Mat::new(&[0.0; 2], 2, 1), Mat::new(&[0.0; 3], 1, 3), 1.0, false, false);
    }
}
