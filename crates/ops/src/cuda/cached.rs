//! Attention to keys and values that are kept, on the device. In: rows of queries, and for each the spans of keys that it
//! sees; out: rows of head outputs. No gradient. Invariant: what a row gets depends on its own spans alone.

use super::device::{Arg, Fresh, address, kernel, launch, launch_each, of, ready, upload};
use crate::attention::shape::AttentionShape;
use crate::device::kinds::{Appended, Reads, Span};
use candle_core::cuda_backend::CudaDevice;
use candle_core::{Result, Tensor, bail};

/// Threads of a block: as many warps as the kernel counts on.
const THREADS: u32 = 128;

/// The widest head that the kernel has room for.
const MOST_WIDTH: usize = 256;

/// Halves of an address.
fn halves(at: u64) -> [u32; 2] {
    [at as u32, (at >> 32) as u32]
}

/// Where each row of a pass is appended.
pub(crate) struct Slots(Tensor);

/// What each row of a pass reads.
pub(crate) struct Plan {
    spans: Tensor,
    starts: Tensor,
    places: Tensor,
    limits: Tensor,
}

impl Slots {
    pub(crate) fn new(device: &CudaDevice, appended: &[Appended<'_>]) -> Result<Self> {
        let mut slots = Vec::new();
        for Appended { cache, at, count } in appended {
            let (base, capacity) = (halves(address(cache)?.at), cache.dim(2)?);
            if at + count > capacity {
                bail!("a cache of {capacity} rows has no room for {count} behind {at}");
            }
            slots.extend((*at..at + count).flat_map(|place| [base[0], base[1], capacity as u32, place as u32]));
        }
        Ok(Self(upload(device, &slots)?))
    }

    /// Writes keys and values `[T, width]` of a layer.
    pub(crate) fn append(&self, k: &Tensor, v: &Tensor, layer: usize) -> Result<()> {
        let (k, v, device) = (ready(k)?, ready(v)?, of(k)?);
        let (n, width) = (k.elem_count(), k.dims2()?.1);
        let arguments = [
            Arg::At(address(&k)?),
            Arg::At(address(&v)?),
            Arg::At(address(&self.0)?),
            Arg::U32(layer as u32),
            Arg::U32(width as u32),
            Arg::U64(n as u64),
        ];
        launch_each(&device, kernel!("append_rows", k.dtype()), 2 * n, &arguments)
    }
}

impl Plan {
    pub(crate) fn new(device: &CudaDevice, reads: &[Reads<'_>]) -> Result<Self> {
        let (mut spans, mut starts, mut places, mut limits) = (Vec::new(), vec![0], Vec::new(), Vec::new());
        for (place, Reads { spans: own, rows, past }) in reads.iter().enumerate() {
            for Span { cache, rows } in own {
                let (base, capacity) = match cache {
                    Some(cache) => (halves(address(cache)?.at), cache.dim(2)?),
                    None => ([0, 0], 0),
                };
                spans.extend([base[0], base[1], capacity as u32, rows.start as u32, rows.len() as u32, 0]);
            }
            starts.push((spans.len() / 6) as u32);
            places.extend(std::iter::repeat_n(place as u32, *rows));
            limits.extend((1..=*rows).map(|row| (past + row) as u32));
        }
        let upload = |values: &[u32]| upload(device, values);
        Ok(Self {
            spans: upload(&spans)?,
            starts: upload(&starts)?,
            places: upload(&places)?,
            limits: upload(&limits)?,
        })
    }

    /// Attention of `q` `[T, heads * head_dim]` in a layer; `k` and `v` are the rows of the pack.
    pub(crate) fn attend(&self, [q, k, v]: [&Tensor; 3], layer: usize, shape: AttentionShape) -> Result<Tensor> {
        let (q, k, v, device) = (ready(q)?, ready(k)?, ready(v)?, of(q)?);
        let (rows, width) = (q.dims2()?.0, shape.head_dim);
        if width > MOST_WIDTH || rows != self.limits.elem_count() {
            bail!("attention to caches: {rows} rows of heads {width} wide, of which {MOST_WIDTH} is the most");
        }
        let out = Fresh::new(&device, q.dtype(), q.dims2()?)?;
        let arguments = [
            Arg::At(address(&q)?),
            Arg::At(address(&k)?),
            Arg::At(address(&v)?),
            Arg::At(out.at()?),
            Arg::At(address(&self.spans)?),
            Arg::At(address(&self.starts)?),
            Arg::At(address(&self.places)?),
            Arg::At(address(&self.limits)?),
            Arg::U32(layer as u32),
            Arg::U32(shape.heads as u32),
            Arg::U32(shape.kv_heads as u32),
            Arg::U32(width as u32),
            Arg::U32(shape.window.map_or(u32::MAX, |window| window as u32)),
            Arg::F32(shape.scale.unwrap_or_else(|| (width as f32).sqrt().recip())),
            Arg::F32(shape.cap.unwrap_or(0.0)),
        ];
        launch(&device, kernel!("attend_spans", q.dtype()), (rows * shape.heads) as u64, THREADS, &arguments)?;
        Ok(out.into_tensor())
    }
}
