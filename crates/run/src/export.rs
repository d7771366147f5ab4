//! `eraser export`: a hardened model as files that other tools load. In: model, adapter; out: a Hugging Face directory
//! with the adapter merged into the weights, or a PEFT directory. Invariant: what is copied from the source is what the
//! source's own tools wrote; only the weights and their type differ.

use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use crate::plan::ModelPlan;
use crate::watch::Watch;
use candle_core::DType;
use eraser_data::files::write_atomic;
use eraser_model::error::PathContext as _;
use eraser_model::weights::save_safetensors;
use eraser_model::{Adapter, Error, Model, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Files beside the weights that belong to a model, copied where they are.
const SIDE_FILES: [&str; 9] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportKind {
    /// A Hugging Face directory with the adapter merged into weights of this type.
    Merged(DType),
    /// The PEFT adapter alone.
    Adapter,
}

/// What is exported, and where to.
#[derive(Clone, Debug)]
pub struct ExportPlan {
    /// The base model; in full precision on the CPU, whatever it is trained and run on.
    pub model: ModelPlan,
    /// The directory of the adapter.
    pub adapter: PathBuf,
    /// The directory that is written.
    pub out: PathBuf,
    /// What is written.
    pub kind: ExportKind,
    /// Writes into a directory that is not empty.
    pub force: bool,
}

/// Writes the export. `problems` are those found so far.
///
/// # Errors
/// An adapter that is not there; an output directory that holds something; files that cannot be written.
pub fn export(plan: &ExportPlan, mut problems: Problems, watch: &mut dyn Watch) -> Outcome {
    if !plan.adapter.is_dir() {
        let error = Error::request(format!("--adapter: {} is not a directory", plan.adapter.display()));
        problems.push(error.hint("a PEFT adapter is a directory with adapter_config.json; a run's is RUN/adapter"));
    }
    let occupied = std::fs::read_dir(&plan.out).is_ok_and(|mut entries| entries.next().is_some());
    if !plan.force && (occupied || plan.out.is_file()) {
        let error = Error::request(format!("--out: {} is not an empty directory", plan.out.display()));
        problems.push(error.hint("name another one, or write into it by --force"));
    }
    problems.finish(Some(()))?;

    let mut model = plan.model.load(&Assets::InCache, watch)?;
    let adapter = Adapter::load(&plan.adapter, &model.config, model.decoder.device())?;
    std::fs::create_dir_all(&plan.out).at(&plan.out)?;
    match plan.kind {
        ExportKind::Adapter => adapter.save(&plan.out, &model.name)?,
        ExportKind::Merged(dtype) => {
            model.decoder.merge(&adapter)?;
            write_merged(&model, &plan.out, dtype, plan.model.chat_template.is_some())?;
        }
    }
    Ok(())
}

/// A directory that transformers, vLLM and llama.cpp's converter load.
fn write_merged(model: &Model, out: &Path, dtype: DType, own_template: bool) -> Result<()> {
    let source = model.path.join("config.json");
    // The text part of a larger model is written as a model of its own.
    let config = if source.is_file() && !model.config.layer.nested {
        retyped(&source, dtype, model.config.tie_word_embeddings)?
    } else {
        model.config.to_hf_json(dtype, model.tokenizer.bos(), model.tokenizer.eos())?
    };
    write_atomic(&out.join("config.json"), format!("{config:#}\n").as_bytes())?;
    if source.is_file() {
        for name in SIDE_FILES {
            let from = model.path.join(name);
            if from.is_file() {
                let bytes = std::fs::read(&from).at(&from)?;
                write_atomic(&out.join(name), &bytes)?;
            }
        }
    } else {
        model.tokenizer.save_hf(out)?;
    }
    if let Some(template) = model.template.as_ref().filter(|_| own_template || !source.is_file()) {
        write_atomic(&out.join("chat_template.jinja"), template.source().as_bytes())?;
    }
    save_safetensors(&out.join("model.safetensors"), &model.decoder.named_tensors()?, dtype)
}

/// The source's config.json, with the type of the weights that are written.
fn retyped(path: &Path, dtype: DType, tied: bool) -> Result<Value> {
    let text = std::fs::read(path).at(path)?;
    let mut config: Value =
        serde_json::from_slice(&text).map_err(|e| Error::request(format!("{}: {e}", path.display())))?;
    if let Some(map) = config.as_object_mut() {
        let name = match dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        // transformers 5 writes `dtype`, earlier ones `torch_dtype`; each reads its own.
        for key in ["dtype", "torch_dtype"] {
            if map.contains_key(key) || key == "torch_dtype" {
                map.insert(key.to_owned(), name.into());
            }
        }
        map.remove("quantization_config");
        if !tied && map.get("tie_word_embeddings").is_none_or(|v| v == true) {
            // The weights had a head of their own.
            map.insert("tie_word_embeddings".to_owned(), false.into());
        }
    }
    Ok(config)
}
