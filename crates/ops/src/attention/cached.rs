//! Attention of new tokens against cached keys and values, for generation. In: per sequence the new queries and all keys
//! and values; out: head outputs of the new queries. Invariant: equal to the last rows of `attention` over the whole
//! sequence.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use super::AttentionShape;
use super::tile::{KvHead, Scratch, Transposed, blocks, take_rows};
use crate::simd;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Up to this many query rows, a pass over the keys with dot products beats the matrix product, which would pack them.
const FEW_ROWS: usize = 4;

/// One sequence's view for inference: `out` (`[n, heads * head_dim]`) from its `n` new queries at positions
/// `total - n .. total` and all `total` keys and values, each `[total, kv_heads * head_dim]`, row-major. CPU only.
pub struct CachedSequence<'a> {
    /// New queries, `[n, heads * head_dim]`.
    pub q: &'a [f32],
    /// All keys so far, the new ones included.
    pub k: &'a [f32],
    /// All values so far, the new ones included.
    pub v: &'a [f32],
    /// Where the result goes.
    pub out: &'a mut [f32],
}

/// Attention of new tokens against cached keys and values, for many sequences at once, in parallel over
/// (sequence, kv head, block of query rows). No backward. Lengths are derived from the slices.
///
/// # Panics
/// When the slices of a sequence do not fit each other and `shape`.
pub fn attention_cached(sequences: &mut [CachedSequence<'_>], shape: AttentionShape) {
    struct Task<'a> {
        head: KvHead<'a>,
        q: &'a [f32],
        /// None where few rows take the other way.
        keys_t: Option<&'a Transposed>,
        rows: Range<usize>,
        out: Vec<&'a mut [f32]>,
    }
    assert!(shape.is_sound(), "impossible shape {shape:?}");
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let mut heads = Vec::with_capacity(sequences.len() * shape.kv_heads);
    for &mut CachedSequence { q, k, v, ref out } in sequences.iter_mut() {
        let (n, total) = (q.len() / width, k.len() / kv_width);
        assert!(q.len() == n * width && k.len() == total * kv_width, "rows are not whole");
        assert!(out.len() == q.len() && v.len() == k.len() && n <= total, "lengths differ");
        heads.extend((0..shape.kv_heads).map(|head| (n, KvHead { shape, head, k, v, past: total - n })));
    }
    let keys_t: Vec<_> = heads.par_iter().map(|(n, head)| (*n > FEW_ROWS).then(|| head.transpose(head.k))).collect();
    let mut tasks = Vec::with_capacity(heads.len());
    for (index, CachedSequence { q, out, .. }) in sequences.iter_mut().enumerate() {
        let mut rest = &mut **out;
        let first = index * shape.kv_heads;
        for rows in blocks(q.len() / width, shape.block()) {
            let (outs, later) = take_rows(rest, rows.len(), shape.kv_heads, shape.group_width());
            rest = later;
            tasks.extend((first..).zip(outs).map(|(at, out)| {
                let (head, keys_t) = (heads[at].1, keys_t[at].as_ref());
                Task { head, q, keys_t, rows: rows.clone(), out }
            }));
        }
    }
    tasks.sort_by_key(|task| std::cmp::Reverse(task.head.keys(&task.rows).len() * task.rows.len()));
    tasks.into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, mut task| {
        if let Some(keys_t) = task.keys_t {
            task.head.forward(task.q, keys_t, &task.rows, scratch, &mut task.out, &mut []);
        } else {
            for (row, out) in task.rows.zip(task.out) {
                task.head.decode(task.q, row, &mut scratch.scores, out);
            }
        }
    });
}

impl KvHead<'_> {
    /// One query row: the heads of the group share one pass over the keys and one over the values.
    fn decode(&self, q: &[f32], row: usize, scores: &mut Vec<f32>, out: &mut [f32]) {
        let hd = self.shape.head_dim;
        let stride = self.shape.kv_heads * hd;
        let keys = self.seen(row);
        let at = keys.start * stride + self.head * hd;
        scores.resize(self.shape.group() * keys.len(), 0.0);
        let (q, scale) = (self.group_row(q, row), self.shape.scale());
        Arch::new().dispatch(Scores { q, k: &self.k[at..], out: scores, hd, stride, scale });
        for scores in scores.chunks_exact_mut(keys.len()) {
            let max = simd::max(scores);
            let sum = simd::exp_sub_sum(scores, max);
            simd::scale(scores, 1.0 / sum);
        }
        out.fill(0.0);
        Arch::new().dispatch(Mix { p: scores, v: &self.v[at..], out, hd, stride });
    }
}

/// `out[g][j] = scale * q[g] . k[j]`, where key `j` is the first `hd` elements of `k[j * stride..]`.
struct Scores<'a> {
    q: &'a [f32],
    k: &'a [f32],
    out: &'a mut [f32],
    hd: usize,
    stride: usize,
    scale: f32,
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let keys = self.out.len() * self.hd / self.q.len();
        for (j, key) in self.k.chunks(self.stride).take(keys).enumerate() {
            let (key, key_tail) = S::as_simd_f32s(&key[..self.hd]);
            let key_tail = simd.partial_load_f32s(key_tail);
            for (q, out) in self.q.chunks_exact(self.hd).zip(self.out.chunks_exact_mut(keys)) {
                let (q, q_tail) = S::as_simd_f32s(q);
                let mut sum = simd.mul_f32s(simd.partial_load_f32s(q_tail), key_tail);
                for (q, key) in q.iter().zip(key) {
                    sum = simd.mul_add_e_f32s(*q, *key, sum);
                }
                out[j] = self.scale * simd.reduce_sum_f32s(sum);
            }
        }
    }
}

/// `out[g] += sum_j p[g][j] * v[j]`, where value `j` is the first `hd` elements of `v[j * stride..]`.
struct Mix<'a> {
    p: &'a [f32],
    v: &'a [f32],
    out: &'a mut [f32],
    hd: usize,
    stride: usize,
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        /// Values added up before the sum goes back to memory.
        const TOGETHER: usize = 4;
        let Self { p, v, out, hd, stride } = self;
        let keys = p.len() * hd / out.len();
        let mut j = 0;
        while j + TOGETHER <= keys {
            let rows: [&[f32]; TOGETHER] = std::array::from_fn(|i| &v[(j + i) * stride..][..hd]);
            for (out, p) in out.chunks_exact_mut(hd).zip(p.chunks_exact(keys)) {
                add(simd, out, &p[j..j + TOGETHER], &rows);
            }
            j += TOGETHER;
        }
        for j in j..keys {
            for (out, p) in out.chunks_exact_mut(hd).zip(p.chunks_exact(keys)) {
                add(simd, out, &p[j..=j], &[&v[j * stride..][..hd]]);
            }
        }
    }
}

/// `out += sum_i p[i] * rows[i]`.
#[inline(always)]
fn add<S: Simd, const N: usize>(simd: S, out: &mut [f32], p: &[f32], rows: &[&[f32]; N]) {
    let (out, out_tail) = S::as_mut_simd_f32s(out);
    let mut tail = simd.partial_load_f32s(out_tail);
    for (row, p) in rows.iter().zip(p) {
        let (_, row) = S::as_simd_f32s(row);
        tail = simd.mul_add_e_f32s(simd.splat_f32s(*p), simd.partial_load_f32s(row), tail);
    }
    simd.partial_store_f32s(out_tail, tail);
    for (at, out) in out.iter_mut().enumerate() {
        for (row, p) in rows.iter().zip(p) {
            *out = simd.mul_add_e_f32s(simd.splat_f32s(*p), S::as_simd_f32s(row).0[at], *out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CachedSequence, attention_cached};
    use crate::conformance::random;
    use crate::{AttentionShape, Segments, attention};

    fn flat(x: &candle_core::Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Sequences of `total` rows fed in steps of `step` give what one pass of `attention` gives.
    fn equals_attention(total: &[usize], step: usize, shape: AttentionShape) {
        let segments = Segments::from_lengths(total.iter().copied());
        let (t, width, kv_width) = (segments.tokens(), shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let (q, k, v) = (random((t, width), 1), random((t, kv_width), 2), random((t, kv_width), 3));
        let want = flat(&attention(&q, &k, &v, &segments, shape).unwrap());
        let (q, k, v) = (flat(&q), flat(&k), flat(&v));
        let mut got = vec![0.0; want.len()];
        for start in (0..*total.iter().max().unwrap()).step_by(step) {
            let mut sequences = Vec::new();
            let mut rest = got.as_mut_slice();
            for rows in segments.iter() {
                let (now, later) = rest.split_at_mut(rows.len() * width);
                rest = later;
                let (from, to) = (start.min(rows.len()), (start + step).min(rows.len()));
                let cached = rows.start * kv_width..(rows.start + to) * kv_width;
                sequences.push(CachedSequence {
                    q: &q[(rows.start + from) * width..(rows.start + to) * width],
                    k: &k[cached.clone()],
                    v: &v[cached],
                    out: &mut now[from * width..to * width],
                });
            }
            attention_cached(&mut sequences, shape);
        }
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() < 1e-5, "{total:?} by {step}, {shape:?}: element {i} is {got}, not {want}");
        }
    }

    #[test]
    fn steps_of_any_size_equal_one_pass() {
        for (heads, kv_heads, head_dim) in [(1, 1, 3), (4, 2, 16), (9, 3, 20)] {
            for window in [None, Some(1), Some(6), Some(1000)] {
                let shape = AttentionShape { heads, kv_heads, head_dim, window };
                for step in [1, 3, 5, 40, 150] {
                    equals_attention(&[1, 0, 37, 110], step, shape);
                }
            }
        }
    }
}
