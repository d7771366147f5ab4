//! Rows picked from a matrix: token embeddings and scored positions. In: a matrix and row numbers; out: those rows, in
//! that order. Invariant: every row number is checked; a row may be picked many times, and its gradients then add up.

use crate::{form, simd, slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// Rows of `table` `[V, d]` at `ids`, `[T, d]`. Backward adds into the rows when `table` is tracked.
///
/// Errors when an id is not below `V`. Cost: one copy of the rows; backward, a matrix of zeros of the table's size.
pub fn embedding(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    gather_rows(table, ids)
}

/// Rows of `x` `[T, d]` at `rows`, `[n, d]`; backward scatters.
///
/// Errors when a row is not below `T`. Cost: one copy of the rows; backward, a matrix of zeros of the size of `x`.
pub fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (n, _) = x.dims2()?;
    if let Some(row) = rows.iter().find(|&&row| row as usize >= n) {
        bail!("row {row} of a matrix of {n} rows");
    }
    if !form::fused(x) {
        return x.index_select(&Tensor::new(rows, x.device())?, 0);
    }
    let x = x.contiguous()?;
    let op = GatherRows { rows: rows.to_vec() };
    if x.track_op() { x.apply_op1(op) } else { x.apply_op1_no_bwd(&op) }
}

struct GatherRows {
    rows: Vec<u32>,
}

impl CustomOp1 for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slices::cpu(x, layout)?;
        let (_, d) = layout.shape().dims2()?;
        let mut out = Vec::with_capacity(self.rows.len() * d);
        for &row in &self.rows {
            out.extend_from_slice(&x[row as usize * d..][..d]);
        }
        Ok((CpuStorage::F32(out), (self.rows.len(), d).into()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let g = slices::read(&grad);
        let (_, d) = x.dims2()?;
        let mut dx = vec![0.0; x.elem_count()];
        if d > 0 {
            for (&row, g) in self.rows.iter().zip(g.as_slice()?.chunks_exact(d)) {
                simd::axpy(&mut dx[row as usize * d..][..d], 1.0, g);
            }
        }
        Ok(Some(slices::tensor(dx, x.shape())))
    }
}

#[cfg(test)]
mod tests {
    use super::gather_rows;
    use crate::conformance::{Input, check, random};

    #[test]
    fn conforms() {
        let cases: [(usize, usize, &[u32]); 5] =
            [(4, 3, &[]), (1, 1, &[0]), (5, 7, &[4, 0, 4, 4, 2]), (3, 64, &[2, 1, 0]), (9, 33, &[8; 20])];
        for (n, d, rows) in cases {
            check("gather_rows", &[Input::Tracked(random((n, d), 1))], |x| gather_rows(&x[0], rows));
            check("gather_rows, frozen", &[Input::Frozen(random((n, d), 1))], |x| gather_rows(&x[0], rows));
        }
    }

    #[test]
    fn refuses_a_row_beyond_the_end() {
        assert!(gather_rows(&random((2, 3), 1), &[0, 2]).is_err());
        assert!(gather_rows(&random((0, 3), 1), &[0]).is_err());
    }
}
