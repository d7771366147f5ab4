//! Rotary position embedding. In: rows of heads and the position of each row; out: the rotated rows. Invariant: the
//! backward is the rotation by the opposite angle.
//!
//! In the half-split (Hugging Face) layout element `i` of a head turns with element `i + n / 2`, where the first `n`
//! elements of a head are rotated (all of them, as a rule); in the interleaved layout element `2 i` turns with `2 i +
//! 1`.

use crate::linear::Columns;
use crate::{form, slices};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Elements of one parallel task: enough to outweigh handing it to a thread.
const TASK_ELEMENTS: usize = 1 << 14;

/// Cosines and sines of every position and frequency.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[max_positions, n / 2]`, both, where `n` elements of a head are rotated.
    cos: Tensor,
    sin: Tensor,
    head_dim: usize,
    interleaved: bool,
}

impl RopeTable {
    /// A table for `inv_freq` (`head_dim / 2` frequencies, scaling already applied) and positions `0..max_positions`;
    /// `scale` multiplies cosines and sines (1.0 for plain RoPE). Heads are rotated whole, half-split.
    ///
    /// An angle is the f32 product of position and frequency, as in the reference implementation (Hugging Face
    /// `LlamaRotaryEmbedding`). Holds `max_positions * head_dim` f32 values.
    pub fn new(inv_freq: &[f32], max_positions: usize, scale: f32, device: &Device) -> Result<Self> {
        Self::scaled(inv_freq, max_positions, |_| scale, device)
    }

    /// As [`Self::new`], with a scale for each position.
    pub fn scaled(
        inv_freq: &[f32],
        max_positions: usize,
        scale: impl Fn(usize) -> f32 + Sync,
        device: &Device,
    ) -> Result<Self> {
        let half = inv_freq.len();
        if half == 0 || max_positions == 0 || u32::try_from(max_positions).is_err() {
            bail!("rope: no table for {half} frequencies and {max_positions} positions");
        }
        let (mut cos, mut sin) = (vec![0.0; max_positions * half], vec![0.0; max_positions * half]);
        let rows = cos.par_chunks_exact_mut(half).zip(sin.par_chunks_exact_mut(half)).enumerate();
        rows.for_each(|(position, (cos, sin))| {
            let scale = scale(position);
            for ((cos, sin), f) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let (s, c) = f64::from(position as f32 * f).sin_cos();
                (*cos, *sin) = (c as f32 * scale, s as f32 * scale);
            }
        });
        let shape = (max_positions, half);
        let (cos, sin) = (Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?);
        Ok(Self { cos, sin, head_dim: 2 * half, interleaved: false })
    }

    /// For heads `head_dim` wide, of which the first `2 * frequencies` elements are rotated and the others stay.
    ///
    /// Errors when a head has fewer elements than are rotated.
    pub fn with_layout(self, head_dim: usize, interleaved: bool) -> Result<Self> {
        if head_dim < 2 * self.half() {
            bail!("rope: {} elements cannot be rotated in heads of {head_dim}", 2 * self.half());
        }
        Ok(Self { head_dim, interleaved, ..self })
    }

    /// Positions the table covers: `0..max_positions`.
    pub fn max_positions(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Width of the heads that it rotates.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    fn half(&self) -> usize {
        self.cos.dims()[1]
    }

    #[cfg(feature = "cuda")]
    fn rotation(&self) -> crate::cuda::Rotation {
        let Self { cos, sin, head_dim, interleaved } = self.clone();
        crate::cuda::Rotation { cos, sin, head_dim, interleaved }
    }
}

/// Rotates each head of `x` `[T, h * head_dim]` by its token's position. Backward rotates the other way.
///
/// Errors when the width is no multiple of the table's head width, when there is not one position per row, or when a
/// position lies beyond the table. Cost: one pass over `x`.
pub fn rope(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if width % table.head_dim != 0 {
        bail!("rope: width {width} is no multiple of the head width {}", table.head_dim);
    }
    if positions.len() != rows {
        bail!("rope: {rows} rows but {} positions", positions.len());
    }
    if let Some(p) = positions.iter().find(|&&p| p as usize >= table.max_positions()) {
        bail!("rope: position {p} lies beyond the {} positions of the table", table.max_positions());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::runs(x) {
        return crate::cuda::rope(x, &table.rotation(), positions);
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
    let (count, still) = (width / table.head_dim, table.head_dim - 2 * half);
    let heads = x.reshape((rows, count, table.head_dim))?;
    let (a, b) = if table.interleaved {
        let pairs = heads.narrow(2, 0, 2 * half)?.reshape((rows, count, half, 2))?;
        (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
    } else {
        (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?)
    };
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let mut parts = if table.interleaved {
        vec![Tensor::stack(&[first, second], 3)?.reshape((rows, count, 2 * half))?]
    } else {
        vec![first, second]
    };
    if still > 0 {
        parts.push(heads.narrow(2, 2 * half, still)?);
    }
    Tensor::cat(&parts, 2)?.reshape((rows, width))
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
                let angles = (&cos[at.clone()], &sin[at]);
                if self.interleaved {
                    rotate_pairs(out, x, angles, self.head_dim, direction);
                } else {
                    rotate_row(out, x, angles, self.head_dim, direction);
                }
            }
        });
        Ok(())
    }
}

/// Rotates every head of one row by the same angles, half-split.
fn rotate_row(out: &mut [f32], x: &[f32], (cos, sin): (&[f32], &[f32]), head_dim: usize, direction: f32) {
    let half = cos.len();
    for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
        let ((a, rest), (out_a, out_rest)) = (x.split_at(half), out.split_at_mut(half));
        let ((b, still), (out_b, out_still)) = (rest.split_at(half), out_rest.split_at_mut(half));
        for i in 0..half {
            let sin = direction * sin[i];
            out_a[i] = a[i] * cos[i] - b[i] * sin;
            out_b[i] = b[i] * cos[i] + a[i] * sin;
        }
        out_still.copy_from_slice(still);
    }
}

/// As [`rotate_row`], interleaved.
fn rotate_pairs(out: &mut [f32], x: &[f32], (cos, sin): (&[f32], &[f32]), head_dim: usize, direction: f32) {
    let rotated = 2 * cos.len();
    for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
        let pairs = out[..rotated].chunks_exact_mut(2).zip(x[..rotated].chunks_exact(2));
        for ((out, x), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
            let sin = direction * sin;
            out[0] = x[0] * cos - x[1] * sin;
            out[1] = x[1] * cos + x[0] * sin;
        }
        out[rotated..].copy_from_slice(&x[rotated..]);
    }
}

#[cfg(test)]
mod tests {
    use super::{RopeTable, rope};
    use crate::conformance::{Input, check, random};
    use candle_core::{Device, Tensor};

    fn table(half: usize, positions: usize) -> RopeTable {
        table_on(&Device::Cpu, half, positions)
    }

    fn table_on(device: &Device, half: usize, positions: usize) -> RopeTable {
        let inv_freq: Vec<f32> = (0..half).map(|i| 100f32.powf(-(i as f32) / half as f32)).collect();
        RopeTable::new(&inv_freq, positions, 1.5, device).unwrap()
    }

    #[test]
    fn conforms() {
        for (t, heads, half) in [(0, 1, 2), (1, 1, 1), (5, 3, 7), (90, 3, 32)] {
            let positions: Vec<u32> = (0..t as u32).map(|i| i * 13 % 40).collect();
            let x = random((t, heads * 2 * half), 1);
            check(&format!("rope {t}x{heads}x{half}"), &[Input::Tracked(x)], |x| {
                rope(&x[0], &table_on(x[0].device(), half, 40), &positions)
            });
        }
        for (head_dim, interleaved) in [(8, true), (12, false), (9, true)] {
            let positions: Vec<u32> = (0..11).map(|i| i * 7 % 40).collect();
            let name = format!("rope of 8 in {head_dim}, interleaved: {interleaved}");
            check(&name, &[Input::Tracked(random((11, 3 * head_dim), 1))], |x| {
                rope(&x[0], &table_on(x[0].device(), 4, 40).with_layout(head_dim, interleaved)?, &positions)
            });
        }
        assert!(table(4, 40).with_layout(6, false).is_err());
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
