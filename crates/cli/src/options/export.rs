//! `eraser export`.

use candle_core::DType;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use eraser_run::plan::{ModelPlan, flag};
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
    /// PEFT adapter
    #[arg(long, short = 'a', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) adapter: PathBuf,
    /// Directory to write; must not exist or be empty
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Write a Hugging Face directory with the adapter merged into the weights (the default)
    #[arg(long, conflicts_with = "adapter_only")]
    pub(crate) merged: bool,
    /// Write the PEFT adapter alone
    #[arg(long)]
    pub(crate) adapter_only: bool,
    /// Type of the merged weights
    #[arg(long, value_name = "TYPE", default_value = "f32", conflicts_with = "adapter_only",
          value_parser = PossibleValuesParser::new(["f32", "f16", "bf16"]))]
    pub(crate) dtype: String,
    /// Write into a directory that is not empty
    #[arg(long)]
    pub(crate) force: bool,
}

impl ExportArgs {
    /// What is exported.
    pub(crate) fn plan(&self, problems: &mut Problems) -> ExportPlan {
        let dtype = match self.dtype.as_str() {
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            _ => DType::F32,
        };
        ExportPlan {
            model: ModelPlan::parse(&self.model, ["cpu", "f32", "f32"], self.chat_template.as_deref(), &flag, problems),
            adapter: self.adapter.clone(),
            out: self.out.clone(),
            kind: if self.adapter_only { ExportKind::Adapter } else { ExportKind::Merged(dtype) },
            force: self.force,
        }
    }
}
