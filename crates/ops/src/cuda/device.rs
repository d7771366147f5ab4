//! The device: its kernels, memory and launches. In: tensors; out: addresses in the device's memory. Invariant: an address
//! is used only while the tensor that owns the memory is alive, and on the device's one stream, in whose order memory
//! is freed too.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::{
    CudaDevice, CudaStorage, DeviceId, WrapErr,
    cudarc::{
        driver::{CudaContext, CudaFunction, DevicePtr, LaunchConfig, PushKernelArg, sys},
        nvrtc::{CompileOptions, compile_ptx_with_opts},
    },
};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage, Tensor, bail,
};
use half::bf16;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::{Mutex, OnceLock};

/// The text of all kernels.
const KERNELS: &str = concat!(
    include_str!("kernels/common.cu"),
    include_str!("kernels/rows.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/cached.cu"),
    include_str!("kernels/losses.cu"),
);

/// Threads of a block.
pub(super) const BLOCK: u32 = 256;

/// Arrays of numbers that are kept on the device between uses.
const KEPT_UPLOADS: usize = 24;

/// Readies a device: work on it goes through one stream, so that its tensors need no events. Does nothing on others.
///
/// Errors when the kernels cannot be compiled for the device.
#[allow(unsafe_code)]
pub(crate) fn prepare(device: &Device) -> Result<()> {
    let Device::Cuda(device) = device else { return Ok(()) };
    // SAFETY: every tensor of the device is made, used and freed on its one stream; while NCCL reads or writes one on a
    // stream of its own, the host waits for it, and has waited for this one (`nccl.rs`).
    unsafe { device.disable_event_tracking() };
    // Without this, memory that was freed goes back to the driver whenever the host waits for the device, and is asked
    // for again. A driver that has no pools has no such attribute either.
    if let Some(pool) = pool(device) {
        let mut all = u64::MAX;
        let keep = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is the device's own, and the attribute is a number of 64 bits.
        let _ = unsafe { sys::cuMemPoolSetAttribute(pool, keep, (&raw mut all).cast()) };
    }
    kernels(device).map(drop)
}

/// How many devices this process sees; 0 without a driver.
pub(crate) fn count() -> usize {
    CudaContext::device_count().map_or(0, |n| n as usize)
}

/// Bytes of memory that are free on a CUDA device; None elsewhere.
#[allow(unsafe_code)]
pub(crate) fn free_memory(device: &Device) -> Option<usize> {
    let Device::Cuda(device) = device else { return None };
    device.cuda_stream().context().bind_to_thread().ok()?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: both places are valid for the call, and the device's context is bound to this thread.
    let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
    let pooled = pool(device).map_or(0, |pool| {
        let number = |what| {
            let mut value = 0u64;
            // SAFETY: the pool is the device's own, and both attributes are numbers of 64 bits.
            let result = unsafe { sys::cuMemPoolGetAttribute(pool, what, (&raw mut value).cast()) };
            if result == sys::CUresult::CUDA_SUCCESS { value } else { 0 }
        };
        let reserved = number(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        reserved.saturating_sub(number(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)) as usize
    });
    (result == sys::CUresult::CUDA_SUCCESS).then_some(free + pooled)
}

/// The pool that the device's memory comes from.
#[allow(unsafe_code)]
fn pool(device: &CudaDevice) -> Option<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the place is valid for the call, and the device is one that was opened.
    let result = unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, device.cuda_stream().context().cu_device()) };
    (result == sys::CUresult::CUDA_SUCCESS).then_some(pool)
}

/// The kernels for a device, compiled once for the process: devices of one machine are taken for alike.
fn kernels(device: &CudaDevice) -> Result<&'static str> {
    static COMPILED: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| {
        let (major, minor) = device.cuda_stream().context().compute_capability().map_err(|e| e.to_string())?;
        let options = CompileOptions {
            options: vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".to_owned()],
            ..CompileOptions::default()
        };
        compile_ptx_with_opts(KERNELS, options).map(|ptx| ptx.to_src()).map_err(|e| format!("{e:?}"))
    });
    match compiled {
        Ok(text) => Ok(text),
        Err(e) => bail!("the kernels do not compile for this device: {e}"),
    }
}

/// An address in the device's memory, which lives as long as what it was taken of.
#[derive(Clone, Copy)]
pub(super) struct Address<'a> {
    pub(super) at: u64,
    alive: PhantomData<&'a ()>,
}

impl Address<'_> {
    fn new(at: u64) -> Self {
        Self { at, alive: PhantomData }
    }

    /// The address `bytes` further on.
    pub(super) fn after(self, bytes: usize) -> Self {
        Self { at: self.at + bytes as u64, ..self }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    At(Address<'a>),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// Starts a kernel. The caller sees to it that the arguments are those of the kernel, and that what it reads and writes
/// is as large as it takes it for.
#[allow(unsafe_code)]
pub(super) fn launch(
    device: &CudaDevice,
    name: &'static str,
    blocks: u64,
    threads: u32,
    arguments: &[Arg<'_>],
) -> Result<()> {
    if blocks == 0 {
        return Ok(());
    }
    let Ok(blocks) = u32::try_from(blocks) else { bail!("{name}: {blocks} blocks are too many") };
    let (function, stream) = (function(device, name)?, device.cuda_stream());
    let mut builder = stream.launch_builder(&function);
    for argument in arguments {
        match argument {
            Arg::At(x) => builder.arg(&x.at),
            Arg::U64(x) => builder.arg(x),
            Arg::U32(x) => builder.arg(x),
            Arg::F32(x) => builder.arg(x),
        };
    }
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the callers in this folder pass what the kernel of this name declares, and memory of the sizes given.
    unsafe { builder.launch(config) }.w().map(drop)
}

thread_local! {
    static FUNCTIONS: RefCell<HashMap<(DeviceId, &'static str), CudaFunction>> = RefCell::new(HashMap::new());
}

/// A kernel by its name: looked up once for each thread, since a small model starts thousands of kernels a step.
fn function(device: &CudaDevice, name: &'static str) -> Result<CudaFunction> {
    FUNCTIONS.with_borrow_mut(|known| {
        if let Some(function) = known.get(&(device.id(), name)) {
            return Ok(function.clone());
        }
        let function = device.get_or_load_custom_func(name, "eraser", kernels(device)?)?.into_cuda_function();
        known.insert((device.id(), name), function.clone());
        Ok(function)
    })
}

/// Starts a kernel with a thread for each of `n` elements.
pub(super) fn launch_each(device: &CudaDevice, name: &'static str, n: usize, arguments: &[Arg<'_>]) -> Result<()> {
    launch(device, name, (n as u64).div_ceil(u64::from(BLOCK)), BLOCK, arguments)
}

/// The name of a kernel for elements of a type.
macro_rules! kernel {
    ($name:literal, $dtype:expr) => {
        if $dtype == candle_core::DType::BF16 { concat!($name, "_bf16") } else { concat!($name, "_f32") }
    };
}
pub(super) use kernel;

/// The CUDA device of a tensor.
pub(super) fn of(x: &Tensor) -> Result<CudaDevice> {
    match x.device() {
        Device::Cuda(device) => Ok(device.clone()),
        other => bail!("a tensor is on {other:?}, not on a CUDA device"),
    }
}

/// A tensor as kernels take it: contiguous, and beginning where 16 bytes can be read at once.
pub(super) fn ready(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    if address(&x)?.at.is_multiple_of(16) { Ok(x) } else { x.force_contiguous() }
}

/// Where the elements of a contiguous tensor begin.
pub(super) fn address(x: &Tensor) -> Result<Address<'_>> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => Ok(Address::new(storage_address(storage, layout)?)),
        _ => bail!("a tensor is not on a CUDA device"),
    }
}

/// The same of a storage under a layout.
fn storage_address(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let Some((start, _)) = layout.contiguous_offsets() else { bail!("a tensor is not contiguous") };
    let stream = storage.device.cuda_stream();
    // The guards end at once: all work is on one stream, which orders it.
    let (address, size) = match storage.dtype() {
        DType::F32 => (storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0, 4),
        DType::BF16 => (storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0, 2),
        DType::U32 => (storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0, 4),
        other => bail!("no kernels for {other:?}"),
    };
    Ok(address + (start * size) as u64)
}

/// Memory of the device that was just made.
pub(super) struct Fresh {
    storage: CudaStorage,
    shape: Shape,
}

impl Fresh {
    /// Memory for a tensor of this shape, whatever it holds: everything is written before it is read.
    #[allow(unsafe_code)]
    pub(super) fn new(device: &CudaDevice, dtype: DType, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        let n = shape.elem_count();
        // SAFETY: any bits are a number, and the callers write all of it before it is read.
        let storage = unsafe {
            match dtype {
                DType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(n)?, device.clone()),
                DType::BF16 => CudaStorage::wrap_cuda_slice(device.alloc::<bf16>(n)?, device.clone()),
                DType::U32 => CudaStorage::wrap_cuda_slice(device.alloc::<u32>(n)?, device.clone()),
                other => bail!("no kernels for {other:?}"),
            }
        };
        Ok(Self { storage, shape })
    }

    /// The same, of zeros in f32.
    pub(super) fn zeros(device: &CudaDevice, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        let slice = device.alloc_zeros::<f32>(shape.elem_count())?;
        Ok(Self { storage: CudaStorage::wrap_cuda_slice(slice, device.clone()), shape })
    }

    /// Where it begins.
    pub(super) fn at(&self) -> Result<Address<'_>> {
        Ok(Address::new(storage_address(&self.storage, &Layout::contiguous(&self.shape))?))
    }

    /// As a tensor that is not tracked.
    pub(super) fn into_tensor(self) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.storage), self.shape, BackpropOp::none(), false)
    }

    /// As the result of an operation on `inputs` (one to three), whose gradients `backward` gives, each for an input
    /// that is tracked.
    pub(super) fn recorded(self, inputs: &[&Tensor], backward: impl Backward + 'static) -> Result<Tensor> {
        if !inputs.iter().any(|x| x.track_op()) {
            return Ok(self.into_tensor());
        }
        let op = Recorded { made: Mutex::new(Some(self)), backward: Box::new(backward) };
        match inputs {
            [x] => x.apply_op1(op),
            [x, y] => x.apply_op2(y, op),
            [x, y, z] => x.apply_op3(y, z, op),
            _ => bail!("an operation of {} inputs", inputs.len()),
        }
    }
}

/// From the inputs of an operation and the gradient of its result, contiguous, the gradients of the inputs.
pub(super) trait Backward: Fn(&[&Tensor], &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync {}

impl<F: Fn(&[&Tensor], &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync> Backward for F {}

/// An operation whose result was computed before it was recorded.
struct Recorded {
    made: Mutex<Option<Fresh>>,
    backward: Box<dyn Backward>,
}

impl Recorded {
    fn take(&self) -> Result<(CudaStorage, Shape)> {
        let made = self.made.lock().map_or_else(|poisoned| poisoned.into_inner().take(), |mut made| made.take());
        match made {
            Some(Fresh { storage, shape }) => Ok((storage, shape)),
            None => bail!("an operation was recorded twice"),
        }
    }

    fn gradients<const N: usize>(&self, inputs: [&Tensor; N], grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        let mut found = (self.backward)(&inputs, &ready(grad)?)?;
        found.iter_mut().zip(inputs).filter(|(_, x)| !x.track_op()).for_each(|(found, _)| *found = None);
        let count = found.len();
        found.try_into().map_err(|_| candle_core::Error::Msg(format!("{count} gradients of {N} inputs")).bt())
    }
}

const NAME: &str = "eraser";

fn off_device<T>() -> Result<T> {
    bail!("an operation of a CUDA device was called elsewhere")
}

impl CustomOp1 for Recorded {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        off_device()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [x] = self.gradients([x], grad)?;
        Ok(x)
    }
}

impl CustomOp2 for Recorded {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        off_device()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients([x, y], grad).map(Into::into)
    }
}

impl CustomOp3 for Recorded {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        off_device()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.gradients([x, y, z], grad).map(Into::into)
    }
}

thread_local! {
    static UPLOADS: RefCell<VecDeque<(DeviceId, Vec<u32>, Tensor)>> = const { RefCell::new(VecDeque::new()) };
}

/// Numbers on the device. Positions and rows are the same in every block of a pass: the last ones are kept.
pub(super) fn upload(device: &CudaDevice, values: &[u32]) -> Result<Tensor> {
    UPLOADS.with_borrow_mut(|kept| {
        if let Some((_, _, tensor)) = kept.iter().find(|(id, own, _)| *id == device.id() && own == values) {
            return Ok(tensor.clone());
        }
        let tensor = Tensor::new(values, &Device::Cuda(device.clone()))?;
        if kept.len() == KEPT_UPLOADS {
            kept.pop_front();
        }
        kept.push_back((device.id(), values.to_vec(), tensor.clone()));
        Ok(tensor)
    })
}
