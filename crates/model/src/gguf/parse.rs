//! The header of a GGUF file: bytes in, metadata and tensor directory out. Invariant: no allocation is larger than a
//! small multiple of the bytes that are in the file, whatever the length fields claim.

use super::{Array, Element, TensorInfo, TensorType, Value};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Longest key, by the specification.
const MAX_KEY: usize = u16::MAX as usize;
/// Longest tensor name; the specification and ggml allow 64 bytes.
const MAX_NAME: usize = 255;
/// ggml's `GGML_MAX_DIMS`.
const MAX_DIMS: usize = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
const DAMAGED: &str = "the file is damaged or incomplete: download or convert it again";

/// What the header holds.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
    /// Position in `tensors` by name.
    pub(super) index: HashMap<String, usize>,
}

impl Header {
    /// Parses and checks the header of the file `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4).ok() != Some(b"GGUF") {
            return Err(Error::request("not a GGUF file (its first bytes are not `GGUF`)")
                .hint("pass a .gguf file, or a Hugging Face model directory"));
        }
        match cursor.u32()? {
            2 | 3 => {}
            1 => {
                return Err(Error::request("GGUF version 1 is not supported")
                    .hint("convert the model again with a current llama.cpp"));
            }
            v if matches!(v.swap_bytes(), 1..=3) => {
                return Err(Error::request("big-endian GGUF files are not supported")
                    .hint("convert the model again on a little-endian machine, or with gguf_convert_endian.py"));
            }
            v => {
                return Err(Error::request(format!("GGUF version {v} is not supported (2 and 3 are)"))
                    .hint("convert the model again with a current llama.cpp"));
            }
        }
        let tensor_count = cursor.u64()?;
        let metadata_count = cursor.u64()?;
        let metadata = metadata(&mut cursor, metadata_count)?;
        if let Some(Value::Unsigned(n)) = metadata.get("split.count")
            && *n > 1
        {
            return Err(Error::request(format!("one of {n} parts of a split model"))
                .hint("join the parts first: llama-gguf-split --merge FIRST_PART OUTPUT.gguf"));
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=1 << 20).contains(n) => *n,
            Some(_) => {
                return Err(Error::request("metadata key `general.alignment`: must be a power of two of at least 8")
                    .hint(DAMAGED));
            }
        };
        let tensors = tensors(&mut cursor, tensor_count, alignment)?;
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(Self { metadata, tensors, index })
    }
}

fn metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Value>> {
    // A key's length, a value's type and one byte of value: no entry is shorter.
    cursor.fits(count, 8 + 4 + 1).map_err(|e| e.context("number of metadata keys"))?;
    let mut metadata = BTreeMap::new();
    for i in 0..count {
        let key = cursor.name(MAX_KEY).map_err(|e| e.context(format_args!("metadata key {i} of {count}")))?.to_owned();
        let value = value(cursor).map_err(|e| e.context(format_args!("metadata key `{key}`")))?;
        if metadata.contains_key(&key) {
            return Err(Error::request(format!("metadata key `{key}` appears twice")).hint(DAMAGED));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn value(cursor: &mut Cursor<'_>) -> Result<Value> {
    /// GGUF's number for an array.
    const ARRAY: u32 = 9;
    let kind = cursor.u32()?;
    if kind == ARRAY {
        let element = element(cursor.u32()?)?;
        let len = cursor.u64()?;
        let start = cursor.at;
        let len = cursor.fits(len, element.min_size())?;
        if element == Element::String {
            for _ in 0..len {
                cursor.string()?;
            }
        } else {
            cursor.take(len * element.min_size())?;
        }
        return Ok(Value::Array(Array { element, len, range: start..cursor.at }));
    }
    Ok(match element(kind)? {
        Element::U8 => Value::Unsigned(u64::from(u8::from_le_bytes(cursor.array()?))),
        Element::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(cursor.array()?))),
        Element::U32 => Value::Unsigned(u64::from(u32::from_le_bytes(cursor.array()?))),
        Element::U64 => Value::Unsigned(u64::from_le_bytes(cursor.array()?)),
        Element::I8 => Value::Signed(i64::from(i8::from_le_bytes(cursor.array()?))),
        Element::I16 => Value::Signed(i64::from(i16::from_le_bytes(cursor.array()?))),
        Element::I32 => Value::Signed(i64::from(i32::from_le_bytes(cursor.array()?))),
        Element::I64 => Value::Signed(i64::from_le_bytes(cursor.array()?)),
        Element::F32 => Value::Float(f64::from(f32::from_le_bytes(cursor.array()?))),
        Element::F64 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        Element::Bool => Value::Bool(cursor.array::<1>()? != [0]),
        Element::String => Value::String(cursor.string()?.to_owned()),
    })
}

fn element(number: u32) -> Result<Element> {
    Ok(match number {
        0 => Element::U8,
        1 => Element::I8,
        2 => Element::U16,
        3 => Element::I16,
        4 => Element::U32,
        5 => Element::I32,
        6 => Element::F32,
        7 => Element::Bool,
        8 => Element::String,
        9 => return Err(Error::request("an array of arrays is not supported").hint("no model file needs one")),
        10 => Element::U64,
        11 => Element::I64,
        12 => Element::F64,
        n => return Err(Error::request(format!("unknown value type {n}")).hint(DAMAGED)),
    })
}

impl Element {
    /// Bytes of an element; of a string, of its length field.
    fn min_size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
        }
    }
}

fn tensors(cursor: &mut Cursor<'_>, count: u64, alignment: u64) -> Result<Vec<TensorInfo>> {
    // Name length, number of dimensions, type and offset.
    let count = cursor.fits(count, 8 + 4 + 4 + 8).map_err(|e| e.context("number of tensors"))?;
    let mut entries = Vec::with_capacity(count);
    let mut names = HashSet::new();
    for i in 0..count {
        let name = cursor.name(MAX_NAME).map_err(|e| e.context(format_args!("tensor {i} of {count}")))?;
        if !names.insert(name) {
            return Err(Error::request(format!("tensor `{name}` appears twice")).hint(DAMAGED));
        }
        entries.push(entry(cursor, name, alignment).map_err(|e| e.context(format_args!("tensor `{name}`")))?);
    }
    let file = cursor.bytes.len();
    let start = cursor.at.checked_next_multiple_of(alignment as usize).unwrap_or(usize::MAX);
    let mut tensors = Vec::with_capacity(count);
    for Entry { name, shape, dtype, offset, bytes } in entries {
        let begin = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset));
        let range = begin.and_then(|begin| Some(begin..begin.checked_add(bytes)?)).filter(|r| r.end <= file);
        let Some(range) = range else {
            return Err(Error::request(format!(
                "tensor `{name}`: its {bytes} bytes at offset {offset} reach beyond the end of the file ({file} bytes)"
            ))
            .hint(DAMAGED));
        };
        tensors.push(TensorInfo { name: name.to_owned(), shape, dtype, range });
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|t| !t.range.is_empty()).collect();
    order.sort_by_key(|t| t.range.start);
    if let Some(pair) = order.windows(2).find(|p| p[0].range.end > p[1].range.start) {
        return Err(Error::request(format!("tensors `{}` and `{}` overlap", pair[0].name, pair[1].name)).hint(DAMAGED));
    }
    Ok(tensors)
}

struct Entry<'a> {
    name: &'a str,
    shape: Vec<usize>,
    dtype: TensorType,
    offset: u64,
    bytes: usize,
}

fn entry<'a>(cursor: &mut Cursor<'a>, name: &'a str, alignment: u64) -> Result<Entry<'a>> {
    let rank = cursor.u32()? as usize;
    if rank > MAX_DIMS {
        return Err(Error::request(format!("{rank} dimensions (at most {MAX_DIMS} are allowed)")).hint(DAMAGED));
    }
    let mut shape = Vec::with_capacity(rank);
    for _ in 0..rank {
        let n = cursor.u64()?;
        let n = usize::try_from(n).ok().filter(|n| (1..=isize::MAX as usize).contains(n));
        shape.push(n.ok_or_else(|| Error::request("a dimension is zero or too large").hint(DAMAGED))?);
    }
    let number = cursor.u32()?;
    let dtype = tensor_type(number)?;
    let offset = cursor.u64()?;
    if offset % alignment != 0 {
        return Err(Error::request(format!("offset {offset} is not a multiple of {alignment}")).hint(DAMAGED));
    }
    let row = shape.first().copied().unwrap_or(1);
    if row % dtype.block() != 0 {
        return Err(
            Error::request(format!("rows of {row} are not whole {dtype:?} blocks of {}", dtype.block())).hint(DAMAGED)
        );
    }
    let bytes = shape
        .iter()
        .try_fold(1usize, |n, dim| n.checked_mul(*dim))
        .and_then(|n| (n / dtype.block()).checked_mul(dtype.block_bytes()))
        .ok_or_else(|| Error::request(format!("shape {shape:?} is too large")).hint(DAMAGED))?;
    shape.reverse();
    Ok(Entry { name, shape, dtype, offset, bytes })
}

/// The strings of an array that was checked by [`value`].
pub(super) fn strings(bytes: &[u8], len: usize) -> Result<Vec<&str>> {
    let mut cursor = Cursor { bytes, at: 0 };
    (0..len).map(|_| cursor.string()).collect()
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let (taken, _) = rest.split_at_checked(n).ok_or_else(|| {
            Error::request(format!("needs {n} bytes at position {}, the file has {} left", self.at, rest.len()))
                .hint(DAMAGED)
        })?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// `count` as usize if that many items of at least `size` bytes can still be in the file.
    fn fits(&self, count: u64, size: usize) -> Result<usize> {
        let left = (self.bytes.len() - self.at) / size;
        usize::try_from(count).ok().filter(|n| *n <= left).ok_or_else(|| {
            Error::request(format!("claims {count} items, the rest of the file can hold at most {left}")).hint(DAMAGED)
        })
    }

    fn string(&mut self) -> Result<&'a str> {
        let len = self.u64()?;
        let len = self.fits(len, 1).map_err(|e| e.context("string"))?;
        std::str::from_utf8(self.take(len)?)
            .map_err(|e| Error::request(format!("string is not UTF-8: {e}")).hint(DAMAGED))
    }

    fn name(&mut self, longest: usize) -> Result<&'a str> {
        let name = self.string()?;
        if name.is_empty() || name.len() > longest {
            return Err(
                Error::request(format!("name of {} bytes (1 to {longest} are allowed)", name.len())).hint(DAMAGED)
            );
        }
        Ok(name)
    }
}

/// The types that can be read, with ggml's numbers of them.
pub(super) const TYPES: [(u32, TensorType); 11] = [
    (0, TensorType::F32),
    (1, TensorType::F16),
    (2, TensorType::Q4_0),
    (3, TensorType::Q4_1),
    (6, TensorType::Q5_0),
    (7, TensorType::Q5_1),
    (8, TensorType::Q8_0),
    (12, TensorType::Q4_K),
    (13, TensorType::Q5_K),
    (14, TensorType::Q6_K),
    (30, TensorType::BF16),
];

/// The type that GGUF numbers so; an error that names the type when it cannot be read.
fn tensor_type(number: u32) -> Result<TensorType> {
    if let Some((_, dtype)) = TYPES.iter().find(|(known, _)| *known == number) {
        return Ok(*dtype);
    }
    let name = match number {
        10 => "Q2_K",
        11 => "Q3_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "an integer type",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        n => return Err(Error::request(format!("unknown tensor type {n}")).hint("the file may be damaged")),
    };
    Err(Error::request(format!("tensor type {name} is not supported"))
        .hint("use a file quantised to F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q5_0, Q5_1, Q4_0 or Q4_1"))
}
