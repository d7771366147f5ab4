//! Tensors between the CUDA devices of several processes, by NCCL. In: a tensor in f32 of this process's device; out:
//! what its rank gets of all. Invariant: NCCL works on a stream of its own, from when the device's own stream has ended
//! its work until the host has waited for NCCL's, so no memory is in use on both at once.

use candle_core::{
    DType, Device, Result, Storage, Tensor, bail,
    cuda_backend::{
        CudaStorage, WrapErr,
        cudarc::{
            driver::{CudaSlice, CudaView},
            nccl::{
                Comm, Id, group_end, group_start,
                result::{NcclError, NcclStatus},
            },
        },
    },
    op::BackpropOp,
};
use std::ffi::c_char;
use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError};

/// Bytes of what makes the ranks of a communicator find each other.
pub const ID: usize = 128;

/// What the first rank makes and gives to all others, so that they find each other.
///
/// Errors when NCCL cannot be used: it has no network.
pub fn new_id() -> Result<[u8; ID]> {
    let id = named("a new communicator", Id::new())?;
    Ok(id.internal().map(|byte| byte.to_ne_bytes()[0]))
}

/// One process among those whose devices give each other tensors.
#[derive(Debug)]
pub struct Communicator {
    handle: Mutex<Handle>,
    /// The number of its device.
    number: usize,
    ranks: usize,
}

/// NCCL's own. It is kept until the process ends: to end it earlier is a call that panics where it fails.
#[derive(Debug)]
struct Handle(ManuallyDrop<Comm>);

// SAFETY: a communicator belongs to no thread; NCCL asks for one call at a time, which the mutex around it sees to, and
// finds the device by itself.
#[allow(unsafe_code)]
unsafe impl Send for Handle {}

impl Communicator {
    /// Waits for all `ranks`, of which this is number `rank`, each with a device of its own and the same `id`.
    ///
    /// Errors when `device` is not one of CUDA, two ranks have the same one, or NCCL finds no way between them.
    pub fn new(device: &Device, rank: usize, ranks: usize, id: [u8; ID]) -> Result<Self> {
        let Device::Cuda(cuda) = device else { bail!("NCCL has no way to {device:?}") };
        let stream = cuda.cuda_stream();
        let context = stream.context();
        let own = context.new_stream().w()?;
        // NCCL takes the device whose context the thread has.
        context.bind_to_thread().w()?;
        let id = Id::uninit(id.map(|byte| c_char::from_ne_bytes([byte])));
        let comm = named("the communicator", Comm::from_rank(own, rank, ranks, id))?;
        Ok(Self { handle: Mutex::new(Handle(ManuallyDrop::new(comm))), number: context.ordinal(), ranks })
    }

    /// Whether it was made for this device.
    pub fn is_of(&self, device: &Device) -> bool {
        matches!(device, Device::Cuda(cuda) if cuda.cuda_stream().context().ordinal() == self.number)
    }

    /// Of `values`, as many pieces of one length as there are ranks, gives each rank the piece of its number; what
    /// comes back are the pieces of this rank's number of all, in their order.
    ///
    /// Errors when they are not that, or another rank cannot be reached.
    pub fn exchange(&self, values: &Tensor) -> Result<Tensor> {
        let (n, ranks) = (values.elem_count(), self.ranks);
        if !n.is_multiple_of(ranks) {
            bail!("exchange: {n} values for {ranks} ranks");
        }
        let piece = n / ranks;
        self.pass("exchange", values, n, |comm, from, to| {
            group_start()?;
            let started = (0..ranks).try_for_each(|rank| {
                let part = rank * piece..(rank + 1) * piece;
                comm.send(&from.slice(part.clone()), rank as i32)?;
                comm.recv(&mut to.slice_mut(part), rank as i32).map(drop)
            });
            // What was started is ended in any case: a group belongs to the thread, not to the communicator.
            let ended = group_end();
            started.and(ended)
        })
    }

    /// The values of all ranks, as many of each, in their order.
    ///
    /// Errors when another rank cannot be reached.
    pub fn gather(&self, values: &Tensor) -> Result<Tensor> {
        let n = values.elem_count() * self.ranks;
        self.pass("gather", values, n, |comm, from, to| comm.all_gather(from, to))
    }

    /// Has NCCL do `work` from `values` into a new tensor of `n` values, and waits for it.
    fn pass(
        &self,
        what: &str,
        values: &Tensor,
        n: usize,
        work: impl FnOnce(&Comm, &CudaView<'_, f32>, &mut CudaSlice<f32>) -> std::result::Result<NcclStatus, NcclError>,
    ) -> Result<Tensor> {
        let Device::Cuda(device) = values.device() else { bail!("{what}: NCCL has no way to {:?}", values.device()) };
        if !self.is_of(values.device()) || values.dtype() != DType::F32 {
            bail!("{what}: {:?} on {device:?}, and NCCL was made for f32 on device {}", values.dtype(), self.number);
        }
        let values = values.contiguous()?;
        let mut found = device.alloc_zeros::<f32>(n)?;
        {
            let (storage, layout) = values.storage_and_layout();
            let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
                bail!("{what}: a tensor is not contiguous on a CUDA device");
            };
            let Some(from) = storage.as_cuda_slice::<f32>()?.try_slice(start..end) else {
                bail!("{what}: a tensor is larger than its memory");
            };
            let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
            device.cuda_stream().synchronize().w()?;
            named(what, work(&handle.0, &from, &mut found))?;
            handle.0.stream().synchronize().w()?;
        }
        let found = CudaStorage::wrap_cuda_slice(found, device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(found), n, BackpropOp::none(), false))
    }
}

/// NCCL's errors under their names in its documentation.
fn named<T>(what: &str, result: std::result::Result<T, NcclError>) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => bail!("NCCL, {what}: {:?}", error.0),
    }
}
