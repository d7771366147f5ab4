//! Gradients from GPU to GPU, by NCCL. In: the device of this rank; out: what carries its tensors to the other ranks.
//! Invariant: all ranks have it or none of them has, and it is made once for a GPU, since ranks and their GPUs stay.

use candle_core::{Device, Tensor};
use eraser_model::{Error, Result};
use eraser_ops::device::{self, Communicator};
use eraser_train::{Group, Transport};
use std::sync::{Arc, Mutex, PoisonError};

/// The one that was made last.
static MADE: Mutex<Option<Arc<Communicator>>> = Mutex::new(None);

/// What carries tensors of `device`; None where a rank computes on another kind of device. All ranks call it at once.
pub(super) fn transport(ranks: &dyn Group, device: &Device) -> Result<Option<Box<dyn Transport>>> {
    if ranks.size() == 1 {
        return Ok(None);
    }
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let ready = made.as_ref().is_some_and(|made| made.is_of(device));
    match agreed(&ranks.gather(&[f32::from(Own::of(device, ready) as u8)])?) {
        Own::Elsewhere => return Ok(None),
        Own::Unmade => *made = Some(Arc::new(join(ranks, device).map_err(hinted)?)),
        Own::Ready => {}
    }
    Ok(made.clone().map(|made| Box::new(Between(made)) as Box<dyn Transport>))
}

/// What a rank has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Own {
    /// No GPU.
    Elsewhere,
    /// A GPU, and no communicator for it.
    Unmade,
    /// Both.
    Ready,
}

impl Own {
    fn of(device: &Device, ready: bool) -> Self {
        match (device, ready) {
            (Device::Cuda(_), true) => Self::Ready,
            (Device::Cuda(_), false) => Self::Unmade,
            _ => Self::Elsewhere,
        }
    }
}

/// What is done by all: the least that one of them has.
fn agreed(all: &[f32]) -> Own {
    let least = all.iter().copied().fold(f32::INFINITY, f32::min);
    match least {
        x if x < 0.5 => Own::Elsewhere,
        x if x < 1.5 => Own::Unmade,
        _ => Own::Ready,
    }
}

/// Makes the communicator, which every rank waits for.
fn join(ranks: &dyn Group, device: &Device) -> Result<Communicator> {
    let id = if ranks.rank() == 0 { device::new_id()?.to_vec() } else { Vec::new() };
    let id = ranks.broadcast(id)?.try_into().map_err(|_| Error::failed("the ranks have other builds of eraser"))?;
    let made = Communicator::new(device, ranks.rank(), ranks.size(), id)?;
    if ranks.rank() == 0 {
        crate::progress::note("gradients go from GPU to GPU, by NCCL");
    }
    Ok(made)
}

/// What can be done about an error of NCCL.
fn hinted(error: Error) -> Error {
    error
        .hint("each rank needs a GPU of its own: --device cuda, and no more ranks on a machine than it has GPUs")
        .hint("NCCL_DEBUG=WARN in the environment has NCCL say what is wrong")
        .hint("a build with the features `mpi` and `cuda`, without `nccl`, adds gradients up through the hosts")
}

/// Tensors by NCCL.
struct Between(Arc<Communicator>);

impl Transport for Between {
    fn exchange(&self, values: &Tensor) -> Result<Tensor> {
        self.0.exchange(values).map_err(|e| hinted(e.into()))
    }

    fn gather(&self, values: &Tensor) -> Result<Tensor> {
        self.0.gather(values).map_err(|e| hinted(e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_do_what_all_of_them_can() {
        let all = |all: &[Own]| agreed(&all.iter().map(|&own| f32::from(own as u8)).collect::<Vec<_>>());
        assert_eq!(all(&[Own::Ready, Own::Ready]), Own::Ready);
        assert_eq!(all(&[Own::Ready, Own::Unmade, Own::Ready]), Own::Unmade, "one has loaded its model on another GPU");
        assert_eq!(all(&[Own::Unmade, Own::Elsewhere]), Own::Elsewhere);
        assert_eq!(Own::of(&Device::Cpu, false), Own::Elsewhere);
    }
}
