//! Which model, where and how.

use clap::Args;
use eraser_run::Problems;
use eraser_run::plan::{ModelPlan, flag};
use std::path::PathBuf;

/// Options of every verb that loads a model.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Hugging Face directory, .gguf file, hub name `org/name`, or `builtin`
    #[arg(long, short = 'm', value_name = "MODEL")]
    pub(crate) model: String,
    /// Where to compute: auto, cpu, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// How the base model's weights are held: f32, f16, bf16, as-stored (quantised blocks as the file has them: least
    /// memory), or auto: f32 on the CPU, bf16 where the device has it
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub(crate) base_dtype: String,
    /// In what precision the base model's weights are multiplied on the CPU: f32, bf16 (rounds them to 8 bits; about
    /// twice as fast, half the memory), or auto: bf16 where the processor has instructions for it
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub(crate) compute: String,
    /// What replaces the model's own chat template: a Jinja file, a form known by name (vicuna, llama2, llama3, chatml,
    /// mistral), or another one of the model's named templates
    #[arg(long, value_name = "FILE|NAME")]
    pub(crate) chat_template: Option<PathBuf>,
}

impl ModelArgs {
    /// The model as it is loaded.
    pub(crate) fn plan(&self, problems: &mut Problems) -> ModelPlan {
        let how = [self.device.as_str(), &self.base_dtype, &self.compute];
        ModelPlan::parse(&self.model, how, self.chat_template.as_deref(), &flag, problems)
    }
}
