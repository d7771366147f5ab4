//! Matrix products on row-major slices, by the gemm crate. In: two matrices as slices with row strides; out: their
//! product, written to or added to a third, or a new one. Invariant: every slice is checked to cover its matrix.

use std::sync::atomic::{AtomicU64, Ordering};

/// Operations of all products so far.
static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Floating-point operations of all matrix products of this process so far, a multiply and an add counted as two:
/// arithmetic rates are computed from it.
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

/// What is done with the numbers that the destination holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    /// It is overwritten.
    Replace,
    /// The result is added to it.
    Add,
}

/// The product `alpha * a @ b` of two matrices, to be written, added or returned. Computed on this thread unless
/// [`Self::in_parallel`] is asked for.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Product<'a> {
    a: Mat<'a>,
    b: Mat<'a>,
    alpha: f32,
    parallelism: gemm::Parallelism,
}

impl<'a> Mat<'a> {
    /// The product with `b`.
    ///
    /// # Panics
    /// When the inner sizes differ.
    pub fn times(self, b: Mat<'a>) -> Product<'a> {
        assert_eq!(self.cols, b.rows, "inner sizes differ");
        Product { a: self, b, alpha: 1.0, parallelism: gemm::Parallelism::None }
    }
}

impl Product<'_> {
    /// Times `alpha`.
    pub fn scaled(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    /// On the current rayon pool.
    pub fn in_parallel(self) -> Self {
        Self { parallelism: gemm::Parallelism::Rayon(0), ..self }
    }

    /// Replaces the first columns of `dst`, row-major with rows `stride` apart. Every element of the product is
    /// written, also when the inner size is 0.
    ///
    /// # Panics
    /// When rows of `dst` overlap or `dst` is too short.
    pub fn write(self, dst: &mut [f32], stride: usize) {
        if self.fits(dst.len(), stride) {
            // SAFETY: `fits` is true, and `dst` is borrowed mutably.
            #[allow(unsafe_code)]
            unsafe {
                self.run(dst.as_mut_ptr(), stride, false);
            }
        }
    }

    /// Adds to the first columns of `dst`, row-major with rows `stride` apart.
    ///
    /// # Panics
    /// When rows of `dst` overlap or `dst` is too short.
    pub fn add_to(self, dst: &mut [f32], stride: usize) {
        if self.fits(dst.len(), stride) {
            // SAFETY: `fits` is true, and `dst` is borrowed mutably and initialised.
            #[allow(unsafe_code)]
            unsafe {
                self.run(dst.as_mut_ptr(), stride, true);
            }
        }
    }

    /// Writes to or adds to the first columns of `dst`, row-major with rows `stride` apart.
    pub(crate) fn store(self, dst: &mut [f32], stride: usize, update: Update) {
        match update {
            Update::Replace => self.write(dst, stride),
            Update::Add => self.add_to(dst, stride),
        }
    }

    /// The product as a matrix of its own, row-major. Its memory is written once, by the product.
    pub fn into_vec(self) -> Vec<f32> {
        let (rows, cols) = (self.a.rows, self.b.cols);
        let mut values = Vec::with_capacity(rows * cols);
        if self.fits(values.capacity(), cols) {
            // SAFETY: the capacity covers rows * cols elements, nothing else points to them, and without `add` none is
            // read.
            #[allow(unsafe_code)]
            unsafe {
                self.run(values.as_mut_ptr(), cols, false);
            }
        }
        // SAFETY: `run` wrote every element of the product, which is all of the vector; where it did not run there are
        // none.
        #[allow(unsafe_code)]
        unsafe {
            values.set_len(rows * cols);
        }
        values
    }

    /// True when there is something to write and `len` elements with rows `stride` apart hold it.
    fn fits(&self, len: usize, stride: usize) -> bool {
        let (m, n) = (self.a.rows, self.b.cols);
        if m == 0 || n == 0 {
            return false;
        }
        assert!(m == 1 || stride >= n, "rows of the product overlap");
        assert!(len >= (m - 1) * stride + n, "product does not fit its slice");
        true
    }

    /// Writes or adds the product.
    ///
    /// # Safety
    /// `dst` is valid for writes of rows of `self.b.cols` elements, `stride` apart, that nothing else points to; with
    /// `add` they are initialised.
    #[allow(unsafe_code)]
    unsafe fn run(self, dst: *mut f32, stride: usize, add: bool) {
        let Self { a, b, alpha, parallelism } = self;
        let (m, k, n) = (a.rows, a.cols, b.cols);
        count(m, k, n);
        // SAFETY: `Mat` proves that every element of `a` and `b` addressed by (rows, cols, strides) lies inside its
        // slice; the caller guarantees `dst`, which gemm reads only with `add`, and writes as a whole, also when `k` is
        // 0.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                dst,
                1,
                stride as isize,
                add,
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
                parallelism,
            );
        }
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
            let (left, right) = (Mat::strided(&a, k, m, a_stride).t(), Mat::strided(&b, k, n, b_stride));
            let product = left.times(right).scaled(0.5);
            for product in [product, product.in_parallel()] {
                let (mut written, mut added, own) = (c.clone(), c.clone(), product.into_vec());
                product.write(&mut written, c_stride);
                product.add_to(&mut added, c_stride);
                assert_eq!(own.len(), m * n);
                for (at, &old) in c.iter().enumerate().take(m * c_stride) {
                    let (i, j) = (at / c_stride, at % c_stride);
                    if j >= n {
                        assert_eq!([written[at], added[at]], [old; 2], "{m}x{k}x{n} at {i}, {j}");
                        continue;
                    }
                    let sum: f32 = (0..k).map(|l| a[l * a_stride + i] * b[l * b_stride + j]).sum();
                    let got = [written[at], added[at], own[i * n + j]];
                    assert_eq!(got, [0.5 * sum, 0.5 * sum + old, 0.5 * sum], "{m}x{k}x{n} at {i}, {j}");
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
        Mat::new(&[0.0; 2], 2, 1).times(Mat::new(&[0.0; 3], 1, 3)).write(&mut [0.0; 5], 3);
    }
}
