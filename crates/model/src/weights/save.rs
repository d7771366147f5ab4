//! Writing safetensors. In: named tensors; out: one file, as transformers and PEFT write it. Invariant: the file
//! appears whole or not at all, and the same tensors give the same bytes.

use crate::{Error, Result, error::PathContext};
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, View};
use std::{borrow::Cow, collections::HashMap, fs::File, path::Path};

/// Writes `tensors` to `path`, converted to `dtype` (f32, f16 or bf16), with the metadata `{"format": "pt"}`. Tensors
/// are converted one at a time, as they are written.
pub fn save_safetensors(path: &Path, tensors: &[(String, Tensor)], dtype: DType) -> Result<()> {
    let views = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), Saved::new(tensor, dtype).map_err(|e| e.context(name))?)))
        .collect::<Result<Vec<_>>>()
        .map_err(|e| e.context(path.display()))?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // In a directory of its own: the safetensors crate makes and renames a private file, this renames a durable,
    // ordinarily readable one.
    let staging = tempfile::Builder::new().prefix(".saving-").tempdir_in(dir).at(dir)?;
    let staged = staging.path().join("tensors");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), &staged)
        .map_err(|e| Error::failed(format!("{}: {e}", path.display())).hint("is there space left on the disk?"))?;
    let file = File::open(&staged).writing(path)?;
    #[cfg(unix)]
    {
        // The mode that an ordinary new file gets here.
        let probe = File::create(staging.path().join("mode")).and_then(|probe| probe.metadata()).writing(path)?;
        file.set_permissions(probe.permissions()).writing(path)?;
    }
    file.sync_all().writing(path)?;
    std::fs::rename(&staged, path).writing(path)?;
    #[cfg(unix)]
    File::open(dir).and_then(|dir| dir.sync_all()).writing(dir)?;
    Ok(())
}

/// A contiguous CPU tensor of a float type, to be written as `dtype`.
struct Saved {
    tensor: Tensor,
    dtype: Dtype,
}

impl Saved {
    fn new(tensor: &Tensor, dtype: DType) -> Result<Self> {
        let saved = match dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            other => return Err(Error::request(format!("cannot save as {other:?} (f32, f16 and bf16 can)"))),
        };
        let tensor = tensor.detach().to_device(&Device::Cpu)?.contiguous()?;
        let tensor = if matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            tensor
        } else {
            tensor.to_dtype(DType::F32)?
        };
        Ok(Self { tensor, dtype: saved })
    }

    /// The elements of `all`, the storage's, that are this tensor's, converted to little-endian bytes of the type.
    fn encode<T: Copy + Sync>(&self, all: &[T], start: usize, to_f32: impl Fn(T) -> f32 + Sync) -> Vec<u8> {
        let values = all.get(start..start + self.tensor.elem_count()).unwrap_or_default();
        let width = self.dtype.bitsize() / 8;
        let mut bytes = vec![0; values.len() * width];
        bytes.par_chunks_mut(width << 15).zip(values.par_chunks(1 << 15)).for_each(|(bytes, values)| {
            for (out, value) in bytes.chunks_exact_mut(width).zip(values) {
                let value = to_f32(*value);
                match self.dtype {
                    Dtype::BF16 => out.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                    Dtype::F16 => out.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                    _ => out.copy_from_slice(&value.to_le_bytes()),
                }
            }
        });
        bytes
    }
}

impl View for Saved {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let (storage, layout) = self.tensor.storage_and_layout();
        let start = layout.start_offset();
        Cow::Owned(match &*storage {
            Storage::Cpu(CpuStorage::F32(all)) => self.encode(all, start, |x| x),
            Storage::Cpu(CpuStorage::F16(all)) => self.encode(all, start, f16::to_f32),
            Storage::Cpu(CpuStorage::BF16(all)) => self.encode(all, start, bf16::to_f32),
            // `new` leaves no other.
            _ => Vec::new(),
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.elem_count() * self.dtype.bitsize() / 8
    }
}
