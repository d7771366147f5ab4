//! Writing GGUF files, version 3, little-endian. In: metadata, a list of tensors, then their bytes one after the other;
//! out: a file that appears whole or not at all. Invariant: the same input gives the same bytes.

use super::TensorType;
use super::parse::TYPES;
use crate::error::PathContext;
use crate::{Error, Result, files};
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Where each tensor's data begins at a multiple of; the specification's default, which needs no key.
const ALIGNMENT: u64 = 32;
const VERSION: u32 = 3;
/// GGUF's number for an array.
const ARRAY: u32 = 9;

/// A metadata value, in the types that llama.cpp's converter uses.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// `uint32`.
    U32(u32),
    /// `float32`.
    F32(f32),
    /// `bool`.
    Bool(bool),
    /// `string`.
    String(String),
    /// An array of `bool`.
    Bools(Vec<bool>),
    /// An array of `int32`.
    I32s(Vec<i32>),
    /// An array of `float32`.
    F32s(Vec<f32>),
    /// An array of `string`.
    Strings(Vec<String>),
}

impl Field {
    /// The type's number, of an array that of its elements.
    fn number(&self) -> u32 {
        match self {
            Self::U32(_) => 4,
            Self::I32s(_) => 5,
            Self::F32(_) | Self::F32s(_) => 6,
            Self::Bool(_) | Self::Bools(_) => 7,
            Self::String(_) | Self::Strings(_) => 8,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let elements = match self {
            Self::Bools(all) => Some(all.len()),
            Self::I32s(all) => Some(all.len()),
            Self::F32s(all) => Some(all.len()),
            Self::Strings(all) => Some(all.len()),
            Self::U32(_) | Self::F32(_) | Self::Bool(_) | Self::String(_) => None,
        };
        if elements.is_some() {
            out.extend(ARRAY.to_le_bytes());
        }
        out.extend(self.number().to_le_bytes());
        if let Some(n) = elements {
            out.extend((n as u64).to_le_bytes());
        }
        match self {
            Self::U32(n) => out.extend(n.to_le_bytes()),
            Self::F32(x) => out.extend(x.to_le_bytes()),
            Self::Bool(on) => out.push(u8::from(*on)),
            Self::String(text) => string(out, text),
            Self::Bools(all) => out.extend(all.iter().map(|on| u8::from(*on))),
            Self::I32s(all) => all.iter().for_each(|n| out.extend(n.to_le_bytes())),
            Self::F32s(all) => all.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Self::Strings(all) => all.iter().for_each(|text| string(out, text)),
        }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Metadata by key. `general.architecture` is written first, the rest in the order of the keys.
pub type Fields = BTreeMap<String, Field>;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Name in the file.
    pub name: String,
    /// Shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Storage type.
    pub dtype: TensorType,
}

impl Planned {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() / self.dtype.block() * self.dtype.block_bytes()
    }
}

/// A file that is being written, under a temporary name beside its own.
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    file: NamedTempFile,
    /// Name and size of the tensors still to come, the next one last.
    left: Vec<(String, usize)>,
}

impl GgufWriter {
    /// Writes the header; the file has its final length from then on, and holds zeros where tensors are to come.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn create(path: &Path, fields: &Fields, tensors: &[Planned]) -> Result<Self> {
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((fields.len() as u64).to_le_bytes());
        let first = |key: &str| key != "general.architecture";
        let mut ordered: Vec<_> = fields.iter().collect();
        ordered.sort_by_key(|(key, _)| (first(key), *key));
        for (key, field) in ordered {
            string(&mut header, key);
            field.write(&mut header);
        }
        let mut offset = 0;
        for tensor in tensors {
            string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|n| header.extend((*n as u64).to_le_bytes()));
            header.extend(number(tensor.dtype).to_le_bytes());
            header.extend(u64::to_le_bytes(offset));
            offset += (tensor.bytes() as u64).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);

        let mut file = files::beside(path)?;
        file.write_all(&header).writing(path)?;
        file.as_file().set_len(header.len() as u64 + offset).writing(path)?;
        let left = tensors.iter().rev().map(|tensor| (tensor.name.clone(), tensor.bytes())).collect();
        Ok(Self { path: path.to_path_buf(), file, left })
    }

    /// Where the file is for now, with all that was written so far.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn flushed(&mut self) -> Result<&Path> {
        self.file.flush().writing(&self.path)?;
        Ok(self.file.path())
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// Another number of bytes than was planned; a file that cannot be written.
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<()> {
        let (name, size) = self.left.pop().ok_or_else(|| Error::failed("more tensors than were planned"))?;
        if bytes.len() != size {
            let path = self.path.display();
            return Err(Error::failed(format!("{path}: tensor `{name}` has {} bytes, not {size}", bytes.len())));
        }
        self.file.write_all(bytes).writing(&self.path)?;
        let padding = (size as u64).next_multiple_of(ALIGNMENT) - size as u64;
        self.file.seek(SeekFrom::Current(padding.cast_signed())).writing(&self.path)?;
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// A tensor that was not written; a file that cannot be renamed.
    pub fn finish(self) -> Result<()> {
        if let Some((name, _)) = self.left.last() {
            return Err(Error::failed(format!("{}: tensor `{name}` was not written", self.path.display())));
        }
        files::put(self.file, &self.path)
    }
}

/// ggml's number of a type.
fn number(dtype: TensorType) -> u32 {
    TYPES.iter().find(|(_, known)| *known == dtype).map_or(0, |(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufFile;

    fn fields() -> Fields {
        let all = [
            ("general.architecture", Field::String("llama".into())),
            ("a.u32", Field::U32(7)),
            ("a.f32", Field::F32(0.5)),
            ("a.bool", Field::Bool(true)),
            ("a.bools", Field::Bools(vec![true, false])),
            ("a.i32s", Field::I32s(vec![-1, 2])),
            ("a.f32s", Field::F32s(vec![1.5])),
            ("a.strings", Field::Strings(vec![String::new(), "é".into()])),
        ];
        all.into_iter().map(|(key, field)| (key.to_owned(), field)).collect()
    }

    fn planned(name: &str, shape: &[usize], dtype: TensorType) -> Planned {
        Planned { name: name.to_owned(), shape: shape.to_vec(), dtype }
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let tensors = [planned("one", &[3], TensorType::F32), planned("two", &[2, 32], TensorType::Q8_0)];
        let mut writer = GgufWriter::create(&path, &fields(), &tensors).unwrap();
        assert!(!path.exists(), "it is there before it is whole");
        assert!(GgufFile::open(writer.flushed().unwrap()).is_ok(), "a header can be read before the tensors are there");
        writer.tensor(&[1; 12]).unwrap();
        writer.tensor(&[2; 68]).unwrap();
        writer.finish().unwrap();
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.u32("a.u32").unwrap(), Some(7));
        assert_eq!(file.f32("a.f32").unwrap(), Some(0.5));
        assert_eq!(file.bool("a.bool").unwrap(), Some(true));
        assert_eq!(file.bool_array("a.bools").unwrap().unwrap(), [true, false]);
        assert_eq!(file.i32_array("a.i32s").unwrap().unwrap(), [-1, 2]);
        assert_eq!(file.f32_array("a.f32s").unwrap().unwrap(), [1.5]);
        assert_eq!(file.string_array("a.strings").unwrap().unwrap(), ["", "é"]);
        let two = file.tensor("two").unwrap();
        assert_eq!((two.shape.as_slice(), two.dtype), ([2, 32].as_slice(), TensorType::Q8_0));
        assert_eq!(file.data(two), [2; 68]);
        assert_eq!(file.data(file.tensor("one").unwrap()), [1; 12]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn a_file_that_was_not_finished_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let tensors = [planned("one", &[3], TensorType::F32)];
        let mut writer = GgufWriter::create(&path, &fields(), &tensors).unwrap();
        assert!(writer.tensor(&[1; 11]).is_err());
        assert!(GgufWriter::create(&path, &fields(), &tensors).unwrap().finish().is_err());
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
