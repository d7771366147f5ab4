//! `eraser export`.

use candle_core::DType;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use eraser_model::{Error, GgufType};
use eraser_run::plan::{ChatFlags, ModelPlan, flag};
use eraser_run::{ExportKind, ExportPlan, Problems};
use std::path::PathBuf;

/// Options of `eraser export`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ExportArgs {
    /// Hugging Face directory, .gguf file, hub name `org/name`, or `builtin`
    #[arg(long, short = 'm', value_name = "MODEL")]
    pub(crate) model: String,
    /// Jinja chat template that replaces the model's own, in the export too
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) chat_template: Option<PathBuf>,
    /// Adapter: a PEFT directory, or a GGUF file; without one the model is written as it is
    #[arg(long, short = 'a', value_name = "PATH", value_hint = ValueHint::AnyPath,
          required_if_eq("adapter_only", "true"))]
    pub(crate) adapter: Option<PathBuf>,
    /// What to write: a directory that does not exist or is empty; with `--format gguf` a file
    #[arg(long, short = 'o', value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) out: PathBuf,
    /// Merge the adapter into the weights (the default)
    #[arg(long, conflicts_with = "adapter_only")]
    pub(crate) merged: bool,
    /// Write the adapter alone
    #[arg(long)]
    pub(crate) adapter_only: bool,
    /// `hf`: a directory for transformers, PEFT, vLLM; `gguf`: a file for llama.cpp, Ollama, LM Studio
    #[arg(long, value_name = "FORMAT", default_value = "hf", value_parser = PossibleValuesParser::new(["hf", "gguf"]))]
    pub(crate) format: String,
    /// Type of the merged weights; those with q are for GGUF files
    #[arg(long, value_name = "TYPE", default_value = "f32", conflicts_with = "adapter_only",
          value_parser = PossibleValuesParser::new(GgufType::ALL.map(|(name, _)| name)))]
    pub(crate) dtype: String,
    /// Write into a directory that is not empty, or over a file
    #[arg(long)]
    pub(crate) force: bool,
}

impl ExportArgs {
    /// What is exported.
    pub(crate) fn plan(&self, problems: &mut Problems) -> ExportPlan {
        let found = GgufType::ALL.into_iter().find(|(name, _)| *name == self.dtype);
        let dtype = found.map_or(GgufType::F32, |(_, dtype)| dtype);
        let kind = match (self.format.as_str(), dtype) {
            ("gguf", _) if self.adapter_only => ExportKind::GgufAdapter,
            ("gguf", dtype) => ExportKind::Gguf(dtype),
            _ if self.adapter_only => ExportKind::Adapter,
            (_, GgufType::F32) => ExportKind::Merged(DType::F32),
            (_, GgufType::F16) => ExportKind::Merged(DType::F16),
            (_, GgufType::BF16) => ExportKind::Merged(DType::BF16),
            (_, GgufType::Q8_0 | GgufType::Q4_0 | GgufType::Q4_K_M) => {
                let error = Error::request(format!("--dtype: {} is a type of GGUF files", self.dtype));
                problems.push(error.hint("add --format gguf, or choose f32, f16 or bf16"));
                ExportKind::Merged(DType::F32)
            }
        };
        let chat = ChatFlags { template: self.chat_template.as_deref(), ..ChatFlags::default() };
        ExportPlan {
            model: ModelPlan::parse(&self.model, ["cpu", "f32", "f32"], chat, &flag, problems),
            adapter: self.adapter.clone(),
            out: self.out.clone(),
            kind,
            force: self.force,
        }
    }
}
