//! `eraser eval`: one flag per field of `EvalOptions`.

use super::model::ModelArgs;
use crate::plan::values::{self, Named};
use clap::{Args, ValueHint};
use std::path::PathBuf;

/// Options of `eraser eval`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "DIR/eval holds every answer and its judgements, DIR/summary.json the figures. Answers that DIR holds already \
                        are not asked for again."
)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) subjects: SubjectArgs,
    #[command(flatten)]
    pub(crate) measures: MeasureArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// Who is measured.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Subjects")]
pub(crate) struct SubjectArgs {
    /// Measure the model with this PEFT adapter too; repeatable [default name: the directory's]
    #[arg(long, value_name = "[NAME=]DIR", value_hint = ValueHint::DirPath)]
    pub(crate) adapter: Vec<Named>,
    /// Leave the model without adapter out
    #[arg(long, requires = "adapter")]
    pub(crate) no_base: bool,
    /// Directory for answers and figures
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Begin again: remove the answers that DIR holds
    #[arg(long)]
    pub(crate) force: bool,
}

/// What is measured.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Measures")]
pub(crate) struct MeasureArgs {
    /// Attacks, with commas: direct, template, prefill, gcg, autodan
    #[arg(long = "attacks", value_name = "LIST", value_delimiter = ',', default_value = "direct")]
    pub(crate) attacks: Vec<String>,
    /// Jailbreak template file, or a directory of them; repeatable
    #[arg(long = "template", value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) templates: Vec<PathBuf>,
    /// Opening of the answer that prefill gives, and gcg and autodan aim at [default: the questions' column `target`, else "Sure, here is
    /// how:"]
    #[arg(long, value_name = "TEXT")]
    pub(crate) target: Option<String>,
    /// Most steps of gcg for a question
    #[arg(long, value_name = "N")]
    pub(crate) gcg_steps: Option<usize>,
    /// Candidates of a step of gcg
    #[arg(long, value_name = "N")]
    pub(crate) gcg_candidates: Option<usize>,
    /// Tokens of gcg's suffix
    #[arg(long, value_name = "N")]
    pub(crate) gcg_suffix: Option<usize>,
    /// Most seconds of gcg for a question; results then depend on the machine
    #[arg(long, value_name = "S")]
    pub(crate) gcg_seconds: Option<f64>,
    /// Most generations of autodan for a question
    #[arg(long, value_name = "N")]
    pub(crate) autodan_generations: Option<usize>,
    /// Candidates of a generation of autodan
    #[arg(long, value_name = "N")]
    pub(crate) autodan_population: Option<usize>,
    /// Most seconds of autodan for a question; results then depend on the machine
    #[arg(long, value_name = "S")]
    pub(crate) autodan_seconds: Option<f64>,
    /// Judges, with commas: keyword, leak; rubric and strongreject ask a model
    #[arg(long = "judges", value_name = "LIST", value_delimiter = ',', default_value = "keyword")]
    pub(crate) judges: Vec<String>,
    /// Model that judges: directory, .gguf file, hub name or `builtin`
    #[arg(long, value_name = "MODEL", conflicts_with = "judge_endpoint")]
    pub(crate) judge_model: Option<String>,
    /// Server that judges: base URL of an OpenAI-compatible interface
    #[arg(long, value_name = "URL", requires = "judge_endpoint_model")]
    pub(crate) judge_endpoint: Option<String>,
    /// Model that the server is asked for
    #[arg(long, value_name = "NAME", requires = "judge_endpoint")]
    pub(crate) judge_endpoint_model: Option<String>,
    /// Environment variable that holds the server's key [default: no key is sent]
    #[arg(long, value_name = "NAME", requires = "judge_endpoint")]
    pub(crate) judge_key_env: Option<String>,
    /// Questions to attack with, as seen=FILE or unseen=FILE; repeatable [default name: seen]
    #[arg(long, value_name = "[SET=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) questions: Vec<Named>,
    /// Benign questions that must not be refused
    #[arg(long, value_name = "[SET=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) over_refusal: Option<Named>,
    /// Questions that look like those and must be refused
    #[arg(long, value_name = "[SET=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) contrast: Option<Named>,
    /// Column that holds the question in CSV files [default: goal, question, prompt, input or text]
    #[arg(long, value_name = "NAME")]
    pub(crate) column: Option<String>,
    /// Questions with expected answers, as TASK=FILE; repeatable
    #[arg(long, value_name = "[TASK=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) task: Vec<Named>,
    /// Only the first N questions of each file
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// How answers are made.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Answers")]
pub(crate) struct SamplingArgs {
    /// Most new tokens per answer
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Answers generated at a time
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
    /// Sampling temperature; 0 = greedy
    #[arg(long, value_name = "X")]
    pub(crate) temperature: Option<f32>,
    /// Seed of sampling
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

impl std::str::FromStr for Named {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(values::named(text))
    }
}
