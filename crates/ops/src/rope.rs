//! Rotary position embedding, half-split (Hugging Face) layout: element `i` of a head turns with element
//! `i + head_dim / 2`. In: rows of heads and the position of each row; out: the rotated rows. Invariant: a rotation
//! keeps every pair's length, and the backward is the rotation by the opposite angle.

use crate::linear::Columns;
use crate::{form, slices};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Elements of one parallel task: enough to outweigh handing it to a thread.
const TASK_ELEMENTS: usize = 1 << 14;

/// Cosines and sines of every position and frequency, half-split (Hugging Face) layout.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[max_positions, head_dim / 2]`, both.
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// A table for `inv_freq` (`head_dim / 2` frequencies, Llama-3 scaling already applied) and positions
    /// `0..max_positions`; `scale` multiplies cosines and sines (1.0 for plain RoPE).
    ///
    /// An angle is the f32 product of position and frequency, as in the reference implementation (Hugging Face
    /// `LlamaRotaryEmbedding`). Holds `max_positions * head_dim` f32 values.
    pub fn new(inv_freq: &[f32], max_positions: usize, scale: f32, device: &Device) -> Result<Self> {
        let half = inv_freq.len();
        if half == 0 || max_positions == 0 || u32::try_from(max_positions).is_err() {
            bail!("rope: no table for {half} frequencies and {max_positions} positions");
        }
        let (mut cos, mut sin) = (vec![0.0; max_positions * half], vec![0.0; max_positions * half]);
        let rows = cos.par_chunks_exact_mut(half).zip(sin.par_chunks_exact_mut(half)).enumerate();
        rows.for_each(|(position, (cos, sin))| {
            for ((cos, sin), f) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let (s, c) = f64::from(position as f32 * f).sin_cos();
                (*cos, *sin) = (c as f32 * scale, s as f32 * scale);
            }
        });
        let shape = (max_positions, half);
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    /// Positions the table covers: `0..max_positions`.
    pub fn max_positions(&self) -> usize {
        self.cos.dims()[0]
    }

    fn half(&self) -> usize {
        self.cos.dims()[1]
    }
}

/// Rotates each head of `x` `[T, h * head_dim]` by its token's position. Backward rotates the other way.
///
/// Errors when the width is no multiple of the table's head width, when there is not one position per row, or when a
/// position lies beyond the table. Cost: one pass over `x`.
pub fn rope(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if width % (2 * table.half()) != 0 {
        bail!("rope: width {width} is no multiple of the head width {}", 2 * table.half());
    }
    if positions.len() != rows {
        bail!("rope: {rows} rows but {} positions", positions.len());
    }
    if let Some(p) = positions.iter().find(|&&p| p as usize >= table.max_positions()) {
        bail!("rope: position {p} lies beyond the {} positions of the table", table.max_positions());
    }
    if !form::fused(x) {
        return composed(x, table, positions);
    }
    let x = x.contiguous()?;
    let op = Rope { table: table.clone(), positions: positions.into(), direction: 1.0 };
    if x.track_op() { x.apply_op1(op) } else { x.apply_op1_no_bwd(&op) }
}

fn composed(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if rows == 0 {
        return Ok(x.clone());
    }
    let half = table.half();
    let positions = Tensor::new(positions, x.device())?;
    let pick = |t: &Tensor| t.index_select(&positions, 0)?.to_dtype(x.dtype())?.reshape((rows, 1, half));
    let (cos, sin) = (pick(&table.cos)?, pick(&table.sin)?);
    let heads = x.reshape((rows, width / (2 * half), 2 * half))?;
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.reshape((rows, width))
}

struct Rope {
    table: RopeTable,
    positions: Vec<u32>,
    /// 1 rotates forward, -1 back.
    direction: f32,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slices::cpu(storage, layout)?;
        let mut out = vec![0.0; x.len()];
        if !x.is_empty() {
            let columns = Columns { stride: x.len() / self.positions.len(), at: 0 };
            self.table.rotate((&mut out, columns), (x, columns), columns.stride, &self.positions, self.direction)?;
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let op = Self { table: self.table.clone(), positions: self.positions.clone(), direction: -self.direction };
        grad.contiguous()?.apply_op1_no_bwd(&op).map(Some)
    }
}

impl RopeTable {
    /// Rotates `width` columns of every row of `x` by the row's position, forward (`direction` 1) or back (-1), into
    /// columns of `out`.
    pub(crate) fn rotate(
        &self,
        (out, to): (&mut [f32], Columns),
        (x, from): (&[f32], Columns),
        width: usize,
        positions: &[u32],
        direction: f32,
    ) -> Result<()> {
        let half = self.half();
        let (cos, sin) = (slices::read(&self.cos), slices::read(&self.sin));
        let (cos, sin) = (cos.as_slice()?, sin.as_slice()?);
        let rows = TASK_ELEMENTS.div_ceil(width.max(1));
        let tasks = out.par_chunks_mut(rows * to.stride).zip(x.par_chunks(rows * from.stride));
        tasks.zip(positions.par_chunks(rows)).for_each(|((out, x), positions)| {
            let rows = out.chunks_exact_mut(to.stride).zip(x.chunks_exact(from.stride));
            for ((out, x), &p) in rows.zip(positions) {
                let at = p as usize * half..(p as usize + 1) * half;
                let (out, x) = (&mut out[to.at..to.at + width], &x[from.at..from.at + width]);
                rotate_row(out, x, &cos[at.clone()], &sin[at], direction);
            }
        });
        Ok(())
    }
}

/// Rotates every head of one row by the same angles.
fn rotate_row(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], direction: f32) {
    let half = cos.len();
    for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
        let ((a, b), (out_a, out_b)) = (x.split_at(half), out.split_at_mut(half));
        for i in 0..half {
            let sin = direction * sin[i];
            out_a[i] = a[i] * cos[i] - b[i] * sin;
            out_b[i] = b[i] * cos[i] + a[i] * sin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RopeTable, rope};
    use crate::conformance::{Input, check, random};
    use candle_core::{Device, Tensor};

    fn table(half: usize, positions: usize) -> RopeTable {
        let inv_freq: Vec<f32> = (0..half).map(|i| 100f32.powf(-(i as f32) / half as f32)).collect();
        RopeTable::new(&inv_freq, positions, 1.5, &Device::Cpu).unwrap()
    }

    #[test]
    fn conforms() {
        for (t, heads, half) in [(0, 1, 2), (1, 1, 1), (5, 3, 7), (90, 3, 32)] {
            let positions: Vec<u32> = (0..t as u32).map(|i| i * 13 % 40).collect();
            let (x, table) = (random((t, heads * 2 * half), 1), table(half, 40));
            check(&format!("rope {t}x{heads}x{half}"), &[Input::Tracked(x)], |x| rope(&x[0], &table, &positions));
        }
    }

    #[test]
    fn turns_pairs_by_the_angle() {
        let table = RopeTable::new(&[0.5], 4, 1.0, &Device::Cpu).unwrap();
        let x = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let y = rope(&x, &table, &[0, 3]).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y, [[1.0, 0.0], [-(1.5f32.sin()), 1.5f32.cos()]]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (x, table) = (random((2, 8), 1), table(2, 4));
        assert!(rope(&x, &table, &[0, 3]).is_ok());
        assert!(rope(&x, &table, &[0]).is_err());
        assert!(rope(&random((2, 6), 1), &table, &[0, 3]).is_err());
        let error = rope(&x, &table, &[0, 4]).unwrap_err().to_string();
        assert!(error.contains("position 4 lies beyond the 4 positions"), "{error}");
        assert!(RopeTable::new(&[], 4, 1.0, &Device::Cpu).is_err());
        assert!(RopeTable::new(&[1.0], usize::MAX, 1.0, &Device::Cpu).is_err());
    }
}
