//! GGUF files, version 2 and 3, little-endian: memory-mapped, header parsed and checked once; and their writer
//! ([`GgufWriter`]). Invariant: every range kept here was checked to lie inside the file, so that reading metadata
//! arrays and tensor data later cannot fail on bounds.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod parse;
mod write;

pub use eraser_ops::quant::{TensorType, dequantize};
pub use write::{Field, Fields, GgufWriter, Planned};

use crate::{Error, Result, error::PathContext, files, in_file::InFile};
use memmap2::Mmap;
use parse::Header;
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

/// A metadata value. Integers and floats are widened; arrays stay in the file and are decoded by the typed getters of
/// [`GgufFile`], so a header costs no more memory than its keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `uint8` to `uint64`.
    Unsigned(u64),
    /// `int8` to `int64`.
    Signed(i64),
    /// `float32` (exactly) or `float64`.
    Float(f64),
    /// `bool`.
    Bool(bool),
    /// `string`.
    String(String),
    /// A one-dimensional array.
    Array(Array),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
        }
    }
}

/// Where an array lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Type of the elements.
    pub element: Element,
    /// Number of elements.
    pub len: usize,
    range: Range<usize>,
}

/// Element types, as GGUF numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

/// One tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, as in the file (`blk.0.attn_q.weight`).
    pub name: String,
    /// Shape, slowest dimension first (the reverse of the file's order): `[out, in]` for a matrix.
    pub shape: Vec<usize>,
    /// Storage type.
    pub dtype: TensorType,
    range: Range<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An open GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl GgufFile {
    /// Maps and parses `path`. A file that is not well-formed GGUF, or whose tensors do not lie inside it, is an error
    /// that names the key or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let map = eraser_ops::mmap::map(path).at(path)?;
        files::no_pointer(&map, path)?;
        let header = Header::parse(&map).map_err(|e| e.context(path.display()))?;
        Ok(Self { path: path.to_path_buf(), map, header })
    }

    /// Gives the memory of what was read from the file back.
    pub fn release(&self) {
        eraser_ops::mmap::release(&self.map);
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata, by key.
    pub fn all_metadata(&self) -> &BTreeMap<String, Value> {
        &self.header.metadata
    }

    /// The value of `key`.
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// The string `key`; None when absent, an error when it is something else.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string", |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// The boolean `key`.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a boolean", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// The non-negative integer `key`, of any width and signedness.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "a non-negative integer", |v| match v {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// As [`Self::u64`], which must fit 32 bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "a non-negative 32-bit integer", |v| match v {
            Value::Unsigned(n) => u32::try_from(*n).ok(),
            Value::Signed(n) => u32::try_from(*n).ok(),
            _ => None,
        })
    }

    /// The number `key`, float or integer.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a number", |v| match v {
            Value::Float(x) => Some(*x as f32),
            Value::Unsigned(n) => Some(*n as f32),
            Value::Signed(n) => Some(*n as f32),
            _ => None,
        })
    }

    /// The number `key`, a boolean as 0 or 1; None for what is neither.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number", |v| match v {
            Value::Float(x) => Some(*x),
            Value::Unsigned(n) => Some(*n as f64),
            Value::Signed(n) => Some(*n as f64),
            Value::Bool(on) => Some(f64::from(u8::from(*on))),
            _ => None,
        })
    }

    /// The strings of array `key`, borrowed from the file.
    pub fn string_array(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(array) = self.array(key, "an array of strings", |e| e == Element::String)? else { return Ok(None) };
        parse::strings(&self.map[array.range.clone()], array.len).map(Some).map_err(|e| self.at(key, e))
    }

    /// The numbers of array `key` (`float32` or `float64`).
    pub fn f32_array(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(array) = self.array(key, "an array of floats", |e| matches!(e, Element::F32 | Element::F64))? else {
            return Ok(None);
        };
        let bytes = &self.map[array.range.clone()];
        Ok(Some(match array.element {
            Element::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            _ => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        }))
    }

    /// The numbers of array `key`: integers of up to 32 bits that fit `i32`.
    pub fn i32_array(&self, key: &str) -> Result<Option<Vec<i32>>> {
        use Element::{I8, I16, I32, U8, U16, U32};
        let integer = |e| matches!(e, U8 | I8 | U16 | I16 | U32 | I32);
        let Some(array) = self.array(key, "an array of integers", integer)? else { return Ok(None) };
        let bytes = &self.map[array.range.clone()];
        Ok(Some(match array.element {
            U8 => bytes.iter().map(|b| i32::from(*b)).collect(),
            I8 => bytes.iter().map(|b| i32::from(*b as i8)).collect(),
            U16 => bytes.as_chunks::<2>().0.iter().map(|b| i32::from(u16::from_le_bytes(*b))).collect(),
            I16 => bytes.as_chunks::<2>().0.iter().map(|b| i32::from(i16::from_le_bytes(*b))).collect(),
            U32 => {
                let numbers = bytes.as_chunks::<4>().0.iter().map(|b| i32::try_from(u32::from_le_bytes(*b)));
                numbers.collect::<std::result::Result<_, _>>().map_err(|e| self.at(key, Error::request(e)))?
            }
            _ => bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect(),
        }))
    }

    /// The booleans of array `key`; numbers count as whether they are 0.
    pub fn bool_array(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let boolean = |e| e == Element::Bool;
        let Ok(Some(array)) = self.array(key, "an array of booleans", boolean) else {
            return Ok(self.i32_array(key)?.map(|numbers| numbers.iter().map(|n| *n != 0).collect()));
        };
        Ok(Some(self.map[array.range.clone()].iter().map(|b| *b != 0).collect()))
    }

    /// The error for a key that should be there.
    pub fn missing(&self, key: &str) -> Error {
        Error::request(format!("{}: metadata key `{key}` is missing", self.path.display()))
            .hint("convert the model again with a current convert_hf_to_gguf.py of llama.cpp")
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor `name` (the file's own name).
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.index.get(name).map(|i| &self.header.tensors[*i])
    }

    /// The stored bytes of a tensor of this file.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        self.map.get(tensor.range.clone()).unwrap_or_default()
    }

    /// Every tensor as it is stored.
    pub(crate) fn fingerprinted(&self) -> Vec<InFile<'_>> {
        self.tensors()
            .iter()
            .map(|t| InFile { name: &t.name, dtype: format!("{:?}", t.dtype), shape: &t.shape, bytes: self.data(t) })
            .collect()
    }

    fn at(&self, key: &str, error: Error) -> Error {
        error.context(format_args!("{}: metadata key `{key}`", self.path.display()))
    }

    fn get<'a, T>(&'a self, key: &str, want: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.metadata(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            let got = match value {
                Value::Unsigned(n) => n.to_string(),
                Value::Signed(n) => n.to_string(),
                Value::Float(x) => x.to_string(),
                other => other.kind().to_owned(),
            };
            self.at(key, Error::request(format!("expected {want}, found {got}")))
                .hint("the file is damaged or was not written by llama.cpp's converter")
        })
    }

    fn array(&self, key: &str, want: &str, accepts: impl Fn(Element) -> bool) -> Result<Option<&Array>> {
        self.get(key, want, |v| match v {
            Value::Array(array) if accepts(array.element) => Some(array),
            _ => None,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
