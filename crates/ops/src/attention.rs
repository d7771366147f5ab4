//! Causal attention with grouped queries. In: projected and rotated rows of queries, keys and values; out: one row of
//! head outputs per query row. Invariant: a position sees itself and earlier positions of its own sequence, never
//! another sequence; with a sliding window only the last `window` of them.

mod cached;
mod decode;
pub(crate) mod flash;
pub(crate) mod shape;
mod tile;

use crate::{Segments, form, slices};
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use flash::{Inputs, Want};
use std::sync::OnceLock;

pub use cached::{CachedSequence, attention_cached};
pub use shape::AttentionShape;

/// Block-causal attention over packed sequences.
/// `q` `[T, heads * head_dim]`, `k` and `v` `[T, kv_heads * head_dim]`, result `[T, heads * head_dim]`.
///
/// The fused form never holds more than a block of query rows by the keys of one sequence; for the backward it keeps
/// `T * heads` numbers. Errors when widths, row counts or heads do not fit together.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, shape: AttentionShape) -> Result<Tensor> {
    let tokens = segments.tokens();
    if !shape.is_sound() {
        bail!("attention: impossible shape {shape:?}");
    }
    for (name, x, heads) in [("q", q, shape.heads), ("k", k, shape.kv_heads), ("v", v, shape.kv_heads)] {
        if x.dims() != [tokens, heads * shape.head_dim] {
            bail!("attention: {name} is {:?}, not {tokens} rows of {heads} heads of {}", x.dims(), shape.head_dim);
        }
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::runs(q) {
        return crate::cuda::attention(q, k, v, segments, shape);
    }
    if !form::fused(q) {
        return composed(q, k, v, segments, shape);
    }
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let op = Attention { segments: segments.clone(), shape, lse: OnceLock::new() };
    if q.track_op() || k.track_op() || v.track_op() { q.apply_op3(&k, &v, op) } else { q.apply_op3_no_bwd(&k, &v, &op) }
}

struct Attention {
    segments: Segments,
    shape: AttentionShape,
    /// Logarithm of every softmax's normaliser, `[T, heads]`; set by the forward, read by the backward.
    lse: OnceLock<Vec<f32>>,
}

impl Attention {
    fn inputs<'a>(&'a self, q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Inputs<'a> {
        Inputs { q, k, v, segments: &self.segments, shape: self.shape }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (slices::cpu(q, q_layout)?, slices::cpu(k, k_layout)?, slices::cpu(v, v_layout)?);
        let (out, lse) = self.inputs(q, k, v).forward();
        self.lse.get_or_init(|| lse);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(lse) = self.lse.get() else { bail!("attention: backward before forward") };
        let want = Want { q: q.track_op(), k: k.track_op(), v: v.track_op() };
        let grad = grad.contiguous()?;
        let gradients = {
            let (q, k, v) = (slices::read(q), slices::read(k), slices::read(v));
            let grad = slices::read(&grad);
            let inputs = self.inputs(q.as_slice()?, k.as_slice()?, v.as_slice()?);
            inputs.backward(grad.as_slice()?, lse, want)
        };
        let tensor = |data: Option<Vec<f32>>, like: &Tensor| data.map(|data| slices::tensor(data, like.shape()));
        Ok((tensor(gradients.q, q), tensor(gradients.k, k), tensor(gradients.v, v)))
    }
}

/// Sequence by sequence, softmax in f32 at least.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, shape: AttentionShape) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_dim, window, .. } = shape;
    let mut outputs = Vec::with_capacity(segments.len());
    for (rows, past) in (0..segments.len()).map(|i| (segments.range(i), segments.past(i))) {
        if rows.is_empty() {
            continue;
        }
        let (n, total) = (rows.len(), past.len() + rows.len());
        let split = |x: &Tensor, heads: usize| x.reshape((x.dims()[0], heads, head_dim))?.transpose(0, 1)?.contiguous();
        let repeat = |x: &Tensor| {
            let own = x.narrow(0, rows.start, n)?;
            let x = match past.len() {
                0 => own,
                beginning => Tensor::cat(&[x.narrow(0, past.start, beginning)?, own], 0)?,
            };
            let x = split(&x, kv_heads)?.unsqueeze(1)?;
            x.broadcast_as((kv_heads, shape.group(), total, head_dim))?.reshape((heads, total, head_dim))
        };
        let (q, k, v) = (split(&q.narrow(0, rows.start, n)?, heads)?, repeat(k)?, repeat(v)?);
        let scores = shape.finish(&form::wide(&q.matmul(&k.t()?)?)?)?;
        let scores = scores.broadcast_add(&mask(n, total, window, q.device())?.to_dtype(scores.dtype())?)?;
        let p = scores.broadcast_sub(&scores.max_keepdim(2)?.detach())?.exp()?;
        let p = p.broadcast_div(&p.sum_keepdim(2)?)?.to_dtype(v.dtype())?;
        outputs.push(p.matmul(&v)?.transpose(0, 1)?.reshape((n, heads * head_dim))?);
    }
    if outputs.is_empty() { Ok(q.clone()) } else { Tensor::cat(&outputs, 0) }
}

/// `[n, total]`: 0 where row `i`, at position `total - n + i`, sees key `j`, negative infinity elsewhere.
fn mask(n: usize, total: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let window = window.unwrap_or(total);
    let sees = |i: usize, j: usize| j <= i && i - j < window;
    let mask = (0..n * total).map(|at| if sees(total - n + at / total, at % total) { 0.0 } else { f32::NEG_INFINITY });
    Tensor::from_vec(mask.collect::<Vec<f32>>(), (n, total), device)
}

#[cfg(test)]
mod tests {
    use super::{AttentionShape, attention};
    use crate::Segments;
    use crate::conformance::{Input, check, random};

    fn input(tracked: bool, tokens: usize, width: usize, seed: u64) -> Input {
        let x = random((tokens, width), seed);
        if tracked { Input::Tracked(x) } else { Input::Frozen(x) }
    }

    fn conforms(lengths: &[usize], shape: AttentionShape, tracked: [bool; 3]) {
        let segments = Segments::from_lengths(lengths.iter().copied());
        conforms_packed(&segments, shape, tracked);
    }

    fn conforms_packed(segments: &Segments, shape: AttentionShape, tracked: [bool; 3]) {
        let (t, hd) = (segments.tokens(), shape.head_dim);
        let inputs = [
            input(tracked[0], t, shape.heads * hd, 1),
            input(tracked[1], t, shape.kv_heads * hd, 2),
            input(tracked[2], t, shape.kv_heads * hd, 3),
        ];
        let name = format!("attention {segments:?} {shape:?} {tracked:?}");
        check(&name, &inputs, |x| attention(&x[0], &x[1], &x[2], segments, shape));
    }

    #[test]
    fn groups_windows_and_packs_conform() {
        for (heads, kv_heads) in [(1, 1), (4, 2), (3, 1), (6, 2)] {
            for window in [None, Some(2), Some(3), Some(100)] {
                let shape = AttentionShape { heads, kv_heads, head_dim: 5, window, ..AttentionShape::default() };
                conforms(&[0, 7, 0, 1, 12, 0], shape, [true; 3]);
            }
        }
        for cap in [None, Some(0.3), Some(50.0)] {
            let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 5, window: Some(9), scale: Some(0.7), cap };
            conforms(&[0, 7, 1, 30], shape, [true; 3]);
        }
        // A window of one: the scores do not matter.
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, window: Some(1), ..AttentionShape::default() };
        conforms(&[3, 4], shape, [false, false, true]);
        conforms(
            &[],
            AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, window: None, ..AttentionShape::default() },
            [true; 3],
        );
    }

    #[test]
    fn sequences_longer_than_a_tile_and_a_piece_conform() {
        // 96 rows make a tile, 256 a piece.
        let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, window: None, ..AttentionShape::default() };
        conforms(&[100], AttentionShape { window: Some(50), ..shape }, [true; 3]);
        conforms(&[258], shape, [false, true, true]);
    }

    #[test]
    fn shared_beginnings_conform() {
        let pack = [(5, None), (4, Some(0)), (2, None), (0, Some(0)), (3, Some(2)), (20, Some(0)), (6, None)];
        let segments = Segments::continuing(&pack);
        for window in [None, Some(1), Some(3), Some(7)] {
            let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 5, window, ..AttentionShape::default() };
            let scores_matter = window != Some(1);
            conforms_packed(&segments, shape, [scores_matter, scores_matter, true]);
        }
        let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, window: None, ..AttentionShape::default() };
        conforms_packed(&Segments::continuing(&[(20, None), (100, Some(0))]), shape, [true; 3]);
        conforms_packed(&Segments::continuing(&[(300, None), (9, Some(0)), (8, Some(0))]), shape, [false, true, true]);
    }

    /// What a beginning that is in the pack once gives equals what its copies give.
    #[test]
    fn a_shared_beginning_equals_its_copies() {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 8, window: Some(9), ..AttentionShape::default() };
        let shared = Segments::continuing(&[(7, None), (5, Some(0)), (9, Some(0))]);
        let copies = Segments::from_lengths([12, 16]);
        let rows: Vec<u32> = (0..12).chain(0..7).chain(12..21).collect();
        let pick = |x: &candle_core::Tensor| {
            x.index_select(&candle_core::Tensor::new(rows.as_slice(), x.device()).unwrap(), 0).unwrap()
        };
        let (q, k, v) = (random((21, 32), 1), random((21, 16), 2), random((21, 16), 3));
        let once = pick(&attention(&q, &k, &v, &shared, shape).unwrap());
        let twice = attention(&pick(&q), &pick(&k), &pick(&v), &copies, shape).unwrap();
        let gap = (once - twice).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(gap < 1e-6, "{gap}");
    }

    #[test]
    fn only_tracked_inputs_get_a_gradient() {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 4, window: Some(4), ..AttentionShape::default() };
        for bits in 1..7 {
            conforms(&[5, 9], shape, [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0]);
        }
    }

    #[test]
    fn untracked_inputs_leave_no_graph_and_large_scores_do_not_overflow() {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 8, window: None, ..AttentionShape::default() };
        let (q, k, v) = (random((9, 16), 1), random((9, 8), 2), random((9, 8), 3));
        let (q, k) = ((q * 1e4).unwrap(), (k * 1e4).unwrap());
        let out = attention(&q, &k, &v, &Segments::from_lengths([9]), shape).unwrap();
        assert!(!out.track_op());
        assert!(out.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|x| x.abs() <= 1.0));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, window: None, ..AttentionShape::default() };
        let (q, k, segments) = (random((3, 8), 1), random((3, 4), 2), Segments::from_lengths([3]));
        assert!(attention(&q, &k, &k, &segments, shape).is_ok());
        assert!(attention(&q, &q, &k, &segments, shape).is_err());
        assert!(attention(&q, &k, &k, &Segments::from_lengths([2]), shape).is_err());
        for bad in [
            AttentionShape { window: Some(0), ..shape },
            AttentionShape { kv_heads: 0, ..shape },
            AttentionShape { heads: 3, kv_heads: 2, ..shape },
        ] {
            assert!(attention(&q, &k, &k, &segments, bad).is_err());
        }
    }
}
