//! GGUF metadata of one architecture; keys are given without the architecture before them. Invariant: an error names
//! the file and the whole key.

use super::Mixture;
use crate::gguf::{GgufFile, Value, dequantize};
use crate::{Error, Result};

/// The metadata and tensor directory of a file.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) architecture: &'a str,
}

impl Metadata<'_> {
    /// The whole name of a key.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn at(&self, error: Error) -> Error {
        error.context(self.file.path().display())
    }

    /// A size. A list with one size for each layer is accepted if all of them are equal.
    pub(super) fn size(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        if !matches!(self.file.metadata(&key), Some(Value::Array(_))) {
            return Ok(self.file.u32(&key)?.map(|n| n as usize));
        }
        let all = self.file.i32_array(&key)?.unwrap_or_default();
        match all.first().map(|first| usize::try_from(*first)) {
            Some(Ok(first)) if all.iter().all(|n| usize::try_from(*n) == Ok(first)) => Ok(Some(first)),
            _ => Err(self.at(Error::request(format!("`{key}` differs from layer to layer, which is not supported"))
                .hint("only models whose layers all have the same size are supported"))),
        }
    }

    pub(super) fn required(&self, name: &str) -> Result<usize> {
        self.size(name)?.ok_or_else(|| self.file.missing(&self.key(name)))
    }

    pub(super) fn f32(&self, name: &str) -> Result<Option<f32>> {
        self.file.f32(&self.key(name))
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<&str>> {
        self.file.string(&self.key(name))
    }

    /// The experts; whether their weights add up to 1 is in llama.cpp's code, not in the file.
    pub(super) fn experts(&self, normalised: bool) -> Result<Mixture> {
        let (experts, used) = (self.required("expert_count")?, self.required("expert_used_count")?);
        Ok(Mixture { experts, used, normalised })
    }

    /// The sliding window; None where the file says 0.
    pub(super) fn window(&self) -> Result<Option<usize>> {
        Ok(self.size("attention.sliding_window")?.filter(|n| *n > 0))
    }

    /// Which of the `layers` layers have the sliding window. The file has a list, or a number n: then every n-th layer
    /// has none.
    pub(super) fn pattern(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        let key = self.key("attention.sliding_window_pattern");
        if !matches!(self.file.metadata(&key), Some(Value::Array(_))) {
            let period = self.file.u32(&key)?.map(|n| n as usize);
            return Ok(period.map(|n| (1..=layers).map(|i| n != 0 && !i.is_multiple_of(n)).collect()));
        }
        let flags = self.file.bool_array(&key)?.unwrap_or_default();
        if flags.len() < layers {
            let n = flags.len();
            return Err(self.at(Error::request(format!("`{key}` has {n} entries for {layers} layers"))));
        }
        Ok(Some(flags[..layers].to_vec()))
    }

    /// Whether the file has a tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    /// The values of a tensor.
    pub(super) fn floats(&self, tensor: &str) -> Option<Vec<f32>> {
        self.file.tensor(tensor).map(|found| dequantize(found.dtype, self.file.data(found)))
    }
}
