//! The safetensors of a Hugging Face model directory: one file, or shards with an index. Invariant: every tensor that
//! the index names was found in its shard, inside the directory, when the directory was opened.

use super::{TensorSource, bnb, check_shape, decode, fp8, from_f32, missing};
use crate::{Error, Result, config::read_json, counted, error::PathContext, files, gguf::TensorType, in_file::InFile};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Name of a model's weights in one file.
const SINGLE: &str = "model.safetensors";
/// Name of the list of shards.
const INDEX: &str = "model.safetensors.index.json";
/// Missing files that a message names.
const SHOWN: usize = 4;
/// Far more than the index of any published model.
const MAX_INDEX: u64 = 64 << 20;

/// Ends of names of tensors that nothing reads: frequencies of the rotation, which old files have and the configuration
/// says, and scales by which other programs round activations and caches.
const PASSED_OVER: [&str; 5] = ["inv_freq", ".input_scale", ".output_scale", ".k_scale", ".v_scale"];

/// The memory-mapped safetensors of a directory.
#[derive(Debug)]
pub struct HfDirectory {
    dir: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

/// A tensor: its shard, type, shape and place in the shard, and whether it was read.
#[derive(Debug)]
struct Entry {
    read: AtomicBool,
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl HfDirectory {
    /// Maps `dir/model.safetensors`, or the shards that `dir/model.safetensors.index.json` lists.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut this = Self { dir: dir.to_path_buf(), shards: Vec::new(), tensors: BTreeMap::new() };
        match weight_files(dir)? {
            Files::One(path) => this.tensors = this.add_shard(path)?.into_iter().collect(),
            Files::Shards(shards) => this.add_shards(shards)?,
        }
        Ok(this)
    }

    /// The files that hold the weights.
    ///
    /// # Errors
    /// There are none, or some are missing.
    pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
        Ok(match weight_files(dir)? {
            Files::One(path) => vec![path],
            Files::Shards(shards) => shards.into_keys().collect(),
        })
    }

    /// Whether a tensor is in a form that is expanded as it is read.
    pub(crate) fn is_quantised(&self) -> bool {
        self.tensors
            .iter()
            .any(|(name, entry)| entry.dtype == Dtype::F8_E4M3 || bnb::STATES.iter().any(|end| name.ends_with(end)))
    }

    fn add_shard(&mut self, path: PathBuf) -> Result<Vec<(String, Entry)>> {
        let map = eraser_ops::mmap::map(&path).at(&path)?;
        files::no_pointer(&map, &path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::request(format!("{}: not a valid safetensors file: {e}", path.display()))
                .hint("the file is damaged or incomplete: download it again")
        })?;
        let shard = self.shards.len();
        // The data follows the header, which follows its own length of 8 bytes.
        let start = 8 + header;
        let entry = |info: &TensorInfo| Entry {
            read: AtomicBool::new(false),
            shard,
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: start + info.data_offsets.0..start + info.data_offsets.1,
        };
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect();
        self.shards.push(Shard { path, map });
        Ok(tensors)
    }

    fn add_shards(&mut self, shards: Shards) -> Result<()> {
        for (path, wanted) in shards {
            let mut found: BTreeMap<String, Entry> = self.add_shard(path.clone())?.into_iter().collect();
            for tensor in wanted {
                let entry = found.remove(&tensor).ok_or_else(|| missing(&path, &tensor))?;
                self.tensors.insert(tensor, entry);
            }
        }
        Ok(())
    }

    /// Every tensor as it is stored.
    pub(crate) fn fingerprinted(&self) -> Vec<InFile<'_>> {
        self.tensors
            .iter()
            .map(|(name, t)| InFile { name, dtype: format!("{:?}", t.dtype), shape: &t.shape, bytes: self.bytes(t) })
            .collect()
    }

    /// A tensor under its name in a causal language model, or in a larger one that this is the text part of, as version
    /// 5 of transformers and earlier ones write it.
    fn find(&self, name: &str) -> Option<&Entry> {
        let inside = || match name.strip_prefix("model.") {
            Some(rest) => [format!("model.language_model.{rest}"), format!("language_model.model.{rest}")],
            None => [format!("language_model.{name}"), format!("model.language_model.{name}")],
        };
        self.tensors.get(name).or_else(|| inside().iter().find_map(|name| self.tensors.get(name)))
    }

    /// A tensor of this shape, and the file that it is in.
    fn entry(&self, name: &str, shape: &[usize]) -> Result<(&Entry, &Path)> {
        let entry = self.find(name).ok_or_else(|| missing(&self.dir, name))?;
        let path = self.shards.get(entry.shard).map_or(&self.dir, |shard| &shard.path);
        // The shape of one in 4 bits is that of its bytes; its own is beside it.
        if self.four_bits(name).is_none() {
            check_shape(path, name, &entry.shape, shape)?;
        }
        entry.read.store(true, Ordering::Relaxed);
        Ok((entry, path))
    }

    /// Whether both tensors are there and are not the same.
    pub(crate) fn differ(&self, a: &str, b: &str) -> bool {
        let (Some(a), Some(b)) = (self.find(a), self.find(b)) else { return false };
        a.range != b.range && (a.dtype, &a.shape, self.bytes(a)) != (b.dtype, &b.shape, self.bytes(b))
    }

    /// Tensors of decoder layers that nothing has read. Those of other parts, as of a vision tower, are none, and
    /// neither are those that are passed over.
    pub(crate) fn unread(&self) -> impl Iterator<Item = &str> {
        let of_layer = |name: &str| {
            let rest = ["model.language_model.", "language_model.model.", "model."];
            let rest = rest.iter().find_map(|prefix| name.strip_prefix(prefix));
            let passed = PASSED_OVER.iter().any(|end| name.ends_with(end));
            rest.is_some_and(|rest| rest.starts_with("layers.")) && !passed
        };
        let unread = move |(name, entry): &(&String, &Entry)| of_layer(name) && !entry.read.load(Ordering::Relaxed);
        self.tensors.iter().filter(unread).map(|(name, _)| name.as_str())
    }

    /// Gives the memory of what was read from the files back.
    pub(crate) fn release(&self) {
        self.shards.iter().for_each(|shard| eraser_ops::mmap::release(&shard.map));
    }

    /// A matrix of 8-bit floats, with its scales: `weight_scale_inv` in those of `DeepSeek` and Qwen,
    /// `weight_scale` in those of compressed-tensors. Both multiply.
    fn expand(&self, name: &str, bytes: &[u8], shape: &[usize]) -> Result<Vec<f32>> {
        let at = |e: Error| e.context(format_args!("{}: tensor `{name}`", self.dir.display()));
        let &[rows, cols] = shape else { return Err(at(Error::request("8-bit floats that are not a matrix"))) };
        let names = ["_scale_inv", "_scale"].map(|end| format!("{name}{end}"));
        let Some((scale, entry)) = names.iter().find_map(|scale| Some((scale, self.find(scale)?))) else {
            return Err(at(Error::request(format!(
                "it has 8-bit floats without a `{name}_scale_inv` or `{name}_scale`"
            )))
            .hint("the checkpoint is incomplete, or of a kind of FP8 that is not supported"));
        };
        let scales = self.tensor(scale, &entry.shape, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()?;
        fp8::expand(bytes, [rows, cols], &scales, &entry.shape).map_err(at)
    }

    /// The description of a matrix in 4 bits, if it is one.
    fn four_bits(&self, name: &str) -> Option<&Entry> {
        bnb::STATES.iter().find_map(|end| self.find(&format!("{name}{end}")))
    }

    /// A matrix in 4 bits, with the tensors that bitsandbytes puts beside it.
    fn expand_four_bits(&self, name: &str, described: &Entry, codes: &[u8], shape: &[usize]) -> Result<Vec<f32>> {
        let at = |e: Error| e.context(format_args!("{}: tensor `{name}`", self.dir.display()));
        described.read.store(true, Ordering::Relaxed);
        let state = bnb::State::read(self.bytes(described)).map_err(at)?;
        check_shape(&self.dir, name, &state.shape, shape)?;
        let beside = |end: &str| {
            let name = format!("{name}.{end}");
            let entry = self.find(&name).ok_or_else(|| missing(&self.dir, &name))?;
            entry.read.store(true, Ordering::Relaxed);
            Ok::<_, Error>((name, entry))
        };
        let floats = |end: &str| -> Result<Vec<f32>> {
            let (name, entry) = beside(end)?;
            Ok(self.tensor(&name, &entry.shape, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()?)
        };
        let values = floats("quant_map")?;
        let (_, absmax) = beside("absmax")?;
        let scales = if absmax.dtype == Dtype::U8 {
            let (own, scales) = (floats("nested_quant_map")?, floats("nested_absmax")?);
            let nested = bnb::Nested { codes: self.bytes(absmax), values: &own, scales: &scales };
            state.scales(&nested).map_err(at)?
        } else {
            floats("absmax")?
        };
        state.expand(codes, &values, &scales).map_err(at)
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        self.shards.get(entry.shard).and_then(|shard| shard.map.get(entry.range.clone())).unwrap_or_default()
    }
}

impl TensorSource for HfDirectory {
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let (entry, path) = self.entry(name, shape)?;
        let bytes = self.bytes(entry);
        if let Some(described) = self.four_bits(name) {
            let values = self.expand_four_bits(name, described, bytes, shape)?;
            self.release();
            return from_f32(values, shape, dtype, device);
        }
        let values = match (entry.dtype, dtype) {
            // Half types as they are: through f32 would cost memory.
            (Dtype::BF16, DType::BF16) => {
                return Ok(Tensor::from_vec(decode(bytes, bf16::from_le_bytes), shape, device)?);
            }
            (Dtype::F16, DType::F16) => {
                return Ok(Tensor::from_vec(decode(bytes, f16::from_le_bytes), shape, device)?);
            }
            (Dtype::F32, _) => decode(bytes, f32::from_le_bytes),
            (Dtype::BF16, _) => decode(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            (Dtype::F16, _) => decode(bytes, |b| f16::from_le_bytes(b).to_f32()),
            (Dtype::F8_E4M3, _) => self.expand(name, bytes, shape)?,
            (other, _) => {
                let path = path.display();
                return Err(Error::request(format!(
                    "{path}: tensor `{name}` has type {other:?}, not F32, F16, BF16 or F8_E4M3"
                ))
                .hint("quantised weights are supported as FP8, in bitsandbytes' 4 bits and as GGUF files"));
            }
        };
        self.release();
        from_f32(values, shape, dtype, device)
    }

    fn stored(&self, name: &str, [rows, cols]: [usize; 2]) -> Result<Option<eraser_ops::Stored>> {
        let (entry, _) = self.entry(name, &[rows, cols])?;
        if self.four_bits(name).is_some() {
            return Ok(None);
        }
        let kind = match entry.dtype {
            Dtype::BF16 => TensorType::BF16,
            Dtype::F16 => TensorType::F16,
            // Any other type is refused where its values are asked for.
            _ => return Ok(None),
        };
        let stored = eraser_ops::Stored::new(kind, rows, cols, self.bytes(entry).to_vec())?;
        self.release();
        Ok(Some(stored))
    }

    fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

/// Where the weights of a directory are.
enum Files {
    One(PathBuf),
    Shards(Shards),
}

/// Files, and the tensors that each of them should have.
type Shards = BTreeMap<PathBuf, Vec<String>>;

fn weight_files(dir: &Path) -> Result<Files> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if single.exists() {
        Ok(Files::One(single))
    } else if index.exists() {
        listed(dir, &index).map(Files::Shards)
    } else {
        Err(no_weights(dir))
    }
}

/// The shards that an index lists.
fn listed(dir: &Path, index: &Path) -> Result<Shards> {
    let at = |message: String| Error::request(format!("{}: {message}", index.display()));
    let content = read_json(index, MAX_INDEX)?;
    let tensors = content
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| at("`weight_map` must be an object of tensor names and file names".to_owned()))?;
    let mut shards = Shards::new();
    for (tensor, file) in tensors {
        let file = file.as_str().ok_or_else(|| at(format!("`weight_map.{tensor}` must be a file name")))?;
        let mut components = Path::new(file).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(at(format!("`weight_map.{tensor}`: {file:?} is not the name of a file in the directory"))
                .hint("an index may only name files beside it"));
        }
        shards.entry(dir.join(file)).or_default().push(tensor.clone());
    }
    let missing: Vec<&Path> = shards.keys().map(PathBuf::as_path).filter(|path| !path.exists()).collect();
    if missing.is_empty() {
        return Ok(shards);
    }
    let name = |path: &&Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names: Vec<String> = missing.iter().take(SHOWN).map(name).collect();
    if missing.len() > SHOWN {
        names.push("..".to_owned());
    }
    let (n, all) = (missing.len(), counted(shards.len(), "file"));
    let verb = if n == 1 { "is" } else { "are" };
    Err(at(format!("{n} of the {all} that it lists {verb} missing: {}", names.join(", ")))
        .hint("the model is incomplete without them: download it again"))
}

fn no_weights(dir: &Path) -> Error {
    let entries = match std::fs::read_dir(dir).at(dir) {
        Ok(entries) => entries,
        Err(e) => return e,
    };
    for name in [SINGLE, INDEX] {
        let path = dir.join(name);
        if let Ok(target) = std::fs::read_link(&path) {
            let (link, target) = (path.display(), target.display());
            return Error::request(format!("{link}: it is a link to {target}, which is not there"))
                .hint("the file was moved, or removed from a cache: download the model again");
        }
    }
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let found = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end)));
    let error = Error::request(format!("{}: there is no {SINGLE} and no {INDEX}", dir.display()));
    if names.iter().any(|name| name == "adapter_model.safetensors") {
        return error
            .hint("this is an adapter: pass the base model's directory as the model and this one as the adapter");
    }
    if let Some(name) = names.iter().find(|name| name.starts_with("consolidated") && name.ends_with(".safetensors")) {
        return error.hint(format!(
            "{name} has the weights under the publisher's own names: take the files of the form of transformers, \
             {SINGLE} or its parts with their index"
        ));
    }
    if let Some(name) = found(&[".safetensors"]) {
        return error.hint(format!("{name} is not read: its name must be {SINGLE}, or {INDEX} must list it"));
    }
    // Not those of an optimiser or of a trainer's options.
    let pickled = |name: &&String| {
        ["pytorch_model", "model", "consolidated"].iter().any(|start| name.starts_with(start))
            && [".bin", ".bin.index.json", ".pt", ".pth"].iter().any(|end| name.ends_with(end))
    };
    if let Some(name) = names.iter().find(pickled) {
        return error.hint(format!(
            "convert {name}, which is not read because such files can run code: load the model in transformers, then \
             save_pretrained(DIR, safe_serialization=True)"
        ));
    }
    if let Some(name) = found(&[".gguf"]) {
        return error.hint(format!("pass the GGUF file itself: {}", dir.join(name).display()));
    }
    if let Some(name) = found(&[".h5", ".msgpack", ".onnx"]) {
        return error.hint(format!("{name} is of another program: take the model's safetensors"));
    }
    error.hint("download the whole model directory, weights included")
}
