//! Attention of new tokens against cached keys and values, for generation. In: per sequence the new queries and all
//! keys and values; out: head outputs of the new queries. Invariant: equal to the last rows of `attention` over the
//! whole sequence.

use super::AttentionShape;
use super::decode::{Row, decode};
use super::tile::{KvHead, Scratch, Transposed, blocks, take_rows};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::ops::Range;

/// Up to this many query rows, dot products with the keys are faster than the matrix product, which would pack the
/// keys.
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

/// Attention of new tokens against cached keys and values, for many sequences at once. No backward. Lengths are derived
/// from the slices.
///
/// In parallel over (sequence, kv head, block of query rows), and over stretches of keys where a sequence has few new
/// queries: then the cost is one read of its keys and values, in memory order.
///
/// # Panics
/// When the slices of a sequence do not fit each other and `shape`.
pub fn attention_cached(sequences: &mut [CachedSequence<'_>], shape: AttentionShape) {
    assert!(shape.is_sound(), "impossible shape {shape:?}");
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for CachedSequence { q, k, v, out } in sequences {
        let (n, total) = (q.len() / width, k.len() / kv_width);
        assert!(q.len() == n * width && k.len() == total * kv_width, "rows are not whole");
        assert!(out.len() == q.len() && v.len() == k.len() && n <= total, "lengths differ");
        let past = total - n;
        if n <= FEW_ROWS {
            let rows = q.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate();
            few.extend(rows.map(|(row, (q, out))| {
                let seen = shape.seen(past + row);
                let at = seen.start * kv_width..seen.end * kv_width;
                Row { q, k: &k[at.clone()], v: &v[at], out }
            }));
        } else {
            let heads = (0..shape.kv_heads).map(|head| KvHead { shape, head, k, v, past });
            many.push(Many { heads: heads.collect(), q, out });
        }
    }
    decode(&mut few, shape);
    prefill(&mut many, shape);
}

/// A sequence of many new queries.
struct Many<'a> {
    heads: Vec<KvHead<'a>>,
    q: &'a [f32],
    out: &'a mut [f32],
}

fn prefill(sequences: &mut [Many<'_>], shape: AttentionShape) {
    struct Task<'a> {
        head: KvHead<'a>,
        q: &'a [f32],
        keys_t: &'a Transposed,
        rows: Range<usize>,
        out: Vec<&'a mut [f32]>,
    }
    let heads: Vec<_> = sequences.iter().flat_map(|s| s.heads.iter().copied()).collect();
    let keys_t: Vec<_> = heads.par_iter().map(|head| head.transpose(head.k)).collect();
    let mut tasks = Vec::with_capacity(heads.len());
    for (Many { heads, q, out }, keys_t) in sequences.iter_mut().zip(keys_t.chunks_exact(shape.kv_heads)) {
        let mut rest = &mut **out;
        for rows in blocks(q.len() / (shape.heads * shape.head_dim), shape.block()) {
            let (outs, later) = take_rows(rest, rows.len(), shape.kv_heads, shape.group_width());
            rest = later;
            tasks.extend(heads.iter().zip(keys_t).zip(outs).map(|((head, keys_t), out)| Task {
                head: *head,
                q,
                keys_t,
                rows: rows.clone(),
                out,
            }));
        }
    }
    tasks.sort_by_key(|task| Reverse(task.head.keys(&task.rows).len() * task.rows.len()));
    tasks.into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, mut task| {
        task.head.forward(task.q, task.keys_t, &task.rows, scratch, &mut task.out, &mut []);
    });
}

#[cfg(test)]
mod tests {
    use super::{CachedSequence, attention_cached};
    use crate::conformance::random;
    use crate::{AttentionShape, Segments, attention};

    fn flat(x: &candle_core::Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Sequences of `total` rows, fed in steps of `step`, give what one call of `attention` gives.
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
                let shape = AttentionShape { heads, kv_heads, head_dim, window, ..AttentionShape::default() };
                for step in [1, 3, 5, 40, 200] {
                    equals_attention(&[1, 0, 37, 150], step, shape);
                    let capped = AttentionShape { scale: Some(0.9), cap: Some(0.4), ..shape };
                    equals_attention(&[1, 0, 37], step, capped);
                }
            }
        }
    }
}
