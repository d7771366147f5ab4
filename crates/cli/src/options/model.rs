//! Which model, where and how.

use clap::Args;
use eraser_run::Problems;
use eraser_run::plan::{ChatFlags, ModelPlan, flag};
use std::path::PathBuf;

/// Options of every verb that loads a model.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Hugging Face directory, .gguf file, hub name `org/name`, or `builtin`
    #[arg(long, short = 'm', value_name = "MODEL")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) held: HeldArgs,
}

/// Options of verbs that can do without, where all subjects are served.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct MeasuredModelArgs {
    /// Hugging Face directory, .gguf file, hub name `org/name`, or `builtin`. With --subject only its tokenizer and
    /// chat template are read: a test compares them with the server's, and prefill and benchmarks are asked in tokens
    #[arg(long, short = 'm', value_name = "MODEL", required_unless_present = "subject")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) held: HeldArgs,
}

/// Where and how a model is loaded.
#[derive(Clone, Debug, Args)]
pub(crate) struct HeldArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
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
    #[command(flatten)]
    pub(crate) chat: TemplateArgs,
}

/// How conversations are rendered, and answers read.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TemplateArgs {
    /// What replaces the model's own chat template: a Jinja file, a form known by name (vicuna, llama2, llama3, chatml,
    /// mistral), or another one of the model's named templates
    #[arg(long, value_name = "FILE|NAME")]
    pub(crate) chat_template: Option<PathBuf>,
    /// A variable that the chat template is rendered with, as `enable_thinking=false`; a value that is no JSON is a
    /// text. Can be repeated
    #[arg(long = "template-var", value_name = "NAME=VALUE")]
    pub(crate) template_vars: Vec<String>,
    /// What the model's thoughts end with; only what follows is its answer. none: it does not think [default: found
    /// from the chat template and the vocabulary]
    #[arg(long, value_name = "TEXT")]
    pub(crate) think_end: Option<String>,
    /// Most tokens of a thought, which do not count as tokens of the answer; a longer one is unfinished, and no answer
    /// [default: 512]
    #[arg(long, value_name = "N")]
    pub(crate) max_think_tokens: Option<usize>,
}

impl TemplateArgs {
    /// As a plan takes them.
    pub(crate) fn flags(&self) -> ChatFlags<'_> {
        ChatFlags {
            template: self.chat_template.as_deref(),
            variables: &self.template_vars,
            think_end: self.think_end.as_deref(),
            max_think_tokens: self.max_think_tokens,
        }
    }
}

impl ModelArgs {
    /// The model as it is loaded.
    pub(crate) fn plan(&self, problems: &mut Problems) -> ModelPlan {
        self.held.plan(&self.model, problems)
    }
}

impl MeasuredModelArgs {
    /// The model, and whether it was named. Of one that was not, it is known only how a judge would be loaded.
    pub(crate) fn plan(&self, problems: &mut Problems) -> (ModelPlan, bool) {
        let spec = self.model.as_deref();
        (self.held.plan(spec.unwrap_or("builtin"), problems), spec.is_some())
    }
}

impl HeldArgs {
    fn plan(&self, spec: &str, problems: &mut Problems) -> ModelPlan {
        self.plan_at(spec, &flag, problems)
    }

    /// As a plan takes them; `at` names the options.
    pub(super) fn plan_at(&self, spec: &str, at: &dyn Fn(&str) -> String, problems: &mut Problems) -> ModelPlan {
        let how = [self.device.as_str(), &self.base_dtype, &self.compute];
        ModelPlan::parse(spec, how, self.chat.flags(), at, problems)
    }
}
