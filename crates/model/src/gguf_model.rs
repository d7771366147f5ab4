//! A model as one GGUF file, for llama.cpp and what is built on it. In: a model; out: the file that llama.cpp's
//! converter would write of its checkpoint. Invariant: the header is read back before a weight is converted, and what a
//! file of the family cannot say is an error that names it.

use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::error::PathContext;
use crate::gguf::{Field, GgufFile, GgufWriter, Planned, TensorType};
use crate::gguf_type::{GgufType, encode, floats, general};
use crate::gguf_written::{Written, WrittenAs, grouped};
use crate::load::Model;
use crate::tokenizer::Tokenizer;
use crate::weights::{apart, gguf_name, is_of_experts, to_gguf};
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

/// A tensor of the file while it is planned.
struct Weight {
    /// Its name in the checkpoint; of experts, that of the first.
    name: String,
    /// Its name in the file.
    own: String,
    /// The tensors that it is made of: one, or one of each expert.
    parts: Vec<Tensor>,
}

impl Weight {
    /// Its shape in the file.
    fn shape(&self) -> Vec<usize> {
        let one = self.parts.first().map_or(&[][..], Tensor::dims);
        if is_of_experts(&self.name) { [&[self.parts.len()], one].concat() } else { one.to_vec() }
    }
}

/// Matrices of an expert.
const PARTS: usize = 3;

/// A file with everything but its weights.
struct Begun {
    writer: GgufWriter,
    tensors: Vec<(Weight, TensorType)>,
    written: Vec<Written>,
}

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

    /// An error if a GGUF file cannot say what this model is, or if llama.cpp computes something else of it; what it
    /// computes otherwise for some texts only is told. A small file without weights is written to `dir` and read back.
    ///
    /// # Errors
    /// The key of the configuration, or the part of the tokenizer, that has no place in a file of the family.
    pub fn check(&self, dir: &Path) -> Result<()> {
        let staging = tempfile::Builder::new().prefix(".checking-").tempdir_in(dir).at(dir)?;
        self.begin(&staging.path().join("model.gguf"), GgufType::F32)?;
        for told in self.config.in_llama_cpp()? {
            tracing::warn!("{told}");
        }
        Ok(())
    }

    /// Writes the file. Tensors are converted one after the other, as they are written. Gives the types of all.
    ///
    /// # Errors
    /// What the file cannot say, as [`Self::check`] finds; a weight that the type cannot hold; a file that cannot be
    /// written.
    pub fn save(&self, path: &Path, kind: GgufType) -> Result<Vec<WrittenAs>> {
        let Begun { mut writer, tensors, written } = self.begin(path, kind)?;
        for (weight, dtype) in tensors {
            let at = |e: Error| e.context(format_args!("{}: tensor `{}`", path.display(), weight.name));
            let shape = weight.shape();
            let cols = *shape.last().unwrap_or(&1);
            // A bias has one value for each row of its matrix.
            let row = if shape.len() == 1 { 1 } else { cols };
            let mut values = Vec::new();
            for part in &weight.parts {
                values.extend(floats(part)?);
            }
            let values = to_gguf(&weight.name, values, row, self.config);
            writer.tensor(&encode(&values, cols, dtype).map_err(at)?)?;
        }
        writer.finish()?;
        Ok(grouped(&written))
    }

    /// The file with everything but its weights, and the weights under their names in the checkpoint.
    fn begin(&self, path: &Path, kind: GgufType) -> Result<Begun> {
        let factors = self.config.gguf_factors();
        let mut planned: Vec<Planned> = factors
            .iter()
            .map(|(name, values)| Planned {
                name: (*name).to_owned(),
                shape: vec![values.len()],
                dtype: TensorType::F32,
            })
            .collect();
        let whole = |planned: &Planned| {
            let cols = planned.shape.last().copied().unwrap_or(1);
            Written { name: planned.name.clone(), cols, dtype: planned.dtype, in_place_of: None }
        };
        let mut written: Vec<Written> = planned.iter().map(whole).collect();
        let mut tensors = Vec::new();
        for weight in self.weights()? {
            let shape = weight.shape();
            let (dtype, in_place_of) = kind.of(&weight.own, &shape, self.config);
            let own = Planned { name: weight.own.clone(), shape, dtype };
            written.push(Written { in_place_of, ..whole(&own) });
            planned.push(own);
            tensors.push((weight, dtype));
        }
        let mut fields = self.config.to_gguf();
        fields.extend(general(self.name, "model", kind));
        let experts = self.config.layer.mixture.map_or(0, |mixture| mixture.experts);
        let elements = planned.iter().map(|tensor| {
            // A model with experts is named by how many there are and its size with one.
            let all = tensor.shape.iter().product::<usize>();
            if tensor.shape.len() == 3 { all / experts.max(1) } else { all }
        });
        let label = size_label(elements.sum());
        let label = if experts > 0 { format!("{experts}x{label}") } else { label };
        fields.insert("general.size_label".to_owned(), Field::String(label));
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
        Ok(Begun { writer, tensors, written })
    }

    /// The tensors of the file.
    fn weights(&self) -> Result<Vec<Weight>> {
        let mut all: Vec<Weight> = Vec::new();
        for (name, tensor) in self.decoder.named_tensors()? {
            for (name, tensor) in apart(&name, &tensor)? {
                let own =
                    gguf_name(&name, self.config).ok_or_else(|| unnamed().context(format_args!("tensor `{name}`")))?;
                // An expert's follow those of the one before it.
                let before = all.iter_mut().rev().take(PARTS).find(|weight| weight.own == own);
                match before {
                    Some(weight) => weight.parts.push(tensor),
                    None => all.push(Weight { name, own, parts: vec![tensor] }),
                }
            }
        }
        Ok(all)
    }

    fn read_back(&self, writer: &mut GgufWriter) -> Result<()> {
        let file = GgufFile::open(writer.flushed()?)?;
        let architecture = file.string("general.architecture")?.unwrap_or_default();
        let lost = |what: &str| {
            let place = format!("has no place in a GGUF file of the architecture {architecture}");
            Error::request(format!("{what} of this model {place}"))
                .hint("write a Hugging Face directory instead: without --format gguf")
        };
        match ModelConfig::from_gguf(&file) {
            Ok(read) => self.config.lost(&read).map_or(Ok(()), |what| Err(lost(&what))),
            Err(e) => {
                // The path is that of a temporary file.
                let told = e.to_string();
                let told = told.split_once(": ").map_or(&*told, |(_, told)| told);
                Err(lost("the configuration").hint(format!("a written file would be refused: {told}")))
            }
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
