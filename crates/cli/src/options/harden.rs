//! `eraser harden` and `eraser init`: a first run from a model and a list of questions.

use super::model::TemplateArgs;
use super::run::GoArgs;
use clap::{Args, ValueHint};
use eraser_run::plan::{FirstRun, Source, flag, template_variables};
use eraser_run::{Outcome, Problems};
use serde_json::Value;
use std::path::PathBuf;

/// Options of `eraser harden`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Writes a commented run file beside the run directory (DIR.toml), and does what it says: the sets are made, an \
                        adapter is trained with the settings that held best, base and hardened model are attacked, and the \
                        report is written. Interrupted, the same command goes on. `eraser init` writes the file only."
)]
pub(crate) struct HardenArgs {
    #[command(flatten)]
    pub(crate) first: FirstArgs,
    /// End after about so many minutes: the machine is timed with the model, and as many questions, requests and steps are
    /// taken as fit; what is cut is told
    #[arg(long, value_name = "N", value_parser = minutes)]
    pub(crate) minutes: Option<f64>,
    #[command(flatten)]
    pub(crate) go: GoArgs,
}

/// A time in minutes.
fn minutes(text: &str) -> Result<f64, String> {
    let n = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    n.ok_or_else(|| format!("`{text}` is no number of minutes above 0"))
}

/// Options of `eraser init`.
#[derive(Clone, Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) first: FirstArgs,
    /// Run file to write
    #[arg(long, short = 'o', value_name = "FILE", default_value = "run.toml", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// What a user has.
#[derive(Clone, Debug, Args)]
pub(crate) struct FirstArgs {
    /// Hugging Face directory, .gguf file, hub name `org/name`, or `builtin`
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// Questions that the model must not answer, for example AdvBench; two thirds are trained on, the others measure. Rows
    /// can be chosen: FILE?column=goal&where=label:unsafe
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) questions: PathBuf,
    /// Other questions that measure; all of --questions are trained on then
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) unseen: Option<PathBuf>,
    /// Harmful answers to the questions, as FILE?input=goal&output=target or a set file [default: the model's own, after an
    /// opening]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) answers_file: Option<PathBuf>,
    /// Jailbreak templates to measure under: files or directories, with commas or repeated [default: built-in ones]
    #[arg(long, value_name = "PATH", value_delimiter = ',', value_hint = ValueHint::AnyPath)]
    pub(crate) templates: Vec<PathBuf>,
    /// Harmless requests that measure [default: built-in ones]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) over_refusal: Option<PathBuf>,
    /// Running text to keep: the paragraphs of a text file, or the column `text` of rows
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) retain_text: Option<PathBuf>,
    /// How the base model's weights are held [default: auto]
    #[arg(long, value_name = "TYPE")]
    pub(crate) base_dtype: Option<String>,
    /// In what precision they are multiplied: auto is bf16 where the processor has instructions for it
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub(crate) compute: String,
    #[command(flatten)]
    pub(crate) chat: TemplateArgs,
}

impl FirstArgs {
    /// What a run file of a run in `dir` is made of.
    pub(crate) fn first(&self, dir: PathBuf) -> Outcome<FirstRun> {
        let mut problems = Problems::default();
        let how = self.how(&mut problems);
        let mut source = |path: &PathBuf, key: &str| Source::flags(path, Source::default(), &flag(key), &mut problems);
        let first = FirstRun {
            model: self.model.clone(),
            how,
            questions: source(&self.questions, "questions"),
            unseen: self.unseen.as_ref().map(|path| source(path, "unseen")),
            answers: self.answers_file.as_ref().map(|path| source(path, "answers_file")),
            templates: self.templates.clone(),
            over_refusal: self.over_refusal.as_ref().map(|path| source(path, "over_refusal")),
            retain_text: self.retain_text.as_ref().map(|path| source(path, "retain_text")),
            dir,
            ..FirstRun::default()
        };
        problems.finish(Some(first))
    }

    /// Keys of `[model]`.
    fn how(&self, problems: &mut Problems) -> Vec<(&'static str, Value)> {
        let chat = &self.chat;
        let variables = template_variables(&chat.template_vars, problems);
        let template = chat.chat_template.as_deref().map(|path| path.display().to_string());
        let values = [
            ("base_dtype", self.base_dtype.clone().map(Value::from)),
            ("compute", Some(self.compute.clone().into())),
            ("chat_template", template.map(Value::from)),
            ("template_vars", (!variables.is_empty()).then_some(Value::Object(variables))),
            ("think_end", chat.think_end.clone().map(Value::from)),
            ("max_think_tokens", chat.max_think_tokens.map(Value::from)),
        ];
        values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// The directory of a run of which none is named: `runs/NAME-hardened`.
    pub(crate) fn dir(&self) -> PathBuf {
        let last = self.model.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
        let stem = last.strip_suffix(".gguf").unwrap_or(last);
        let stem = if stem.trim_matches('.').is_empty() { "model" } else { stem };
        PathBuf::from("runs").join(format!("{stem}-hardened"))
    }
}
