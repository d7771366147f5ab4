//! `eraser doctor`.

use super::model::TemplateArgs;
use clap::{Args, ValueHint};
use eraser_run::Problems;
use eraser_run::plan::{ModelPlan, flag};
use std::path::PathBuf;

/// Options of `eraser doctor`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Each line is ok, warning or error, with what to do. The exit code is 1 when a line is an error. Nothing is \
                        written."
)]
pub(crate) struct DoctorArgs {
    /// Hugging Face directory, .gguf file, hub name `org/name`, or `builtin`
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// Adapter that must fit the model: a PEFT directory, or a GGUF file
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) adapter: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// How the weights are held: auto, f32, f16, bf16 or as-stored
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub(crate) base_dtype: String,
    /// In what precision they are multiplied on the CPU: f32, bf16 or auto
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub(crate) compute: String,
    #[command(flatten)]
    pub(crate) chat: TemplateArgs,
}

impl DoctorArgs {
    /// The model as it is loaded.
    pub(crate) fn plan(&self, problems: &mut Problems) -> ModelPlan {
        let how = [self.device.as_str(), &self.base_dtype, &self.compute];
        let at = |key: &str| if key == "model" { "MODEL".to_owned() } else { flag(key) };
        ModelPlan::parse(&self.model, how, self.chat.flags(), &at, problems)
    }
}
