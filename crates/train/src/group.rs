//! Processes that take the steps of one training together. In: what each of them has computed; out: the same sums at
//! every one. Invariant: terms are added in the order of ranks, in f64, so the same ranks give the same bits each time,
//! and all of them hold the same adapter.

use candle_core::{Device, Tensor};
use eraser_model::Result;
use serde::{Deserialize, Serialize};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// The ranks of a training. Each calls the same functions in the same order; all of them wait for one another.
pub trait Group: Send + Sync {
    /// This one: below [`Self::size`]. Rank 0 writes files and reports.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Takes a piece from every rank and gives one to each: `values` are [`Self::size`] pieces of one length, of which
    /// this rank keeps the one of its number; what comes back are the pieces of this number of all ranks, in their order.
    ///
    /// # Errors
    /// A rank that cannot be reached.
    fn exchange(&self, values: &[f32]) -> Result<Vec<f32>>;

    /// The values of all ranks, as many of each, in their order.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    fn gather(&self, values: &[f32]) -> Result<Vec<f32>>;

    /// As [`Self::gather`].
    ///
    /// # Errors
    /// As [`Self::exchange`].
    fn gather_f64(&self, values: &[f64]) -> Result<Vec<f64>>;

    /// The bytes of rank 0; those of others are not looked at.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>>;

    /// What carries tensors of `device`, on which this rank trains, to the other ranks and back without the memory of
    /// the host. All ranks call it at once and get one, or none of them does: then values go through the host.
    ///
    /// # Errors
    /// Devices that cannot reach each other although they should; a rank that cannot be reached.
    fn transport(&self, device: &Device) -> Result<Option<Box<dyn Transport + '_>>> {
        let _ = device;
        Ok(None)
    }
}

/// Carries tensors between the devices of ranks. All ranks call the same functions in the same order, with tensors of
/// the same length, in f32 and of one dimension, which live on the device that the transport was asked for.
pub trait Transport {
    /// As [`Group::exchange`].
    ///
    /// # Errors
    /// A device that cannot be reached.
    fn exchange(&self, values: &Tensor) -> Result<Tensor>;

    /// As [`Group::gather`].
    ///
    /// # Errors
    /// As [`Self::exchange`].
    fn gather(&self, values: &Tensor) -> Result<Tensor>;
}

/// One process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Group for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn gather(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn gather_f64(&self, values: &[f64]) -> Result<Vec<f64>> {
        Ok(values.to_vec())
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        Ok(bytes)
    }
}

/// What a rank had to do with the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Steps that it is of.
    pub steps: usize,
    /// Bytes that this rank gave to others: each value once to each rank that takes it. What is sent for it depends on
    /// how an MPI passes on what is for several.
    pub bytes: u64,
    /// Seconds that it was with them: the waiting for slower ones, and for the network.
    pub seconds: f64,
}

/// Counts what goes through a group.
pub(crate) struct Counting<'a> {
    group: &'a dyn Group,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl<'a> Counting<'a> {
    pub(crate) fn new(group: &'a dyn Group) -> Self {
        Self { group, bytes: AtomicU64::new(0), nanoseconds: AtomicU64::new(0) }
    }

    /// Begins again.
    pub(crate) fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.nanoseconds.store(0, Ordering::Relaxed);
    }

    /// What went through it in so many steps; None for one rank.
    pub(crate) fn traffic(&self, steps: usize) -> Option<Traffic> {
        let seconds = self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        let traffic = Traffic { steps, bytes: self.bytes.load(Ordering::Relaxed), seconds };
        (self.size() > 1).then_some(traffic)
    }

    /// Does `work`, in which this rank gives `bytes` to each of `to` ranks.
    fn count<T>(&self, bytes: usize, to: usize, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.bytes.fetch_add((bytes * to) as u64, Ordering::Relaxed);
        self.nanoseconds.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    fn others(&self) -> usize {
        self.size() - 1
    }
}

impl Group for Counting<'_> {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn exchange(&self, values: &[f32]) -> Result<Vec<f32>> {
        self.count(4 * values.len() / self.size(), self.others(), || self.group.exchange(values))
    }

    fn gather(&self, values: &[f32]) -> Result<Vec<f32>> {
        self.count(4 * values.len(), self.others(), || self.group.gather(values))
    }

    fn gather_f64(&self, values: &[f64]) -> Result<Vec<f64>> {
        self.count(8 * values.len(), self.others(), || self.group.gather_f64(values))
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let to = if self.rank() == 0 { self.others() } else { 0 };
        self.count(bytes.len(), to, || self.group.broadcast(bytes))
    }

    fn transport(&self, device: &Device) -> Result<Option<Box<dyn Transport + '_>>> {
        let Some(inner) = self.group.transport(device)? else { return Ok(None) };
        Ok(Some(Box::new(Counted { inner, counting: self })))
    }
}

/// Counts what goes from device to device.
struct Counted<'a> {
    inner: Box<dyn Transport + 'a>,
    counting: &'a Counting<'a>,
}

impl Counted<'_> {
    /// As [`Counting::count`]. A device works on after the host was told that it will: before, it ends what is this
    /// rank's own, and the clock stops when the values are there.
    fn count(&self, values: &Tensor, bytes: usize, work: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        values.device().synchronize()?;
        self.counting.count(bytes, self.counting.others(), || {
            let found = work()?;
            found.device().synchronize()?;
            Ok(found)
        })
    }
}

impl Transport for Counted<'_> {
    fn exchange(&self, values: &Tensor) -> Result<Tensor> {
        self.count(values, 4 * values.elem_count() / self.counting.size(), || self.inner.exchange(values))
    }

    fn gather(&self, values: &Tensor) -> Result<Tensor> {
        self.count(values, 4 * values.elem_count(), || self.inner.gather(values))
    }
}

/// Makes every value the sum over ranks.
pub(crate) fn sum_f64(group: &dyn Group, values: &mut [f64]) -> Result<()> {
    if group.size() == 1 || values.is_empty() {
        return Ok(());
    }
    let all = group.gather_f64(values)?;
    let length = values.len();
    values.fill(0.0);
    for rank in all.chunks_exact(length) {
        values.iter_mut().zip(rank).for_each(|(sum, x)| *sum += x);
    }
    Ok(())
}

/// Makes every value the sum over ranks. Each rank adds one piece of them and tells the others, so that it sends and
/// receives no more than twice the values, however many ranks there are.
pub(crate) fn sum_f32(group: &dyn Group, values: &mut Vec<f32>) -> Result<()> {
    let ranks = group.size();
    if ranks == 1 || values.is_empty() {
        return Ok(());
    }
    let length = values.len();
    let piece = length.div_ceil(ranks);
    values.resize(piece * ranks, 0.0);
    let mut sums = vec![0f64; piece];
    for rank in group.exchange(values)?.chunks_exact(piece) {
        sums.iter_mut().zip(rank).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let sums: Vec<f32> = sums.into_iter().map(|x| x as f32).collect();
    *values = group.gather(&sums)?;
    values.truncate(length);
    Ok(())
}
