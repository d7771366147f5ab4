//! LoRA adapters in GGUF files, as llama.cpp has them beside a base model. In: pairs by the Hugging Face names of their
//! modules; out: a file, and the way back. Invariant: rows of B that belong to queries and keys have the order that the
//! family's files have, so the adapter fits a base that llama.cpp's converter wrote.

use crate::config::{ModelConfig, Spec};
use crate::gguf::{Field, GgufFile, GgufWriter, Planned, TensorType, dequantize};
use crate::gguf_type::{GgufType, encode, floats, general};
use crate::lora_config::{LoraConfig, Module};
use crate::weights::{gguf_name, half_split_rows, is_interleaved, to_gguf};
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::HashMap;
use std::path::Path;

const ALPHA: &str = "adapter.lora.alpha";

/// One pair: the path of its module, A `[r, in]` and B `[out, r]`.
pub(crate) type Pair = (String, Tensor, Tensor);

/// Writes the pairs of an adapter with the settings `config`. `name` is `general.name`.
pub(crate) fn write(path: &Path, name: &str, pairs: &[Pair], config: &LoraConfig, model: &ModelConfig) -> Result<()> {
    let mut fields = general(name, "adapter", GgufType::F32);
    let architecture = Spec::of(model.family).architecture();
    fields.insert("general.architecture".to_owned(), Field::String(architecture.to_owned()));
    fields.insert("adapter.type".to_owned(), Field::String("lora".to_owned()));
    // llama.cpp scales by alpha / r, whatever the adapter was trained with.
    let alpha = config.scale() * config.r as f32;
    if !(alpha.is_finite() && alpha > 0.0) {
        return Err(Error::request(format!(
            "`lora_alpha` {} cannot be written to a GGUF file: {ALPHA} would be {alpha}, and must be positive",
            config.alpha
        ))
        .hint("llama.cpp takes 0 for a scale of 1, so an adapter without effect would be applied in full")
        .hint("merge it into the model: without --adapter-only; or write a PEFT directory: without --format gguf"));
    }
    fields.insert(ALPHA.to_owned(), Field::F32(alpha));
    let mut planned = Vec::new();
    let mut values = Vec::new();
    for (module, a, b) in pairs {
        let weight = format!("{module}.weight");
        let (own, rows) = to_gguf(&weight, floats(b)?, config.r, model)
            .ok_or_else(|| Error::request(format!("{module}: GGUF has no name for it")))?;
        for (half, tensor, all) in [("lora_a", a, floats(a)?), ("lora_b", b, rows)] {
            let shape = tensor.dims().to_vec();
            planned.push(Planned { name: format!("{own}.{half}"), shape, dtype: TensorType::F32 });
            values.push(all);
        }
    }
    let mut writer = GgufWriter::create(path, &fields, &planned)?;
    for all in values {
        writer.tensor(&encode(&all, 1, TensorType::F32)?)?;
    }
    writer.finish()
}

/// A tensor under the path of its module, and whether it is B; its shape and values.
pub(crate) type Half = ((String, bool), Vec<usize>, Vec<f32>);

/// What a file holds, as a PEFT directory would: the settings, and the tensors.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) config: LoraConfig,
    pub(crate) tensors: Vec<Half>,
}

/// Reads a file that [`write`] or llama.cpp's `convert_lora_to_gguf.py` wrote, for a model.
///
/// # Errors
/// A file of something else or for another family; a tensor that belongs to no module of the model.
pub(crate) fn read(path: &Path, model: &ModelConfig) -> Result<Read> {
    let file = GgufFile::open(path)?;
    let at = |e: Error| e.context(path.display());
    let kinds = (file.string("general.type")?.unwrap_or("model"), file.string("adapter.type")?.unwrap_or("none"));
    if kinds != ("adapter", "lora") {
        return Err(at(Error::request("this GGUF file is not a LoRA adapter")
            .hint("an adapter has general.type `adapter` and adapter.type `lora`; a model goes to --model")));
    }
    let spec = Spec::of(model.family);
    match file.string("general.architecture")? {
        Some(architecture) if architecture == spec.architecture() => {}
        other => {
            let (found, own) = (other.unwrap_or("none"), spec.architecture());
            return Err(at(Error::request(format!(
                "the adapter is for the architecture {found}, the model has {own}"
            ))
            .hint("the adapter was made for another model")));
        }
    }
    let alpha = f64::from(file.f32(ALPHA)?.ok_or_else(|| file.missing(ALPHA))?);
    if !(alpha.is_finite() && alpha > 0.0) {
        return Err(Error::request(format!("{}: {ALPHA} is {alpha}", path.display()))
            .hint("it is the scale of the adapter times its rank, a positive number: write the file again"));
    }
    let modules = Module::of(model);
    let paths = (0..model.num_layers).flat_map(|layer| modules.iter().map(move |module| module.hf_name(layer)));
    let named = |path: String| Some((gguf_name(&format!("{path}.weight"), model)?, path));
    let paths: HashMap<String, String> = paths.filter_map(named).collect();
    let mut tensors = Vec::new();
    let mut r = None;
    for tensor in file.tensors() {
        let found = tensor.name.rsplit_once('.').and_then(|(own, half)| {
            let is_b = match half {
                "lora_a" => false,
                "lora_b" => true,
                _ => return None,
            };
            Some((paths.get(own)?.clone(), is_b))
        });
        let Some((module, is_b)) = found else {
            let name = &tensor.name;
            return Err(at(Error::request(format!("tensor `{name}` is no LoRA tensor of a module this model has"))
                .hint("expected names like blk.0.attn_q.weight.lora_a")));
        };
        let mut values = dequantize(tensor.dtype, file.data(tensor));
        let rows = if is_b { tensor.shape.last() } else { tensor.shape.first() };
        let rank = *r.get_or_insert(rows.copied().unwrap_or(0));
        if is_b && spec.interleaved && is_interleaved(&format!("{module}.weight")) {
            values = half_split_rows(&values, rank.max(1), model.head_dim);
        }
        tensors.push(((module, is_b), tensor.shape.clone(), values));
    }
    let r = r.unwrap_or(0);
    let config = LoraConfig { r, alpha, dropout: 0.0, targets: Vec::new(), layers: None, rslora: false };
    Ok(Read { config, tensors })
}
