//! The arithmetic of one tile of attention: a block of query rows of one sequence, all query heads that share a kv
//! head, against the keys they can see. In: rows of a sequence; out: packed scores, probabilities and outputs.
//! Invariant: row `t * group + g` of a tile is head `g` of the group at the tile's query row `t`.

use super::AttentionShape;
use crate::gemm::Mat;
use crate::simd;
use std::ops::Range;

/// Rows of a tile: query rows times heads of a group. Large enough for the matrix product, small enough that few
/// masked scores are computed at the diagonal.
const TILE_ROWS: usize = 96;

/// Keys of a tile begin and are padded at multiples of this, so that the product reads transposed keys in whole
/// vectors.
const ALIGN: usize = 16;

/// One kv head of one sequence. The query rows are at positions `past..past + n`.
#[derive(Clone, Copy)]
pub(super) struct KvHead<'a> {
    pub(super) shape: AttentionShape,
    /// Which kv head.
    pub(super) head: usize,
    /// All keys and values of the sequence, `[len, kv_heads * head_dim]`.
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    /// Position of the first query row.
    pub(super) past: usize,
}

impl<'a> KvHead<'a> {
    /// Keys that query row `row` sees.
    pub(super) fn seen(&self, row: usize) -> Range<usize> {
        self.shape.seen(self.past + row)
    }

    /// Keys that cover all that query rows `rows` see.
    pub(super) fn keys(&self, rows: &Range<usize>) -> Range<usize> {
        self.seen(rows.start).start / ALIGN * ALIGN..self.past + rows.end
    }

    /// The head's columns of rows `keys` of the keys or values, `[keys, head_dim]`.
    pub(super) fn columns(&self, x: &'a [f32], keys: &Range<usize>) -> Mat<'a> {
        let (stride, hd) = (self.shape.kv_heads * self.shape.head_dim, self.shape.head_dim);
        Mat::strided(&x[keys.start * stride + self.head * hd..], keys.len(), hd, stride)
    }

    /// The head's columns of the keys or values, transposed.
    pub(super) fn transpose(&self, x: &[f32]) -> Transposed {
        let (stride, hd) = (self.shape.kv_heads * self.shape.head_dim, self.shape.head_dim);
        // An odd number of lines from row to row, so that they do not share one set of the cache.
        let width = (x.len() / stride).div_ceil(ALIGN) | 1;
        let mut data = vec![0.0; hd * width * ALIGN];
        for (block, rows) in x.chunks(ALIGN * stride).enumerate() {
            for (c, out) in data.chunks_exact_mut(width * ALIGN).enumerate() {
                let column = rows.iter().skip(self.head * hd + c).step_by(stride);
                out[block * ALIGN..].iter_mut().zip(column).for_each(|(out, x)| *out = *x);
            }
        }
        Transposed { data, width: width * ALIGN, hd }
    }

    /// The group's columns of row `row` of `x` `[n, heads * head_dim]`.
    pub(super) fn group_row<'x>(&self, x: &'x [f32], row: usize) -> &'x [f32] {
        let width = self.shape.group_width();
        &x[(row * self.shape.kv_heads + self.head) * width..][..width]
    }

    /// Packs the group's columns of `rows` of `x` `[n, heads * head_dim]` into a tile.
    pub(super) fn pack(&self, tile: &mut Vec<f32>, x: &[f32], rows: &Range<usize>) {
        tile.clear();
        rows.clone().for_each(|row| tile.extend_from_slice(self.group_row(x, row)));
    }

    /// Calls `f(tile row, scores it sees)` for every tile row and zeroes the scores it must not see.
    pub(super) fn for_each_seen(
        &self,
        scores: &mut [f32],
        rows: &Range<usize>,
        keys: &Range<usize>,
        mut f: impl FnMut(usize, &mut [f32]),
    ) {
        for (r, row) in scores.chunks_exact_mut(padded(keys)).enumerate() {
            let seen = self.seen(rows.start + r / self.shape.group());
            let (start, end) = (seen.start - keys.start, seen.end - keys.start);
            row[..start].fill(0.0);
            row[end..].fill(0.0);
            f(r, &mut row[start..end]);
        }
    }

    /// Softmax attention of query rows `rows` of `q` `[n, heads * head_dim]`. Writes each row's outputs to `out`
    /// (`group * head_dim` wide) and, when `lse` is not empty, the logarithm of each head's normaliser.
    pub(super) fn forward(
        &self,
        q: &[f32],
        keys_t: &Transposed,
        rows: &Range<usize>,
        scratch: &mut Scratch,
        out: &mut [&mut [f32]],
        lse: &mut [&mut [f32]],
    ) {
        let (group, hd) = (self.shape.group(), self.shape.head_dim);
        let keys = self.keys(rows);
        let Scratch { q: tile, scores, result, norm, .. } = scratch;
        self.pack(tile, q, rows);
        keys_t.scores(scores, tile, &keys, self.shape.scale());
        self.shape.soften(scores);
        norm.clear();
        self.for_each_seen(scores, rows, &keys, |r, seen| {
            let max = simd::max(seen);
            let sum = simd::exp_sub_sum(seen, max);
            norm.push(1.0 / sum);
            if let Some(lse) = lse.get_mut(r / group) {
                lse[r % group] = max + sum.ln();
            }
        });
        let tile_rows = rows.len() * group;
        result.resize(tile_rows * hd, 0.0);
        let p = Mat::strided(scores, tile_rows, keys.len(), padded(&keys));
        p.times(self.columns(self.v, &keys)).write(result, hd);
        for ((out, result), norm) in
            out.iter_mut().zip(result.chunks_exact_mut(group * hd)).zip(norm.chunks_exact(group))
        {
            for (head, norm) in result.chunks_exact_mut(hd).zip(norm) {
                simd::scale(head, *norm);
            }
            out.copy_from_slice(result);
        }
    }
}

/// One head's keys or values, `[head_dim, len]`, rows padded with zeros to `width`.
pub(super) struct Transposed {
    data: Vec<f32>,
    width: usize,
    hd: usize,
}

impl Transposed {
    /// `scale * x @ self[.., keys]` for a packed tile `x`: `[tile rows, padded(keys)]`, masked entries included.
    pub(super) fn scores(&self, scores: &mut Vec<f32>, x: &[f32], keys: &Range<usize>, scale: f32) {
        let (rows, width) = (x.len() / self.hd, padded(keys));
        scores.resize(rows * width, 0.0);
        let keys = Mat::strided(&self.data[keys.start..], self.hd, width, self.width);
        Mat::new(x, rows, self.hd).times(keys).scaled(scale).write(scores, width);
    }
}

/// Columns of a tile of scores over `keys`.
pub(super) fn padded(keys: &Range<usize>) -> usize {
    keys.len().next_multiple_of(ALIGN)
}

/// Buffers of one thread, reused from tile to tile.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) q: Vec<f32>,
    pub(super) grad: Vec<f32>,
    pub(super) scores: Vec<f32>,
    pub(super) grad_scores: Vec<f32>,
    pub(super) slopes: Vec<f32>,
    pub(super) result: Vec<f32>,
    pub(super) norm: Vec<f32>,
}

impl AttentionShape {
    /// Keys that a query at `position` sees.
    pub(super) fn seen(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }

    /// Query heads per kv head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Columns of one kv head's group of query heads.
    pub(super) fn group_width(&self) -> usize {
        self.group() * self.head_dim
    }

    /// What scores are multiplied by.
    pub(super) fn scale(&self) -> f32 {
        self.scale.unwrap_or_else(|| 1.0 / (self.head_dim as f32).sqrt())
    }

    /// Caps scaled scores, where they are capped.
    pub(super) fn soften(&self, scores: &mut [f32]) {
        if let Some(cap) = self.cap {
            simd::soft_cap(scores, cap);
        }
    }

    /// Query rows of a tile.
    pub(super) fn block(&self) -> usize {
        TILE_ROWS.div_ceil(self.group())
    }
}

/// Cuts `0..n` into ranges of `size`, the last one shorter.
pub(super) fn blocks(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(size).map(move |start| start..n.min(start + size))
}

/// The next `n` rows off `rows`, cut into the columns of every kv head (entry `h` holds the `n` slices of kv head `h`),
/// and the rows after them.
pub(super) fn take_rows(
    rows: &mut [f32],
    n: usize,
    kv_heads: usize,
    width: usize,
) -> (Vec<Vec<&mut [f32]>>, &mut [f32]) {
    let (now, rest) = rows.split_at_mut(n * kv_heads * width);
    let mut heads: Vec<Vec<_>> = (0..kv_heads).map(|_| Vec::with_capacity(n)).collect();
    for row in now.chunks_exact_mut(kv_heads * width) {
        for (head, part) in heads.iter_mut().zip(row.chunks_exact_mut(width)) {
            head.push(part);
        }
    }
    (heads, rest)
}
