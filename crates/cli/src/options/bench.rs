//! `eraser bench`: benchmarks by log-likelihood.

use super::eval::SubjectArgs;
use super::model::MeasuredModelArgs;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use eraser_eval::BenchOptions;
use eraser_eval::bench::Bos;
use eraser_run::plan::values::NamedPath;
use eraser_run::plan::{BenchPlan, BenchRequest};
use eraser_run::{Outcome, Problems};
use std::path::PathBuf;

/// Options of `eraser bench`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Tasks: arc_challenge, arc_easy, boolq, copa, hellaswag, lambada_openai, mmlu, openbookqa, piqa, rte, social_iqa, \
                  truthfulqa_mc1, truthfulqa_mc2, winogrande, and with written answers coqa, gsm8k and mmlu_pro, scored as \
                  lm-evaluation-harness does. Suites, for unlearning: tofu, muse, wmdp; their tasks can be named one by one too. FILE \
                  is JSONL, JSON, CSV, TSV or Parquet with the columns of the dataset on the Hub; without it, the rows come from the \
                  Hub or its cache. See docs/guide.md. DIR/bench.json holds the figures, DIR/bench every item; where DIR is that of a \
                  run or of an evaluation, the figures join its summary. Items that DIR holds are not scored again."
)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) model: MeasuredModelArgs,
    #[command(flatten)]
    pub(crate) subjects: SubjectArgs,
    /// Task, and the file of its items if they are not to come from the Hub; repeatable
    #[arg(long, alias = "task", value_name = "TASK[=FILE]", value_delimiter = ',', value_hint = ValueHint::FilePath,
          help_heading = "Measures")]
    pub(crate) tasks: Vec<NamedPath>,
    /// Suite of tasks (tofu, muse, wmdp), and the directory of its files if they are not to come from the Hub; repeatable
    #[arg(long, value_name = "SUITE[=DIR]", value_hint = ValueHint::DirPath, help_heading = "Measures")]
    pub(crate) suite: Vec<NamedPath>,
    /// Set of TOFU that is to be forgotten [default: forget10]
    #[arg(long, value_name = "SET", help_heading = "Measures")]
    pub(crate) forget_set: Option<String>,
    /// Directory of `eraser bench` on a model that never saw what is to be forgotten, to compare with (forget quality,
    /// privleak)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Measures")]
    pub(crate) retain_log: Option<PathBuf>,
    /// Text whose perplexity is measured; repeatable [default name: the file's]
    #[arg(long, value_name = "[NAME=]FILE", value_hint = ValueHint::FilePath, help_heading = "Measures")]
    pub(crate) text: Vec<NamedPath>,
    /// Only the first N items of each task, the first N windows of each text
    #[arg(long, value_name = "N", help_heading = "Measures")]
    pub(crate) limit: Option<usize>,
    /// Examples before each question
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Prompts")]
    pub(crate) shots: usize,
    /// Rows to take a task's examples from, as TASK=FILE; repeatable [default: the Hub's split for examples where the
    /// items come from there, else its own items]
    #[arg(long, value_name = "TASK=FILE", value_hint = ValueHint::FilePath, help_heading = "Prompts")]
    pub(crate) examples: Vec<NamedPath>,
    /// Text that is put before all other text of a task, as TASK=FILE; repeatable
    #[arg(long, value_name = "TASK=FILE", value_hint = ValueHint::FilePath, help_heading = "Prompts")]
    pub(crate) preamble: Vec<NamedPath>,
    /// Most new tokens of a written answer [default: 256 for GSM8K, 2048 for MMLU-Pro, 200 for TOFU, 128
    /// and 32 for MUSE]
    #[arg(long, value_name = "N", help_heading = "Prompts")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Beginning-of-sequence token before every text: auto is the tokenizer's own default
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Prompts",
          value_parser = PossibleValuesParser::new(["auto", "on", "off"]))]
    pub(crate) bos: String,
    /// Scored tokens per window of a text
    #[arg(long, value_name = "N", help_heading = "Prompts")]
    pub(crate) window: Option<usize>,
    /// Seed of the choice of examples and of resampling
    #[arg(long, value_name = "N", help_heading = "Prompts")]
    pub(crate) seed: Option<u64>,
}

impl BenchArgs {
    /// What is to be scored, its files read.
    pub(crate) fn plan(&self) -> Outcome<BenchPlan> {
        let mut problems = Problems::default();
        let model = self.model.plan(&mut problems);
        let subjects = self.subjects.plans(&mut problems);
        let defaults = BenchOptions::default();
        let options = BenchOptions {
            shots: self.shots,
            limit: self.limit,
            seed: self.seed.unwrap_or(defaults.seed),
            window: self.window.unwrap_or(defaults.window),
            max_new_tokens: self.max_new_tokens,
            retain_log: self.retain_log.clone(),
            bos: match self.bos.as_str() {
                "on" => Bos::On,
                "off" => Bos::Off,
                _ => Bos::Auto,
            },
            ..defaults
        };
        let request = BenchRequest {
            tasks: self.tasks.clone(),
            suites: self.suite.clone(),
            forget_set: self.forget_set.clone(),
            texts: self.text.clone(),
            examples: self.examples.clone(),
            preambles: self.preamble.clone(),
            options,
        };
        let out = self.subjects.out("bench")?;
        BenchPlan::resolve(model, subjects, request, out, problems)
    }
}
