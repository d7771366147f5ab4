//! LoRA adapters in GGUF files, as llama.cpp has them beside a base model. In: pairs by the Hugging Face names of their
//! modules; out: a file, and the way back. Invariant: rows of B that belong to queries and keys have the order that the
//! family's files have, so the adapter fits a base that llama.cpp's converter wrote.

use crate::config::MlpNames;
use crate::config::{ModelConfig, Spec};
use crate::gguf::{Field, GgufFile, GgufWriter, Planned, TensorType, dequantize};
use crate::gguf_type::{GgufType, encode, floats, general};
use crate::lora_config::{LoraConfig, Module};
use crate::lora_patterns::{MAX_RANK, Own, Patterns};
use crate::weights::{gguf_name, half_split_rows, is_interleaved, to_gguf};
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::HashMap;
use std::path::Path;

const ALPHA: &str = "adapter.lora.alpha";

/// One pair.
pub(crate) struct Pair {
    /// Hugging Face path of its module.
    pub(crate) module: String,
    /// `[r, in]`.
    pub(crate) a: Tensor,
    /// `[out, r]`.
    pub(crate) b: Tensor,
    /// Multiplies `B A`.
    pub(crate) scale: f32,
}

impl Pair {
    /// The alpha with which llama.cpp computes this pair: it scales by alpha / r, whatever the adapter was trained with.
    fn alpha(&self) -> Result<f32> {
        Ok(self.scale * self.a.dim(0)? as f32)
    }
}

/// Writes the pairs of an adapter whose configuration has `lora_alpha`. `name` is `general.name`. A file has one alpha:
/// it is that of most pairs, and the B of others is multiplied by what is left.
pub(crate) fn write(path: &Path, name: &str, pairs: &[Pair], lora_alpha: f64, model: &ModelConfig) -> Result<()> {
    let mut fields = general(name, "adapter", GgufType::F32);
    let architecture = Spec::of(model.family).architecture();
    fields.insert("general.architecture".to_owned(), Field::String(architecture.to_owned()));
    fields.insert("adapter.type".to_owned(), Field::String("lora".to_owned()));
    let alphas = pairs.iter().map(Pair::alpha).collect::<Result<Vec<f32>>>()?;
    let same = |alpha: &f32| alphas.iter().filter(|other| other.to_bits() == alpha.to_bits()).count();
    let positive = alphas.iter().copied().filter(|alpha| alpha.is_finite() && *alpha > 0.0);
    let Some(alpha) = positive.max_by_key(same) else {
        let alpha = alphas.first().copied().unwrap_or_default();
        return Err(Error::request(format!(
            "`lora_alpha` {lora_alpha} cannot be written to a GGUF file: {ALPHA} would be {alpha}, and must be positive"
        ))
        .hint("llama.cpp takes 0 for a scale of 1, so an adapter without effect would be applied in full")
        .hint("merge it into the model: without --adapter-only; or write a PEFT directory: without --format gguf"));
    };
    fields.insert(ALPHA.to_owned(), Field::F32(alpha));
    let mut planned = Vec::new();
    let mut values = Vec::new();
    for (Pair { module, a, b, .. }, own_alpha) in pairs.iter().zip(&alphas) {
        let weight = format!("{module}.weight");
        let own =
            gguf_name(&weight, model).ok_or_else(|| Error::request(format!("{module}: GGUF has no name for it")))?;
        let mut rows = to_gguf(&weight, floats(b)?, a.dim(0)?, model);
        if own_alpha.to_bits() != alpha.to_bits() {
            let left = own_alpha / alpha;
            for x in &mut rows {
                *x *= left;
            }
        }
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
    // What the model has in one is apart in files.
    let joins = model.layer.mlp_names == MlpNames::Shared;
    let mut own = model.clone();
    own.layer.fused.gate_up &= !joins;
    let modules = Module::of(&own);
    let path = |layer| modules.iter().map(move |module| (module.hf_name(layer, MlpNames::Llama), *module));
    let paths = (0..model.num_layers).flat_map(path);
    let named = |(path, module): (String, Module)| Some((gguf_name(&format!("{path}.weight"), model)?, (path, module)));
    let paths: HashMap<String, (String, Module)> = paths.filter_map(named).collect();
    let mut tensors = Vec::new();
    for tensor in file.tensors() {
        let found = tensor.name.rsplit_once('.').and_then(|(own, half)| {
            let is_b = match half {
                "lora_a" => false,
                "lora_b" => true,
                _ => return None,
            };
            Some((paths.get(own)?.clone(), is_b))
        });
        let Some(((path, module), is_b)) = found else {
            let name = &tensor.name;
            return Err(at(Error::request(format!("tensor `{name}` is no LoRA tensor of a module this model has"))
                .hint("expected names like blk.0.attn_q.weight.lora_a")));
        };
        let mut values = dequantize(tensor.dtype, file.data(tensor));
        let rows = if is_b { tensor.shape.last() } else { tensor.shape.first() };
        let rank = rows.copied().unwrap_or(0);
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(at(Error::request(format!(
                "tensor `{}` has rank {rank}, must be 1 to {MAX_RANK}",
                tensor.name
            ))));
        }
        // Of another shape it is refused by its Hugging Face name.
        let fits = tensor.shape == [module.shape(model).0, rank];
        if is_b && fits && spec.interleaved && is_interleaved(&format!("{path}.weight")) {
            values = half_split_rows(&values, rank, model.head_dim);
        }
        tensors.push(((path, is_b), tensor.shape.clone(), values));
    }
    if joins {
        tensors = joined(tensors, model).map_err(at)?;
    }
    // llama.cpp takes the rank of each pair from its tensors.
    let of_a = tensors.iter().filter(|((_, is_b), ..)| !is_b);
    let rank = |((path, _), shape, _): &Half| Some((path.clone(), Own::new(*shape.first()?, alpha, false)));
    let owns: Vec<(String, Own)> = of_a.filter_map(rank).collect();
    let r = owns.first().map_or(1, |(_, own)| own.r);
    let patterns = Patterns::naming(&owns, r, alpha);
    let config = LoraConfig { r, alpha, dropout: 0.0, targets: Vec::new(), layers: None, rslora: false, patterns };
    Ok(Read { config, tensors })
}

/// The tensors under the names of a model that has gate and up in one. A pair of both has one A.
fn joined(tensors: Vec<Half>, model: &ModelConfig) -> Result<Vec<Half>> {
    let mut all: HashMap<(String, bool), (Vec<usize>, Vec<f32>)> =
        tensors.into_iter().map(|(key, shape, values)| (key, (shape, values))).collect();
    let mut out = Vec::new();
    for layer in 0..model.num_layers {
        let path = |module: Module, names| module.hf_name(layer, names);
        let [gate, up] = [Module::Gate, Module::Up]
            .map(|module| [false, true].map(|is_b| all.remove(&(path(module, MlpNames::Llama), is_b))));
        let together = path(Module::GateUp, MlpNames::Shared);
        match (gate, up) {
            ([None, None], [None, None]) => {}
            ([Some(a), Some((shape, b))], [Some(other), Some((_, other_b))]) if a == other => {
                let shape = shape.iter().enumerate().map(|(i, n)| if i == 0 { 2 * n } else { *n }).collect();
                out.push(((together.clone(), false), a.0, a.1));
                out.push(((together, true), shape, [b, other_b].concat()));
            }
            _ => {
                return Err(Error::request(format!(
                    "gate and up of layer {layer} have different lora_a, and this model has both in one module, {together}"
                ))
                .hint("take the base model in GGUF too, which has them apart"));
            }
        }
        for is_b in [false, true] {
            if let Some((shape, values)) = all.remove(&(path(Module::Down, MlpNames::Llama), is_b)) {
                out.push(((path(Module::Down, MlpNames::Shared), is_b), shape, values));
            }
        }
    }
    out.extend(all.into_iter().map(|(key, (shape, values))| (key, shape, values)));
    Ok(out)
}
