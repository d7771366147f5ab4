//! Attention of a pack, some of its sequences at a time. In: rows of queries, keys and values; out: rows of head outputs.
//! Invariant: nothing is kept between forward and backward but the inputs; a key that several sequences share gets the
//! sum of what each gives, in a fixed order.
//!
//! Sequences of like length are laid out in tiles of one length, so that all heads of all of them are one product; the
//! places behind a sequence's end hold zeros and are never seen. Scores exist for one such group at a time.

use super::device::{Address, Arg, BLOCK, Fresh, address, kernel, launch, of, ready, upload};
use super::product::{Matrix, multiply};
use crate::Segments;
use crate::attention::shape::AttentionShape;
use candle_core::cuda_backend::CudaDevice;
use candle_core::{DType, Result, Tensor};

/// Most scores that exist at a time.
const SCORES: usize = 1 << 27;

/// Scores that are computed in one group, whatever of them is padding: below this, fewer kernels are worth more.
const FEW_SCORES: usize = 1 << 26;

/// Lengths of tiles are multiples of this: products on tensor cores want rows of whole 16 bytes.
const STEP: usize = 8;

/// Rows of scores of one block, a warp for each.
const ROWS: u32 = 8;

/// A place without a row.
const NONE: u32 = u32::MAX;

/// Sequences that are computed together.
struct Group {
    /// Number of sequences.
    count: usize,
    /// Length of a tile of queries, and of one of keys.
    queries: usize,
    keys: usize,
    /// The row of each place, `[count, queries]` and `[count, keys]`.
    query_rows: Vec<u32>,
    key_rows: Vec<u32>,
    /// Of each sequence: the tokens that it continues, and its own.
    pasts: Vec<u32>,
    lengths: Vec<u32>,
    /// The places of each row of the pack among the keys: `places[starts[r]..starts[r + 1]]`.
    starts: Vec<u32>,
    places: Vec<u32>,
}

impl Group {
    fn new(segments: &Segments, sequences: &[usize]) -> Self {
        let lengths: Vec<u32> = sequences.iter().map(|&i| segments.range(i).len() as u32).collect();
        let pasts: Vec<u32> = sequences.iter().map(|&i| segments.past(i).len() as u32).collect();
        let tile = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0).next_multiple_of(STEP);
        let queries = tile(&mut sequences.iter().map(|&i| segments.range(i).len()));
        let keys = tile(&mut sequences.iter().map(|&i| segments.past(i).len() + segments.range(i).len()));
        let padded = |rows: &mut dyn Iterator<Item = usize>, length: usize| -> Vec<u32> {
            let mut rows: Vec<u32> = rows.map(|row| row as u32).collect();
            rows.resize(length, NONE);
            rows
        };
        let query_rows = sequences.iter().flat_map(|&i| padded(&mut segments.range(i), queries)).collect();
        let keys_of = |&i: &usize| padded(&mut segments.past(i).chain(segments.range(i)), keys);
        let key_rows: Vec<u32> = sequences.iter().flat_map(keys_of).collect();
        let mut starts = vec![0u32; segments.tokens() + 1];
        for row in key_rows.iter().filter(|&&row| row != NONE) {
            starts[*row as usize + 1] += 1;
        }
        for row in 0..segments.tokens() {
            starts[row + 1] += starts[row];
        }
        let (mut next, mut places) = (starts.clone(), vec![0; starts.last().copied().unwrap_or(0) as usize]);
        for (place, row) in key_rows.iter().enumerate().filter(|(_, row)| **row != NONE) {
            places[next[*row as usize] as usize] = place as u32;
            next[*row as usize] += 1;
        }
        Self { count: sequences.len(), queries, keys, query_rows, key_rows, pasts, lengths, starts, places }
    }

    /// The sequences of a pack in groups of like length, each with at most [`SCORES`] scores.
    fn all(segments: &Segments, heads: usize) -> Vec<Self> {
        let length = |i: usize| segments.past(i).len() + segments.range(i).len();
        let mut order: Vec<usize> = (0..segments.len()).filter(|&i| !segments.range(i).is_empty()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(length(i)));
        let (mut groups, mut from) = (Vec::new(), 0);
        while from < order.len() {
            let longest = length(order[from]);
            let scores = heads * longest.next_multiple_of(STEP).pow(2);
            let most = (SCORES / scores.max(1)).max(1);
            let few = FEW_SCORES / scores.max(1);
            // Sequences of less than half the longest would be padding more than anything else.
            let like = order[from..].iter().take(most).enumerate();
            let count = like.take_while(|&(n, &i)| n < few || 2 * length(i) >= longest).count().max(1);
            groups.push(Self::new(segments, &order[from..from + count]));
            from += count;
        }
        groups
    }
}

/// What all groups of a pack share.
#[derive(Clone, Copy)]
struct Layer<'a> {
    device: &'a CudaDevice,
    dtype: DType,
    shape: AttentionShape,
    tokens: usize,
}

/// A group's arrays on the device.
struct Placed<'g> {
    group: &'g Group,
    query_rows: Tensor,
    key_rows: Tensor,
    pasts: Tensor,
    lengths: Tensor,
}

impl Layer<'_> {
    fn place<'g>(&self, group: &'g Group) -> Result<Placed<'g>> {
        let upload = |values: &[u32]| upload(self.device, values);
        Ok(Placed {
            group,
            query_rows: upload(&group.query_rows)?,
            key_rows: upload(&group.key_rows)?,
            pasts: upload(&group.pasts)?,
            lengths: upload(&group.lengths)?,
        })
    }

    /// Rows `[T, heads * head_dim]` as tiles `[count, heads, length, head_dim]`; two at a time.
    fn gather(&self, x: [&Tensor; 2], rows: &Tensor, heads: usize, length: usize, count: usize) -> Result<[Fresh; 2]> {
        let width = self.shape.head_dim;
        let (n, places) = (count * heads * length * width, count * length);
        let out = [Fresh::new(self.device, self.dtype, n)?, Fresh::new(self.device, self.dtype, n)?];
        let arguments = [
            Arg::At(address(x[0])?),
            Arg::At(address(x[1])?),
            Arg::At(address(rows)?),
            Arg::At(out[0].at()?),
            Arg::At(out[1].at()?),
            Arg::U32(heads as u32),
            Arg::U32(length as u32),
            Arg::U32(width as u32),
            Arg::U32(places as u32),
        ];
        launch(self.device, kernel!("gather_heads", self.dtype), 2 * places as u64, BLOCK, &arguments)?;
        Ok(out)
    }

    /// The same of one.
    fn gather_one(&self, x: &Tensor, rows: &Tensor, heads: usize, length: usize, count: usize) -> Result<Fresh> {
        let width = self.shape.head_dim;
        let (n, places) = (count * heads * length * width, count * length);
        let out = Fresh::new(self.device, self.dtype, n)?;
        let arguments = [
            Arg::At(address(x)?),
            Arg::At(address(x)?),
            Arg::At(address(rows)?),
            Arg::At(out.at()?),
            Arg::At(out.at()?),
            Arg::U32(heads as u32),
            Arg::U32(length as u32),
            Arg::U32(width as u32),
            Arg::U32(places as u32),
        ];
        launch(self.device, kernel!("gather_heads", self.dtype), places as u64, BLOCK, &arguments)?;
        Ok(out)
    }

    /// The way back for queries, into rows that are written once each.
    fn scatter(&self, tiles: &Fresh, placed: &Placed<'_>, out: &Fresh) -> Result<()> {
        let (group, width) = (placed.group, self.shape.head_dim);
        let arguments = [
            Arg::At(tiles.at()?),
            Arg::At(address(&placed.query_rows)?),
            Arg::At(out.at()?),
            Arg::U32(self.shape.heads as u32),
            Arg::U32(group.queries as u32),
            Arg::U32(width as u32),
        ];
        let places = (group.count * group.queries) as u64;
        launch(self.device, kernel!("scatter_heads", self.dtype), places, BLOCK, &arguments)
    }

    /// Writes the tiles of keys or values to their rows, or adds them to rows in f32.
    fn sum(&self, tiles: &Fresh, placed: &Placed<'_>, out: &Fresh, add: bool) -> Result<()> {
        let (group, width, heads) = (placed.group, self.shape.head_dim, self.shape.kv_heads);
        let (starts, places) = (upload(self.device, &group.starts)?, upload(self.device, &group.places)?);
        let arguments = [
            Arg::At(tiles.at()?),
            Arg::At(address(&starts)?),
            Arg::At(address(&places)?),
            Arg::At(out.at()?),
            Arg::U32(heads as u32),
            Arg::U32(group.keys as u32),
            Arg::U32(width as u32),
            Arg::U32(u32::from(add)),
        ];
        let dtype = if add { DType::F32 } else { self.dtype };
        launch(self.device, kernel!("sum_heads", dtype), self.tokens as u64, BLOCK, &arguments)
    }

    /// The matrices of a group: the heads that share keys are below each other.
    fn queries<'m>(&self, at: Address<'m>, group: &Group, dtype: DType) -> Matrix<'m> {
        Matrix::new(at, dtype, self.shape.group() * group.queries, self.shape.head_dim)
    }

    fn keys<'m>(&self, at: Address<'m>, group: &Group, dtype: DType) -> Matrix<'m> {
        Matrix::new(at, dtype, group.keys, self.shape.head_dim)
    }

    fn scores<'m>(&self, at: Address<'m>, group: &Group, dtype: DType) -> Matrix<'m> {
        Matrix::new(at, dtype, self.shape.group() * group.queries, group.keys)
    }

    fn score_count(&self, group: &Group) -> usize {
        group.count * self.shape.heads * group.queries * group.keys
    }

    /// Products of one matrix for each sequence and head of keys.
    fn product(&self, matrices: [Matrix<'_>; 3], group: &Group) -> Result<()> {
        multiply(self.device, matrices, group.count * self.shape.kv_heads, (1.0, 0.0))
    }

    /// Starts a kernel with a warp for each row of scores.
    fn by_row(&self, kernel: &'static str, placed: &Placed<'_>, tiles: &[Address<'_>]) -> Result<()> {
        let group = placed.group;
        let rows = (group.count * self.shape.heads * group.queries) as u32;
        let scale = self.shape.scale.unwrap_or_else(|| (self.shape.head_dim as f32).sqrt().recip());
        let mut arguments: Vec<Arg<'_>> = tiles.iter().map(|&at| Arg::At(at)).collect();
        arguments.extend([
            Arg::At(address(&placed.pasts)?),
            Arg::At(address(&placed.lengths)?),
            Arg::U32(self.shape.heads as u32),
            Arg::U32(group.queries as u32),
            Arg::U32(group.keys as u32),
            Arg::U32(self.shape.window.map_or(u32::MAX, |window| window as u32)),
            Arg::F32(scale),
            Arg::F32(self.shape.cap.unwrap_or(0.0)),
            Arg::U32(rows),
        ]);
        launch(self.device, kernel, u64::from(rows.div_ceil(ROWS)), 32 * ROWS, &arguments)
    }

    /// Attention of a group, written to its rows of `out`.
    fn forward(&self, [q, k, v]: [&Tensor; 3], group: &Group, out: &Fresh) -> Result<()> {
        let (AttentionShape { heads, kv_heads, .. }, dtype) = (self.shape, self.dtype);
        let placed = self.place(group)?;
        let q = self.gather_one(q, &placed.query_rows, heads, group.queries, group.count)?;
        let [k, v] = self.gather([k, v], &placed.key_rows, kv_heads, group.keys, group.count)?;
        let n = self.score_count(group);
        let (products, p) = (Fresh::new(self.device, DType::F32, n)?, Fresh::new(self.device, dtype, n)?);
        let scores = self.scores(products.at()?, group, DType::F32);
        self.product([self.queries(q.at()?, group, dtype), self.keys(k.at()?, group, dtype).t(), scores], group)?;
        self.by_row(kernel!("softmax", dtype), &placed, &[products.at()?, p.at()?])?;
        // The queries are not read again.
        let o = q;
        let scores = self.scores(p.at()?, group, dtype);
        self.product([scores, self.keys(v.at()?, group, dtype), self.queries(o.at()?, group, dtype)], group)?;
        self.scatter(&o, &placed, out)
    }

    /// Gradients of a group: those of its queries are written, those of keys and values added.
    fn backward(&self, [q, k, v, g]: [&Tensor; 4], group: &Group, [dq, dk, dv]: [&Fresh; 3], add: bool) -> Result<()> {
        let (AttentionShape { heads, kv_heads, .. }, dtype) = (self.shape, self.dtype);
        let placed = self.place(group)?;
        let [q, g] = self.gather([q, g], &placed.query_rows, heads, group.queries, group.count)?;
        let [k, v] = self.gather([k, v], &placed.key_rows, kv_heads, group.keys, group.count)?;
        let n = self.score_count(group);
        let wide = || Fresh::new(self.device, DType::F32, n);
        let narrow = || Fresh::new(self.device, dtype, n);
        let (products, by_p, p, by_products) = (wide()?, wide()?, narrow()?, narrow()?);
        let (q_m, k_m) = (self.queries(q.at()?, group, dtype), self.keys(k.at()?, group, dtype));
        let (v_m, g_m) = (self.keys(v.at()?, group, dtype), self.queries(g.at()?, group, dtype));
        self.product([q_m, k_m.t(), self.scores(products.at()?, group, DType::F32)], group)?;
        self.product([g_m, v_m.t(), self.scores(by_p.at()?, group, DType::F32)], group)?;
        self.by_row(
            kernel!("softmax_backward", dtype),
            &placed,
            &[products.at()?, by_p.at()?, p.at()?, by_products.at()?],
        )?;
        let (p_m, d_m) = (self.scores(p.at()?, group, dtype), self.scores(by_products.at()?, group, dtype));
        let tile = Fresh::new(self.device, DType::F32, group.count * kv_heads * group.keys * self.shape.head_dim)?;
        self.product([p_m.t(), g_m, self.keys(tile.at()?, group, DType::F32)], group)?;
        self.sum(&tile, &placed, dv, add)?;
        self.product([d_m.t(), q_m, self.keys(tile.at()?, group, DType::F32)], group)?;
        self.sum(&tile, &placed, dk, add)?;
        // The output's gradient is not read again.
        self.product([d_m, k_m, g_m], group)?;
        self.scatter(&g, &placed, dq)
    }
}

/// As [`crate::attention()`], of shapes that were checked.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    shape: AttentionShape,
) -> Result<Tensor> {
    let (q, k, v) = (ready(q)?, ready(k)?, ready(v)?);
    let (device, dtype, tokens) = (of(&q)?, q.dtype(), segments.tokens());
    let out = Fresh::new(&device, dtype, (tokens, shape.heads * shape.head_dim))?;
    let groups = Group::all(segments, shape.heads);
    let layer = Layer { device: &device, dtype, shape, tokens };
    for group in &groups {
        layer.forward([&q, &k, &v], group, &out)?;
    }
    let own = device.clone();
    out.recorded(&[&q, &k, &v], move |inputs, grad| {
        let &[q, k, v] = inputs else { return Ok(Vec::new()) };
        let layer = Layer { device: &own, dtype, shape, tokens };
        let dq = Fresh::new(&own, dtype, (tokens, shape.heads * shape.head_dim))?;
        // One group writes each row once; what several give is added up in f32.
        let (add, width) = (groups.len() != 1, (tokens, shape.kv_heads * shape.head_dim));
        let rows = || if add { Fresh::zeros(&own, width) } else { Fresh::new(&own, dtype, width) };
        let (dk, dv) = (rows()?, rows()?);
        for group in &groups {
            layer.backward([q, k, v, grad], group, [&dq, &dk, &dv], add)?;
        }
        let rounded = |x: Fresh| x.into_tensor().to_dtype(dtype).map(Some);
        Ok(vec![Some(dq.into_tensor()), rounded(dk)?, rounded(dv)?])
    })
}
