//! stub
use candle_core::{Result, Tensor};

/// Rows of `table` `[V, d]` at `ids`, `[T, d]`. Backward adds into the rows when `table` is tracked.
pub fn embedding(_table: &Tensor, _ids: &[u32]) -> Result<Tensor> {
    todo!()
}

/// Rows of `x` `[T, d]` at `rows`, `[n, d]`; backward scatters.
pub fn gather_rows(_x: &Tensor, _rows: &[u32]) -> Result<Tensor> {
    todo!()
}
