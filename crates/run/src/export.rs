//! `eraser export`: a hardened model as files that other tools load. In: model, adapter; out: a Hugging Face directory
//! or a GGUF file with the adapter merged into the weights, or the adapter alone, as a PEFT directory or a GGUF file.
//! Invariant: in a directory, what is copied from the source is what the source's own tools wrote; only the weights and
//! their type differ.

use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use crate::plan::ModelPlan;
use crate::watch::Watch;
use candle_core::DType;
use eraser_data::files::write_atomic;
use eraser_model::error::PathContext as _;
use eraser_model::weights::save_safetensors;
use eraser_model::{Adapter, Error, GgufParts, GgufType, Model, Result, WrittenAs, no_place};
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

/// The largest number of 16 bits; beyond it a weight would be infinite.
const F16_MAX: f32 = 65504.0;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportKind {
    /// A Hugging Face directory with the adapter merged into weights of this type.
    Merged(DType),
    /// The PEFT adapter alone.
    Adapter,
    /// A GGUF file with the adapter merged into weights of this type.
    Gguf(GgufType),
    /// The adapter alone, as a GGUF file.
    GgufAdapter,
}

impl ExportKind {
    /// What is written, in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Merged(_) => "merged",
            Self::Adapter => "adapter",
            Self::Gguf(_) => "gguf",
            Self::GgufAdapter => "gguf adapter",
        }
    }

    fn is_file(self) -> bool {
        matches!(self, Self::Gguf(_) | Self::GgufAdapter)
    }

    fn is_merged(self) -> bool {
        matches!(self, Self::Merged(_) | Self::Gguf(_))
    }
}

/// What is exported, and where to.
#[derive(Clone, Debug)]
pub struct ExportPlan {
    /// The base model; in full precision on the CPU, whatever it is trained and run on.
    pub model: ModelPlan,
    /// The adapter; without one the model is written as it is.
    pub adapter: Option<PathBuf>,
    /// The directory or file that is written.
    pub out: PathBuf,
    /// What is written.
    pub kind: ExportKind,
    /// Writes into a directory that is not empty, or over a file.
    pub force: bool,
}

/// Writes the export, and gives the types of a GGUF file's tensors. `problems` are those found so far.
///
/// # Errors
/// An adapter that is not there; an output that is there already; a model that the format has no place for; files that
/// cannot be written. Directories that were made for it are removed again.
pub fn export(plan: &ExportPlan, mut problems: Problems, watch: &mut dyn Watch) -> Outcome<Vec<WrittenAs>> {
    match &plan.adapter {
        Some(path) => {
            if let Err(e) = Adapter::check_path(path) {
                problems.push(e.context("--adapter"));
            }
        }
        None if !plan.kind.is_merged() => problems.push(Error::request("--adapter-only: no adapter is named")),
        None => {}
    }
    if let Err(e) = check_out(plan) {
        problems.push(e.context("--out"));
    }
    problems.finish(Some(()))?;

    let mut model = plan.model.load(&Assets::InCache, watch)?;
    let adapter = plan.adapter.as_ref().map(|path| Adapter::load(path, &model.config, model.decoder.device()));
    let adapter = adapter.transpose()?;
    let dir = if plan.kind.is_file() { plan.out.parent().unwrap_or(Path::new("")) } else { &plan.out };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let made: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    std::fs::create_dir_all(dir).at(dir)?;
    let written = write(plan, &mut model, adapter.as_ref(), dir);
    if written.is_err() {
        // An empty directory would look like an export. One that is not empty is left.
        made.iter().all(|dir| std::fs::remove_dir(dir).is_ok());
    }
    Ok(written?)
}

fn write(plan: &ExportPlan, model: &mut Model, adapter: Option<&Adapter>, dir: &Path) -> Result<Vec<WrittenAs>> {
    if let ExportKind::Gguf(_) = plan.kind {
        GgufParts::of(model).check(dir)?;
    }
    match (plan.kind, adapter) {
        (ExportKind::Adapter, Some(adapter)) => adapter.save(&plan.out, &model.name)?,
        (ExportKind::GgufAdapter, Some(adapter)) => {
            adapter.save_gguf(&plan.out, &model.config, GgufParts::of(model).name)?;
        }
        (ExportKind::Merged(dtype), adapter) => {
            adapter.into_iter().try_for_each(|adapter| model.decoder.merge(adapter))?;
            let most = if dtype == DType::F16 { F16_MAX } else { f32::MAX };
            if let Some((name, x)) = model.decoder.first_beyond(most)? {
                return Err(no_place(x, dtype.as_str()).context(format_args!("tensor `{name}`")));
            }
            write_merged(model, &plan.out, dtype, plan.model.chat_template.is_some())?;
        }
        (ExportKind::Gguf(kind), adapter) => {
            adapter.into_iter().try_for_each(|adapter| model.decoder.merge(adapter))?;
            return GgufParts::of(model).save(&plan.out, kind);
        }
        // It was refused above.
        (ExportKind::Adapter | ExportKind::GgufAdapter, None) => {}
    }
    Ok(Vec::new())
}

/// An error if what is to be written is there, or is no file where a file is written.
fn check_out(plan: &ExportPlan) -> Result<()> {
    let out = &plan.out;
    if plan.kind.is_file() {
        if out.is_dir() {
            let file = out.join("hardened.gguf");
            return Err(Error::request(format!("{} is a directory", out.display()))
                .hint(format!("GGUF is one file: --out {}", file.display())));
        }
        if out.exists() && !out.is_file() {
            return Err(Error::request(format!("{} is no regular file", out.display())).hint("name a file with --out"));
        }
        if out.exists() && !plan.force {
            return Err(Error::request(format!("{} is there already", out.display()))
                .hint("name another one, or write over it by --force"));
        }
        return Ok(());
    }
    let occupied = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if !plan.force && (occupied || out.is_file()) {
        return Err(Error::request(format!("{} is not an empty directory", out.display()))
            .hint("name another one, or write into it by --force"));
    }
    Ok(())
}

/// A directory that transformers, vLLM and llama.cpp's converter load. The weights come first, because they are what can
/// fail: without them there is nothing that looks like a model.
fn write_merged(model: &Model, out: &Path, dtype: DType, own_template: bool) -> Result<()> {
    let source = model.path.join("config.json");
    // The text part of a larger model is written as a model of its own.
    let config = if source.is_file() && !model.config.layer.nested {
        retyped(&source, dtype, model.config.tie_word_embeddings)?
    } else {
        model.config.to_hf_json(dtype, [model.tokenizer.bos(), model.tokenizer.eos(), model.tokenizer.pad()])?
    };
    save_safetensors(&out.join("model.safetensors"), &model.decoder.named_tensors()?, dtype)?;
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
    Ok(())
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
