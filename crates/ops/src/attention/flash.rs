//! Fused attention over packed sequences and its backward. In: packed rows of queries, keys and values; out: outputs
//! and the logarithm of every softmax's normaliser, or gradients. Invariant: no matrix larger than a block of query
//! rows by the keys of one sequence is held, and results do not depend on the number of threads.
//!
//! After `FlashAttention` (Dao et al. 2022): the backward recomputes the probabilities from the stored normalisers.
//! Cost for a sequence of `L`: `2 L^2 * heads * head_dim` operations forward, `5 L^2 * heads * head_dim` backward.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use super::AttentionShape;
use super::tile::{KvHead, Scratch, Transposed, blocks, padded, take_rows};
use crate::Segments;
use crate::gemm::Mat;
use crate::simd;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Query rows whose contribution to the gradients of keys and values one task adds up.
const PIECE: usize = 256;

/// Everything a task reads: the packed rows of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) segments: &'a Segments,
    pub(crate) shape: AttentionShape,
}

/// Keys and values that one sequence attends to: its beginning's and its own, `[past + n, kv_heads * head_dim]`.
struct Context<'a> {
    k: Cow<'a, [f32]>,
    v: Cow<'a, [f32]>,
    past: usize,
    shape: AttentionShape,
}

impl Context<'_> {
    fn head(&self, head: usize) -> KvHead<'_> {
        KvHead { shape: self.shape, head, k: &self.k, v: &self.v, past: self.past }
    }

    fn heads(&self) -> impl Iterator<Item = KvHead<'_>> {
        (0..self.shape.kv_heads).map(|head| self.head(head))
    }
}

impl<'a> Inputs<'a> {
    /// What each sequence attends to. A beginning's rows are copied in front of each continuation: a few thousand
    /// numbers, against the products that they take part in.
    fn contexts(&self) -> Vec<Context<'a>> {
        let width = self.shape.kv_heads * self.shape.head_dim;
        let rows = |x: &'a [f32], at: Range<usize>| &x[at.start * width..at.end * width];
        let both = |x: &'a [f32], past: &Range<usize>, own: Range<usize>| match past.len() {
            0 => Cow::Borrowed(rows(x, own)),
            _ => Cow::Owned([rows(x, past.clone()), rows(x, own)].concat()),
        };
        let context = |i: usize| {
            let (past, own) = (self.segments.past(i), self.segments.range(i));
            let (k, v) = (both(self.k, &past, own.clone()), both(self.v, &past, own));
            Context { k, v, past: past.len(), shape: self.shape }
        };
        (0..self.segments.len()).map(context).collect()
    }

    /// The rows of one sequence in a matrix of the queries' width.
    fn rows(&self, x: &'a [f32], sequence: &Range<usize>) -> &'a [f32] {
        let width = self.shape.heads * self.shape.head_dim;
        &x[sequence.start * width..sequence.end * width]
    }

    /// Every head's keys or values transposed, at `sequence * kv_heads + head`.
    fn transposed<'c>(contexts: &'c [Context<'_>], of: fn(&KvHead<'c>) -> &'c [f32]) -> Vec<Transposed> {
        let heads: Vec<_> = contexts.iter().flat_map(Context::heads).collect();
        heads.par_iter().map(|head| head.transpose(of(head))).collect()
    }

    /// Outputs `[T, heads * head_dim]` and log-sum-exp `[T, heads]`.
    pub(crate) fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        struct Task<'a, 'o> {
            head: KvHead<'a>,
            q: &'a [f32],
            keys_t: &'o Transposed,
            rows: Range<usize>,
            out: Vec<&'o mut [f32]>,
            lse: Vec<&'o mut [f32]>,
        }
        let shape = self.shape;
        let contexts = self.contexts();
        let keys_t = Self::transposed(&contexts, |head| head.k);
        let mut out = vec![0.0; self.q.len()];
        let mut lse = vec![0.0; self.segments.tokens() * shape.heads];
        let (mut out_rest, mut lse_rest) = (out.as_mut_slice(), lse.as_mut_slice());
        let mut tasks = Vec::new();
        for (index, sequence) in self.segments.iter().enumerate() {
            for rows in blocks(sequence.len(), shape.block()) {
                let (out, rest) = take_rows(out_rest, rows.len(), shape.kv_heads, shape.group_width());
                out_rest = rest;
                let (lse, rest) = take_rows(lse_rest, rows.len(), shape.kv_heads, shape.group());
                lse_rest = rest;
                for (head, (out, lse)) in out.into_iter().zip(lse).enumerate() {
                    let keys_t = &keys_t[index * shape.kv_heads + head];
                    let head = contexts[index].head(head);
                    tasks.push(Task { head, q: self.rows(self.q, &sequence), keys_t, rows: rows.clone(), out, lse });
                }
            }
        }
        tasks.sort_by_key(|task| std::cmp::Reverse(task.head.keys(&task.rows).len()));
        tasks.into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, mut task| {
            task.head.forward(task.q, task.keys_t, &task.rows, scratch, &mut task.out, &mut task.lse);
        });
        (out, lse)
    }

    /// Gradients of queries, keys and values, each only where wanted, from the gradient `grad` of the outputs and the
    /// `lse` of the forward.
    pub(crate) fn backward(&self, grad: &[f32], lse: &[f32], want: Want) -> Gradients {
        let shape = self.shape;
        let contexts = self.contexts();
        let keys_t = Self::transposed(&contexts, |head| head.k);
        let values_t = if want.q || want.k { Self::transposed(&contexts, |head| head.v) } else { Vec::new() };
        let mut dq = want.q.then(|| vec![0.0; self.q.len()]);
        let mut dq_rest = dq.as_deref_mut().unwrap_or_default();
        let mut tasks = Vec::new();
        for (index, sequence) in self.segments.iter().enumerate() {
            for rows in blocks(sequence.len(), PIECE) {
                let n = if want.q { rows.len() } else { 0 };
                let (dq, rest) = take_rows(dq_rest, n, shape.kv_heads, shape.group_width());
                dq_rest = rest;
                for (head, dq) in dq.into_iter().enumerate() {
                    tasks.push(Task {
                        index,
                        head: contexts[index].head(head),
                        q: self.rows(self.q, &sequence),
                        keys_t: &keys_t[index * shape.kv_heads + head],
                        values_t: values_t.get(index * shape.kv_heads + head),
                        grad: self.rows(grad, &sequence),
                        lse: &lse[sequence.start * shape.heads..sequence.end * shape.heads],
                        rows: rows.clone(),
                        dq,
                    });
                }
            }
        }
        tasks.sort_by_key(|task| std::cmp::Reverse(task.head.keys(&task.rows).len() * task.rows.len()));
        let mut parts: Vec<Part> = tasks
            .into_par_iter()
            .with_max_len(1)
            .map_init(Scratch::default, |scratch, task| task.run(scratch, want))
            .collect();
        parts.sort_by_key(|part| (part.sequence, part.head, part.keys.end));
        let k = want.k.then(|| self.gather(&parts, |part| &part.dk));
        let v = want.v.then(|| self.gather(&parts, |part| &part.dv));
        Gradients { q: dq, k, v }
    }

    /// Adds the parts of every sequence and kv head into rows of the keys' width, in a fixed order.
    fn gather(&self, parts: &[Part], of: fn(&Part) -> &[f32]) -> Vec<f32> {
        let (kv_heads, hd) = (self.shape.kv_heads, self.shape.head_dim);
        let width = kv_heads * hd;
        let mut all = vec![0.0; self.k.len()];
        let mut rest = all.as_mut_slice();
        let sequences: Vec<_> = self
            .segments
            .iter()
            .map(|s| {
                let (now, later) = std::mem::take(&mut rest).split_at_mut(s.len() * width);
                rest = later;
                now
            })
            .collect();
        sequences.into_par_iter().enumerate().for_each(|(index, rows)| {
            let n = rows.len() / width;
            for part in parts {
                // This sequence's keys among those of the part: all after the beginning, or the beginning itself.
                let own = match part.sequence {
                    s if s == index => self.segments.past(s).len()..part.keys.end,
                    s if self.segments.beginning(s) == Some(index) => 0..n,
                    _ => continue,
                };
                let (start, end) = (own.start.max(part.keys.start), own.end.min(part.keys.end));
                let into = rows.chunks_exact_mut(width).skip(start.saturating_sub(own.start));
                let from = of(part).chunks_exact(hd).take(end.saturating_sub(part.keys.start));
                for (row, from) in into.zip(from.skip(start.saturating_sub(part.keys.start))) {
                    simd::axpy(&mut row[part.head * hd..][..hd], 1.0, from);
                }
            }
        });
        all
    }
}

/// Which gradients are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Want {
    pub(crate) q: bool,
    pub(crate) k: bool,
    pub(crate) v: bool,
}

/// Gradients in the layout of the inputs, where wanted.
pub(crate) struct Gradients {
    pub(crate) q: Option<Vec<f32>>,
    pub(crate) k: Option<Vec<f32>>,
    pub(crate) v: Option<Vec<f32>>,
}

/// What one task adds to the gradients of the keys and values `keys` of one kv head, `[keys, head_dim]`.
struct Part {
    sequence: usize,
    head: usize,
    keys: Range<usize>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// The backward of a piece of query rows of one kv head.
struct Task<'a, 'o> {
    index: usize,
    head: KvHead<'a>,
    q: &'a [f32],
    keys_t: &'o Transposed,
    /// None when only the values' gradient is wanted.
    values_t: Option<&'o Transposed>,
    grad: &'a [f32],
    lse: &'a [f32],
    rows: Range<usize>,
    dq: Vec<&'o mut [f32]>,
}

impl Task<'_, '_> {
    fn run(mut self, scratch: &mut Scratch, want: Want) -> Part {
        let hd = self.head.shape.head_dim;
        let keys = self.head.keys(&self.rows);
        let zeros = |want: bool| if want { vec![0.0; keys.len() * hd] } else { Vec::new() };
        let (dk, dv) = (zeros(want.k), zeros(want.v));
        let mut part = Part { sequence: self.index, head: self.head.head, keys, dk, dv };
        let (start, n) = (self.rows.start, self.rows.len());
        for block in blocks(n, self.head.shape.block()) {
            self.block(&(start + block.start..start + block.end), scratch, want, &mut part);
        }
        part
    }

    fn block(&mut self, rows: &Range<usize>, scratch: &mut Scratch, want: Want, part: &mut Part) {
        let Self { head, lse, .. } = self;
        let (group, hd, scale) = (head.shape.group(), head.shape.head_dim, head.shape.scale());
        let tile_rows = rows.len() * group;
        let keys = head.keys(rows);
        let at = (keys.start - part.keys.start) * hd;
        let Scratch { q, grad, scores, grad_scores, slopes, result, .. } = scratch;
        head.pack(q, self.q, rows);
        head.pack(grad, self.grad, rows);
        self.keys_t.scores(scores, q, &keys, scale);
        head.shape.soften(scores);
        if let Some(cap) = head.shape.cap {
            slopes.resize(scores.len(), 0.0);
            simd::soft_cap_slope(slopes, scores, cap);
        }
        head.for_each_seen(scores, rows, &keys, |r, seen| {
            let (t, g) = (rows.start + r / group, r % group);
            simd::exp_sub_sum(seen, lse[t * head.shape.heads + head.head * group + g]);
        });
        let width = padded(&keys);
        let p = Mat::strided(scores, tile_rows, keys.len(), width);
        let grad_mat = Mat::new(grad, tile_rows, hd);
        if want.v {
            p.t().times(grad_mat).add_to(&mut part.dv[at..], hd);
        }
        let Some(values_t) = self.values_t else { return };
        values_t.scores(grad_scores, grad, &keys, 1.0);
        // Masked probabilities are 0, so masked gradients come out as 0. A row's mean gradient equals the product of
        // its output and that output's gradient; taken from the probabilities, no output needs to be kept.
        for (ds, p) in grad_scores.chunks_exact_mut(width).zip(scores.chunks_exact(width)) {
            let mean = simd::dot(ds, p);
            Arch::new().dispatch(GradScores { ds, p, mean });
        }
        if head.shape.cap.is_some() {
            simd::mul(grad_scores, slopes);
        }
        let ds = Mat::strided(grad_scores, tile_rows, keys.len(), width);
        if want.q {
            result.resize(tile_rows * hd, 0.0);
            ds.times(head.columns(head.k, &keys)).scaled(scale).write(result, hd);
            for (dq, result) in self.dq[rows.start - self.rows.start..].iter_mut().zip(result.chunks_exact(group * hd))
            {
                dq.copy_from_slice(result);
            }
        }
        if want.k {
            ds.t().times(Mat::new(q, tile_rows, hd)).scaled(scale).add_to(&mut part.dk[at..], hd);
        }
    }
}

/// The backward of a row's softmax: `ds = p * (ds - mean)`.
struct GradScores<'a> {
    ds: &'a mut [f32],
    p: &'a [f32],
    mean: f32,
}

impl WithSimd for GradScores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (ds, p) in self.ds.iter_mut().zip(self.p) {
            *ds = p * (*ds - self.mean);
        }
    }
}
