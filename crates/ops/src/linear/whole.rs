//! A pair of which one factor is the identity, so that the other is a change of the whole weight. In: token rows and
//! that change; out: what it adds, and its gradients. Invariant: equal to the products with both factors; those with
//! the identity are left out.

use super::product::Columns;
use crate::gemm::{Mat, Update};

/// One of the two factors of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    /// `[r, in]`.
    A,
    /// `[out, r]`.
    B,
}

/// The change of a whole weight.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a> {
    /// `[outputs, inputs]`.
    pub(super) values: &'a [f32],
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) scale: f32,
}

impl<'a> Whole<'a> {
    fn matrix(&self) -> Mat<'a> {
        Mat::new(self.values, self.outputs, self.inputs)
    }

    /// Adds `scale * x D^T` to `columns` of `out`.
    pub(super) fn forward(&self, x: &[f32], out: &mut [f32], columns: Columns) {
        let product = Mat::new(x, x.len() / self.inputs, self.inputs).times(self.matrix().t()).scaled(self.scale);
        product.in_parallel().store(&mut out[columns.at..], columns.stride, Update::Add);
    }

    /// With `g` the `columns` of `grad`: `dD = scale g^T x`, and `scale g D` is added to `dx`.
    pub(super) fn backward(&self, x: &[f32], grad: &[f32], columns: Columns, dx: Option<&mut [f32]>) -> Vec<f32> {
        let tokens = x.len() / self.inputs;
        let g = Mat::strided(&grad[columns.at..], tokens, self.outputs, columns.stride);
        if let Some(dx) = dx {
            g.times(self.matrix()).scaled(self.scale).in_parallel().store(dx, self.inputs, Update::Add);
        }
        g.t().times(Mat::new(x, tokens, self.inputs)).scaled(self.scale).in_parallel().into_vec()
    }
}
