//! A model as one GGUF file, for llama.cpp and what is built on it. In: a model; out: the file that llama.cpp's
//! converter would write of its checkpoint. Invariant: the header is read back before a weight is converted, and what a
//! file of the family cannot say is an error that names it.

use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::error::PathContext;
use crate::gguf::{Field, GgufFile, GgufWriter, Planned, TensorType};
use crate::gguf_type::{GgufType, encode, floats, general};
use crate::load::Model;
use crate::tokenizer::Tokenizer;
use crate::weights::{gguf_name, to_gguf};
use crate::{Error, Result};
use candle_core::Tensor;
use std::path::Path;

/// What a file is made of.
#[derive(Clone, Copy)]
pub struct GgufParts<'a> {
    /// `general.name`.
    pub name: &'a str,
    /// Shape.
    pub config: &'a ModelConfig,
    /// The network.
    pub decoder: &'a Decoder,
    /// The tokenizer; without one the file has no vocabulary.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The chat template.
    pub template: Option<&'a str>,
}

/// A weight under its name in the checkpoint, and the type in which it is written.
type Weight = (String, Tensor, TensorType);

impl<'a> GgufParts<'a> {
    /// Those of a model, under the last part of its name.
    pub fn of(model: &'a Model) -> Self {
        let name = model.name.trim_end_matches(['/', '\\']);
        let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
        Self {
            name: name.strip_suffix(".gguf").unwrap_or(name),
            config: &model.config,
            decoder: &model.decoder,
            tokenizer: Some(&model.tokenizer),
            template: model.template.as_ref().map(crate::ChatTemplate::source),
        }
    }

    /// An error if a GGUF file cannot say what this model is. A small file without weights is written to `dir` and read
    /// back.
    ///
    /// # Errors
    /// The key of the configuration, or the part of the tokenizer, that has no place in a file of the family.
    pub fn check(&self, dir: &Path) -> Result<()> {
        let staging = tempfile::Builder::new().prefix(".checking-").tempdir_in(dir).at(dir)?;
        self.begin(&staging.path().join("model.gguf"), GgufType::F32).map(|_| ())
    }

    /// Writes the file. Tensors are converted one after the other, as they are written.
    ///
    /// # Errors
    /// What [`Self::check`] finds; a weight that the type cannot hold; a file that cannot be written.
    pub fn save(&self, path: &Path, kind: GgufType) -> Result<()> {
        let (mut writer, tensors) = self.begin(path, kind)?;
        for (name, tensor, dtype) in tensors {
            let at = |e: Error| e.context(format_args!("{}: tensor `{name}`", path.display()));
            let cols = *tensor.dims().last().unwrap_or(&1);
            // A bias has one value for each row of its matrix.
            let row = if tensor.rank() == 1 { 1 } else { cols };
            let values = floats(&tensor)?;
            let (_, values) = to_gguf(&name, values, row, self.config).ok_or_else(|| at(unnamed()))?;
            writer.tensor(&encode(&values, cols, dtype).map_err(at)?)?;
        }
        writer.finish()
    }

    /// The file with everything but its weights, and the weights under their names in the checkpoint.
    fn begin(&self, path: &Path, kind: GgufType) -> Result<(GgufWriter, Vec<Weight>)> {
        let factors = self.config.gguf_factors();
        let mut planned: Vec<Planned> = factors
            .iter()
            .map(|(name, values)| Planned {
                name: (*name).to_owned(),
                shape: vec![values.len()],
                dtype: TensorType::F32,
            })
            .collect();
        let mut tensors = Vec::new();
        for (name, tensor) in self.decoder.named_tensors()? {
            let own =
                gguf_name(&name, self.config).ok_or_else(|| unnamed().context(format_args!("tensor `{name}`")))?;
            let dtype = kind.of(&own, tensor.dims(), self.config);
            planned.push(Planned { name: own, shape: tensor.dims().to_vec(), dtype });
            tensors.push((name, tensor, dtype));
        }
        let mut fields = self.config.to_gguf();
        fields.extend(general(self.name, "model", kind));
        let elements = planned.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        fields.insert("general.size_label".to_owned(), Field::String(size_label(elements)));
        if let Some(tokenizer) = self.tokenizer {
            fields.extend(tokenizer.to_gguf(self.config.vocab_size)?);
        }
        if let Some(template) = self.template {
            fields.insert("tokenizer.chat_template".to_owned(), Field::String(template.to_owned()));
        }
        let mut writer = GgufWriter::create(path, &fields, &planned)?;
        for (_, values) in &factors {
            writer.tensor(&encode(values, 1, TensorType::F32)?)?;
        }
        self.read_back(&mut writer)?;
        Ok((writer, tensors))
    }

    fn read_back(&self, writer: &mut GgufWriter) -> Result<()> {
        let file = GgufFile::open(writer.flushed()?)?;
        let family = self.config.family;
        let lost = |key: &str| {
            Error::request(format!("`{key}` of this model has no place in a GGUF file of the family {family:?}"))
                .hint("write a Hugging Face directory instead: without --format gguf")
        };
        match ModelConfig::from_gguf(&file) {
            Ok(read) => self.config.lost(&read).map_or(Ok(()), |key| Err(lost(&key))),
            Err(e) => Err(lost("config.json").hint(e)),
        }
    }
}

fn unnamed() -> Error {
    Error::request("GGUF has no name for it").hint("write a Hugging Face directory instead: without --format gguf")
}

/// A number of parameters with two digits: 135M, 1.5B.
fn size_label(elements: usize) -> String {
    let n = elements as f64;
    let (scaled, suffix) = match elements {
        0..=1_000_000 => (n * 1e-3, 'K'),
        1_000_001..=1_000_000_000 => (n * 1e-6, 'M'),
        1_000_000_001..=1_000_000_000_000 => (n * 1e-9, 'B'),
        _ => (n * 1e-12, 'T'),
    };
    let digits = match scaled.round() {
        0.0 => 2,
        x if x < 10.0 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_two_digits() {
        for (n, label) in [(5000, "5.0K"), (134_515_008, "135M"), (1_543_714_304, "1.5B"), (494_032_768, "494M")] {
            assert_eq!(size_label(n), label);
        }
    }
}
