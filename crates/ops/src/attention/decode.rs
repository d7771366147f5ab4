//! Attention of single query rows against cached keys and values, bound by memory. In: query rows, and the keys and
//! values each sees; out: head outputs. Invariant: keys and values are read once, in memory order, and the result does
//! not depend on the number of threads.
//!
//! The keys are cut into stretches, each with a softmax of its own; the parts are joined by their maxima and sums
//! (Flash-Decoding, Dao et al. 2023). So one long sequence keeps every thread busy.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use super::AttentionShape;
use crate::simd;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Keys of a stretch.
const STRETCH: usize = 128;
/// Keys, or values, that are taken together: independent sums hide each other's latency.
const TOGETHER: usize = 4;

/// One query row.
pub(super) struct Row<'a> {
    /// `[heads * head_dim]`.
    pub(super) q: &'a [f32],
    /// The keys and values it sees, at least one of each, `[n, kv_heads * head_dim]`.
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    /// `[heads * head_dim]`.
    pub(super) out: &'a mut [f32],
}

/// One row's attention over one stretch of keys.
struct Part {
    /// Largest score, per head.
    max: Vec<f32>,
    /// Sum of `exp(score - max)`, per head.
    sum: Vec<f32>,
    /// Sum of `exp(score - max) * value`, `[heads * head_dim]`.
    weighted: Vec<f32>,
}

/// Fills every row's `out`.
pub(super) fn decode(rows: &mut [Row<'_>], shape: AttentionShape) {
    let stretch = STRETCH * shape.kv_heads * shape.head_dim;
    let tasks: Vec<_> = rows
        .iter()
        .flat_map(|row| row.k.chunks(stretch).zip(row.v.chunks(stretch)).map(|(k, v)| (row.q, k, v)))
        .collect();
    let parts: Vec<Part> =
        tasks.into_par_iter().map_init(Vec::new, |scores, (q, k, v)| Part::of(q, k, v, scores, shape)).collect();
    let mut parts = parts.as_slice();
    for row in rows {
        let (now, later) = parts.split_at(row.k.len().div_ceil(stretch));
        parts = later;
        join(now, row.out, shape.head_dim);
    }
}

impl Part {
    fn of(q: &[f32], k: &[f32], v: &[f32], scores: &mut Vec<f32>, shape: AttentionShape) -> Self {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let keys = k.len() / (kv_heads * head_dim);
        scores.resize(heads * keys, 0.0);
        Arch::new().dispatch(Scores { q, k, out: scores, shape });
        shape.soften(scores);
        let (mut max, mut sum) = (Vec::with_capacity(heads), Vec::with_capacity(heads));
        for scores in scores.chunks_exact_mut(keys) {
            let largest = simd::max(scores);
            max.push(largest);
            sum.push(simd::exp_sub_sum(scores, largest));
        }
        let mut weighted = vec![0.0; heads * head_dim];
        Arch::new().dispatch(Mix { p: scores, v, out: &mut weighted, shape });
        Self { max, sum, weighted }
    }
}

/// The softmax over all stretches.
fn join(parts: &[Part], out: &mut [f32], head_dim: usize) {
    out.fill(0.0);
    for (h, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let max = parts.iter().map(|part| part.max[h]).fold(f32::NEG_INFINITY, f32::max);
        let weight = |part: &Part| (part.max[h] - max).exp();
        let sum: f32 = parts.iter().map(|part| weight(part) * part.sum[h]).sum();
        for part in parts {
            simd::axpy(out, weight(part) / sum, &part.weighted[h * head_dim..][..head_dim]);
        }
    }
}

/// `out[h][j] = scale * q[h] . k[j]`, of the kv head that `h` shares.
struct Scores<'a> {
    q: &'a [f32],
    k: &'a [f32],
    out: &'a mut [f32],
    shape: AttentionShape,
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { q, k, out, shape } = self;
        let (hd, scale, stride) = (shape.head_dim, shape.scale(), shape.kv_heads * shape.head_dim);
        let keys = out.len() / shape.heads;
        let whole = keys / TOGETHER * TOGETHER;
        let heads = || q.chunks_exact(hd).enumerate().map(|(h, q)| (q, h * keys, h / shape.group() * hd));
        for j in (0..whole).step_by(TOGETHER) {
            let k = &k[j * stride..(j + TOGETHER) * stride];
            for (q, out_at, at) in heads() {
                let rows: [&[f32]; TOGETHER] = std::array::from_fn(|i| &k[i * stride + at..][..hd]);
                dots(simd, &mut out[out_at + j..][..TOGETHER], q, rows, scale);
            }
        }
        for j in whole..keys {
            for (q, out_at, at) in heads() {
                dots(simd, &mut out[out_at + j..][..1], q, [&k[j * stride + at..][..hd]], scale);
            }
        }
    }
}

/// `out[i] = scale * q . rows[i]`.
#[inline(always)]
fn dots<S: Simd, const N: usize>(simd: S, out: &mut [f32], q: &[f32], rows: [&[f32]; N], scale: f32) {
    let (q, q_tail) = S::as_simd_f32s(q);
    let rows = rows.map(|row| {
        let (row, tail) = S::as_simd_f32s(row);
        (&row[..q.len()], &tail[..q_tail.len()])
    });
    let mut sums = [simd.splat_f32s(0.0); N];
    for (at, q) in q.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(&rows) {
            *sum = simd.mul_add_e_f32s(*q, row.0[at], *sum);
        }
    }
    for ((out, sum), row) in out.iter_mut().zip(sums).zip(&rows) {
        // Heads are whole vectors as a rule; loading a part of one costs more than the head.
        let mut tail = 0.0;
        for (q, key) in q_tail.iter().zip(row.1) {
            tail += q * key;
        }
        *out = scale * (simd.reduce_sum_f32s(sum) + tail);
    }
}

/// `out[h] += sum_j p[h][j] * v[j]`, of the kv head that `h` shares.
struct Mix<'a> {
    p: &'a [f32],
    v: &'a [f32],
    out: &'a mut [f32],
    shape: AttentionShape,
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { p, v, out, shape } = self;
        let (hd, stride) = (shape.head_dim, shape.kv_heads * shape.head_dim);
        let keys = p.len() / shape.heads;
        let whole = keys / TOGETHER * TOGETHER;
        let at = |h: usize| h / shape.group() * hd;
        for j in (0..whole).step_by(TOGETHER) {
            let v = &v[j * stride..(j + TOGETHER) * stride];
            for (h, out) in out.chunks_exact_mut(hd).enumerate() {
                let rows: [&[f32]; TOGETHER] = std::array::from_fn(|i| &v[i * stride + at(h)..][..hd]);
                add(simd, out, &p[h * keys + j..][..TOGETHER], &rows);
            }
        }
        for j in whole..keys {
            for (h, out) in out.chunks_exact_mut(hd).enumerate() {
                add(simd, out, &p[h * keys + j..][..1], &[&v[j * stride + at(h)..][..hd]]);
            }
        }
    }
}

/// `out += sum_i p[i] * rows[i]`.
#[inline(always)]
fn add<S: Simd, const N: usize>(simd: S, out: &mut [f32], p: &[f32], rows: &[&[f32]; N]) {
    let (out, out_tail) = S::as_mut_simd_f32s(out);
    for (at, out) in out.iter_mut().enumerate() {
        for (row, p) in rows.iter().zip(p) {
            *out = simd.mul_add_e_f32s(simd.splat_f32s(*p), S::as_simd_f32s(row).0[at], *out);
        }
    }
    for (at, out) in out_tail.iter_mut().enumerate() {
        for (row, p) in rows.iter().zip(p) {
            *out += p * S::as_simd_f32s(row).1[at];
        }
    }
}
