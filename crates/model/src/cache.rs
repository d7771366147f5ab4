//! Inference with keys and values kept. In: each sequence's new tokens and its cache; out: the final hidden state of
//! each sequence's last token. Invariant: what a sequence yields does not depend on which others are in the call.

use crate::{
    Adapter, Decoder, Error, Result, SideBySide,
    decoder::{Attend, Beside, Pack},
};
use candle_core::{D, DType, Device, Tensor};
use eraser_ops::{
    AttentionShape, Segments,
    attention::CachedSequence,
    attention_cached,
    device::{Appended, CachedAttention, Reads, Span},
    gather_rows,
};

/// Keys and values of one sequence, all layers.
#[derive(Debug)]
pub struct KvCache {
    kept: Kept,
    len: usize,
}

#[derive(Debug)]
enum Kept {
    Layers(Vec<Layer>),
    /// On a device with attention of its own: `[layers, 2, capacity, width]`, with room behind what is there.
    Together {
        values: Option<Tensor>,
        shape: [usize; 2],
        room: usize,
    },
}

/// Rows that memory on a device is asked for at a time.
const ROOM_STEP: usize = 128;

/// Row-major `[len, kv_heads * head_dim]`, on the host as plain memory so that growing it copies nothing else.
#[derive(Clone, Debug)]
enum Layer {
    Host { k: Vec<f32>, v: Vec<f32> },
    Device(Option<(Tensor, Tensor)>),
}

impl KvCache {
    /// An empty cache for `decoder`.
    pub fn new(decoder: &Decoder) -> Self {
        if decoder.attends_to_caches() {
            let shape = [decoder.block_count(), decoder.shapes().first().map_or(0, |s| s.kv_heads * s.head_dim)];
            return Self { kept: Kept::Together { values: None, shape, room: 0 }, len: 0 };
        }
        let host = decoder.computes_on_host();
        let layer = || if host { Layer::Host { k: Vec::new(), v: Vec::new() } } else { Layer::Device(None) };
        Self { kept: Kept::Layers((0..decoder.block_count()).map(|_| layer()).collect()), len: 0 }
    }

    /// Sees to room for `more` tokens in the memory of the device, if the cache is there together.
    fn reserve(&mut self, more: usize, like: &Tensor) -> Result<()> {
        let Kept::Together { values, shape: [layers, width], room } = &mut self.kept else { return Ok(()) };
        let wanted = self.len + more;
        if values.as_ref().is_some_and(|values| values.dims()[2] >= wanted) {
            return Ok(());
        }
        let capacity = wanted.max(self.len + *room).max(2 * self.len).next_multiple_of(ROOM_STEP);
        let zeros = |rows: usize| Tensor::zeros((*layers, 2, rows, *width), like.dtype(), like.device());
        *values = Some(match values.take() {
            Some(old) if self.len > 0 => Tensor::cat(&[&old.narrow(2, 0, self.len)?, &zeros(capacity - self.len)?], 2)?,
            _ => zeros(capacity)?,
        });
        Ok(())
    }

    /// All layers together, if they are.
    pub(crate) fn together(&self) -> Option<&Tensor> {
        match &self.kept {
            Kept::Together { values, .. } => values.as_ref(),
            Kept::Layers(_) => None,
        }
    }

    fn layers(&self) -> &[Layer] {
        match &self.kept {
            Kept::Layers(layers) => layers,
            Kept::Together { .. } => &[],
        }
    }

    fn layer_mut(&mut self, layer: usize) -> Option<&mut Layer> {
        match &mut self.kept {
            Kept::Layers(layers) => layers.get_mut(layer),
            Kept::Together { .. } => None,
        }
    }

    /// Tokens cached.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A copy of the first `len` tokens, for another sequence with the same beginning, with room for `room` more: a
    /// cache that outgrows its memory is copied.
    pub fn prefix(&self, len: usize, room: usize) -> Result<Self> {
        let len = len.min(self.len);
        if let Kept::Together { values, shape, .. } = &self.kept {
            // Two sequences must not write into one memory, so this is a copy.
            let values = values.as_ref().map(|values| values.narrow(2, 0, len)?.force_contiguous()).transpose()?;
            return Ok(Self { kept: Kept::Together { values, shape: *shape, room }, len });
        }
        let layers = self
            .layers()
            .iter()
            .map(|layer| {
                Ok(match layer {
                    Layer::Host { k, v } => {
                        let width = k.len() / self.len.max(1);
                        let copy = |from: &[f32]| {
                            let mut to = Vec::with_capacity((len + room) * width);
                            to.extend_from_slice(&from[..len * width]);
                            to
                        };
                        Layer::Host { k: copy(k), v: copy(v) }
                    }
                    Layer::Device(Some((k, v))) => Layer::Device(Some((k.narrow(0, 0, len)?, v.narrow(0, 0, len)?))),
                    Layer::Device(None) => Layer::Device(None),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { kept: Kept::Layers(layers), len })
    }

    /// Keys and values of the first `len` tokens of a layer, where they are kept on the host.
    pub(crate) fn host(&self, layer: usize, len: usize) -> Option<(&[f32], &[f32])> {
        let Layer::Host { k, v } = self.layers().get(layer)? else { return None };
        let end = k.len() / self.len.max(1) * len.min(self.len);
        Some((&k[..end], &v[..end]))
    }

    /// As [`Self::host`], as tensors of the device and type of `like`; None when the cache is empty.
    pub(crate) fn tensors(&self, layer: usize, len: usize, like: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
        Ok(match self.layers().get(layer) {
            Some(Layer::Device(Some((k, v)))) => Some((k.narrow(0, 0, len)?, v.narrow(0, 0, len)?)),
            Some(Layer::Host { .. }) => match self.host(layer, len) {
                Some((k, v)) if len > 0 => {
                    let tensor = |x: &[f32]| Tensor::from_slice(x, (len, x.len() / len), like.device());
                    Some((tensor(k)?.to_dtype(like.dtype())?, tensor(v)?.to_dtype(like.dtype())?))
                }
                _ => None,
            },
            _ => None,
        })
    }
}

impl Decoder {
    /// Runs each sequence's new tokens (`ids[segments[i]]`) after what `caches[i]` holds, extends the caches, and
    /// returns the final hidden state of each sequence's last new token, `[sequences, d]`. Every sequence has at least
    /// one new token.
    pub fn extend(
        &self,
        ids: &[u32],
        segments: &Segments,
        caches: &mut [KvCache],
        adapter: Option<&Adapter>,
    ) -> Result<Tensor> {
        self.extend_in(ids, segments, caches, adapter, None)
    }

    /// As [`Self::extend`], with an adapter for each sequence: its place in `adapters`.
    ///
    /// # Errors
    /// Those of [`Self::extend`], and a place that there is not.
    pub fn extend_each(
        &self,
        ids: &[u32],
        segments: &Segments,
        caches: &mut [KvCache],
        adapters: &SideBySide,
        places: &[usize],
    ) -> Result<Tensor> {
        if places.len() != segments.len() || places.iter().any(|&place| place >= adapters.len()) {
            return Err(Error::request(format!("there are {} adapters beside each other", adapters.len())));
        }
        let rows: Vec<u32> =
            segments.iter().zip(places).flat_map(|(r, &place)| std::iter::repeat_n(place as u32, r.len())).collect();
        self.extend_in(ids, segments, caches, None, Some(Beside { adapters, rows: &rows }))
    }

    fn extend_in(
        &self,
        ids: &[u32],
        segments: &Segments,
        caches: &mut [KvCache],
        adapter: Option<&Adapter>,
        beside: Option<Beside<'_>>,
    ) -> Result<Tensor> {
        let mut positions = Vec::with_capacity(ids.len());
        for (range, cache) in segments.iter().zip(caches.iter()) {
            self.check_length(cache.len + range.len())?;
            positions.extend(cache.len as u32..(cache.len + range.len()) as u32);
        }
        let pack = Pack { segments, positions: &positions, adapter, beside };
        let x = self.embed(ids, false)?;
        for (range, cache) in segments.iter().zip(caches.iter_mut()) {
            cache.reserve(range.len(), &x)?;
        }
        let together = if self.attends_to_caches() { Some(attention_together(segments, caches, &x)?) } else { None };
        let mut cached = Cached { segments, caches, shapes: self.shapes(), together };
        let x = self.carry(x, 0..self.block_count(), pack, Some(&mut cached))?;
        for (range, cache) in segments.iter().zip(caches.iter_mut()) {
            cache.len += range.len();
        }
        let last: Vec<u32> = segments.iter().map(|r| r.end.saturating_sub(1) as u32).collect();
        self.normed(&gather_rows(&x, &last)?)
    }
}

/// Attention of new rows to caches with room for them.
fn attention_together(segments: &Segments, caches: &[KvCache], x: &Tensor) -> Result<CachedAttention> {
    let (mut appended, mut reads) = (Vec::with_capacity(caches.len()), Vec::with_capacity(caches.len()));
    for (range, cache) in segments.iter().zip(caches) {
        let Some(values) = cache.together() else { return Err(Error::failed("a cache is not on the device")) };
        let (at, count) = (cache.len, range.len());
        appended.push(Appended { cache: values, at, count });
        reads.push(Reads { spans: vec![Span { cache: Some(values), rows: 0..at + count }], rows: count, past: at });
    }
    Ok(CachedAttention::new(x.device(), &appended, &reads)?)
}

/// Attention of the new rows of packed sequences against their caches, which it extends.
struct Cached<'a> {
    segments: &'a Segments,
    caches: &'a mut [KvCache],
    /// Of each layer.
    shapes: &'a [AttentionShape],
    /// On a device with attention of its own.
    together: Option<CachedAttention>,
}

impl Attend for Cached<'_> {
    fn takes_rows(&self) -> bool {
        self.together.is_none() && self.caches.iter().flat_map(KvCache::layers).all(|l| matches!(l, Layer::Host { .. }))
    }

    fn rows(&mut self, layer: usize, [q_rows, k_rows, v_rows]: [&[f32]; 3]) -> Vec<f32> {
        let shape = self.shapes[layer];
        let (qw, kw) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let mut out = vec![0f32; q_rows.len()];
        let mut rest = out.as_mut_slice();
        let mut sequences = Vec::with_capacity(self.caches.len());
        for (range, cache) in self.segments.iter().zip(self.caches.iter_mut()) {
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(range.len() * qw);
            rest = others;
            if let Some(Layer::Host { k, v }) = cache.layer_mut(layer) {
                k.extend_from_slice(&k_rows[range.start * kw..range.end * kw]);
                v.extend_from_slice(&v_rows[range.start * kw..range.end * kw]);
                sequences.push(CachedSequence { q: &q_rows[range.start * qw..range.end * qw], k, v, out: mine });
            }
        }
        attention_cached(&mut sequences, shape);
        drop(sequences);
        out
    }

    fn tensors(&mut self, layer: usize, [q, k, v]: [&Tensor; 3]) -> Result<Tensor> {
        if let Some(attention) = &self.together {
            attention.append(k, v, layer)?;
            return Ok(attention.attend([q, k, v], layer, self.shapes[layer])?);
        }
        if self.takes_rows() {
            let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>());
            let out = self.rows(layer, [&flat(q)?, &flat(k)?, &flat(v)?]);
            return Ok(Tensor::from_vec(out, q.dims2()?, q.device())?);
        }
        let mut outs = Vec::with_capacity(self.caches.len());
        for (range, cache) in self.segments.iter().zip(self.caches.iter_mut()) {
            let rows = |t: &Tensor| t.narrow(0, range.start, range.len());
            let (mut k, mut v) = (rows(k)?, rows(v)?);
            if let Some(Layer::Device(slot)) = cache.layer_mut(layer) {
                if let Some((before_k, before_v)) = slot.take() {
                    k = Tensor::cat(&[&before_k, &k], 0)?;
                    v = Tensor::cat(&[&before_v, &v], 0)?;
                }
                *slot = Some((k.clone(), v.clone()));
            }
            outs.push(attend_device(&rows(q)?, &k, &v, self.shapes[layer])?);
        }
        Ok(Tensor::cat(&outs, 0)?)
    }
}

/// `n` queries against `total` keys and values of one sequence, by candle's primitives.
pub(crate) fn attend_device(q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape) -> Result<Tensor> {
    let ((n, _), (total, _)) = (q.dims2()?, k.dims2()?);
    let (h, kv, hd) = (shape.heads, shape.kv_heads, shape.head_dim);
    let group = h / kv;
    // [kv, group * n, hd] against [kv, total, hd]: the heads of a group share their keys.
    let q = q.reshape((n, kv, group, hd))?.permute((1, 2, 0, 3))?.contiguous()?.reshape((kv, group * n, hd))?;
    let per_head = |t: &Tensor| t.reshape((total, kv, hd))?.transpose(0, 1)?.contiguous();
    let (k, v) = (per_head(k)?, per_head(v)?);
    let scores = shape.finish(&q.matmul(&k.t()?)?.to_dtype(DType::F32)?)?;
    let scores = scores.reshape((kv, group, n, total))?.broadcast_add(&mask(n, total, shape.window, q.device())?)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(v.dtype())?;
    let out = weights.reshape((kv, group * n, total))?.matmul(&v)?;
    Ok(out.reshape((kv, group, n, hd))?.permute((2, 0, 1, 3))?.contiguous()?.reshape((n, h * hd))?)
}

/// 0 where query `i` (position `total - n + i`) sees key `j`, minus infinity elsewhere; `[n, total]`.
fn mask(n: usize, total: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let sees = |i: usize, j: usize| {
        let at = total - n + i;
        j <= at && window.is_none_or(|w| at - j < w)
    };
    let values: Vec<f32> =
        (0..n * total).map(|at| if sees(at / total, at % total) { 0.0 } else { f32::NEG_INFINITY }).collect();
    Ok(Tensor::from_vec(values, (n, total), device)?)
}
