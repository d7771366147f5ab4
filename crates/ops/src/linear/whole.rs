//! A pair of which one factor is the identity, so that the other is a change of the whole weight. In: token rows and
//! that change; out: what it adds, and its gradients. Invariant: equal to the products with both factors; those with
//! the identity are left out.

use super::lora::{Factors, Pair};
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
pub(crate) struct Whole<'a> {
    /// `[outputs, inputs]`.
    values: &'a [f32],
    outputs: usize,
    inputs: usize,
    scale: f32,
    /// The factor that is the identity.
    identity: Factor,
}

impl<'a> Whole<'a> {
    /// That of a pair; None where both factors are to be multiplied.
    pub(crate) fn of(pair: &Pair<'a>) -> Option<Self> {
        let plain = pair.dropout.is_none() && pair.owners.is_none();
        let identity = pair.identity.filter(|_| plain)?;
        let (inputs, outputs) = pair.widths();
        let values = if identity == Factor::A { pair.b } else { pair.a };
        (values.len() == outputs * inputs).then_some(Self { values, outputs, inputs, scale: pair.scale, identity })
    }

    fn matrix(&self) -> Mat<'a> {
        Mat::new(self.values, self.outputs, self.inputs)
    }

    /// Adds `scale * x D^T` to `columns` of `out`.
    pub(crate) fn forward(&self, x: &[f32], out: &mut [f32], columns: Columns) {
        let product = Mat::new(x, x.len() / self.inputs, self.inputs).times(self.matrix().t()).scaled(self.scale);
        product.in_parallel().store(&mut out[columns.at..], columns.stride, Update::Add);
    }

    /// With `g` the `columns` of `grad`: `dD = scale g^T x`, and `scale g D` is added to `dx`.
    pub(crate) fn backward(&self, x: &[f32], grad: &[f32], columns: Columns, dx: Option<&mut [f32]>) -> Factors {
        let tokens = x.len() / self.inputs;
        let g = Mat::strided(&grad[columns.at..], tokens, self.outputs, columns.stride);
        if let Some(dx) = dx {
            g.times(self.matrix()).scaled(self.scale).in_parallel().store(dx, self.inputs, Update::Add);
        }
        let found = g.t().times(Mat::new(x, tokens, self.inputs)).scaled(self.scale).in_parallel().into_vec();
        match self.identity {
            Factor::A => Factors { a: Vec::new(), b: found },
            Factor::B => Factors { a: found, b: Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random;
    use crate::linear::FactorsWanted;

    #[test]
    fn products_with_the_identity_are_left_out() {
        for (tokens, outputs, inputs) in [(1, 3, 5), (7, 5, 3), (130, 16, 24), (70, 24, 16), (9, 4, 4)] {
            let rank = outputs.min(inputs);
            let unit: Vec<f32> =
                (0..rank * rank).map(|i: usize| f32::from(u8::from(i.is_multiple_of(rank + 1)))).collect();
            let flat = |shape: (usize, usize), seed| -> Vec<f32> {
                random(shape, seed).flatten_all().unwrap().to_vec1().unwrap()
            };
            let (change, x) = (flat((outputs, inputs), 1), flat((tokens, inputs), 2));
            // Columns of wider rows, as in a block.
            let (stride, at) = (outputs + 3, 2);
            let grad = flat((tokens, stride), 3);
            for identity in [Factor::A, Factor::B].into_iter().filter(|f| match f {
                Factor::A => inputs <= outputs,
                Factor::B => outputs <= inputs,
            }) {
                let (a, b) = if identity == Factor::A { (&unit, &change) } else { (&change, &unit) };
                let of = |identity| Pair { a, b, rank, scale: 1.0, dropout: None, owners: None, identity };
                let columns = Columns { stride, at };
                let run = |pair: Pair<'_>| {
                    let (mut out, mut dx) = (flat((tokens, stride), 4), flat((tokens, inputs), 5));
                    let low = pair.forward(&x, &mut out, columns);
                    let want = FactorsWanted { a: true, b: true };
                    let found = pair.backward(&x, &low, &grad, columns, Some(&mut dx), want);
                    (out, dx, if identity == Factor::A { found.b } else { found.a })
                };
                let (whole, both) = (run(of(Some(identity))), run(of(None)));
                for (found, expected) in [(whole.0, both.0), (whole.1, both.1), (whole.2, both.2)] {
                    assert_eq!(found.len(), expected.len());
                    for (x, y) in found.iter().zip(&expected) {
                        assert!((x - y).abs() < 1e-4, "{tokens} {outputs} {inputs} {identity:?}: {x}, {y}");
                    }
                }
            }
        }
    }
}
