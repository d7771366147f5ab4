//! `eraser align`: the files that a model learns refusals and benign answers from.

use super::model::ModelArgs;
use super::train::{AdapterArgs, OptimiserArgs, OutArgs, options};
use clap::{Args, ValueHint};
use eraser_run::plan::{AlignRequest, TrainPlan, TrainRequest, flag, values};
use eraser_run::{Outcome, Problems};
use eraser_train::{Templates, TrainOptions, method::SFT};
use std::path::PathBuf;

/// Options of `eraser align`.
#[derive(Clone, Debug, Args)]
#[command(
    mut_arg("targets", |arg| arg.default_value("all-linear")),
    mut_arg("lr", |arg| arg.help("Peak learning rate [default: 2e-4]")),
    mut_arg("epochs", |arg| arg.default_value("1").help("Passes over the benign requests; ignored with --steps")),
    mut_arg("grad_accum", |arg| arg.default_value("4")),
    mut_arg("early_stop", |arg| arg.hide(true)),
    after_help = "Files are CSV, TSV, JSON, JSONL or Parquet with the columns of usual sets (prompt and response, \
                  instruction, input and output, ..), or `messages`; rows are chosen as in FILE?where=label:safe&take=0-99. \
                  DIR/adapter is a PEFT adapter; `eraser export` merges it into the model."
)]
pub(crate) struct AlignArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) files: AlignFiles,
    #[command(flatten)]
    pub(crate) out: OutArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    #[command(flatten)]
    pub(crate) optimiser: OptimiserArgs,
}

/// What it learns from.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Samples")]
pub(crate) struct AlignFiles {
    /// Harmful questions, with refusals or without; repeatable. A text file has one question a line
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) refusals: Vec<PathBuf>,
    /// Refusals, one a line, of which a question that has none gets one [default: 16 plain ones of this program]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) refusal_texts: Option<PathBuf>,
    /// Benign requests with answers: what is not to be refused; repeatable. Requests with words that look harmful, as
    /// in `How do I kill a background job?`, keep the model from refusing by words
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) benign: Vec<PathBuf>,
    /// Requests with answers on which the model is to stay as it is, by the KL divergence from it; repeatable
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) keep: Vec<PathBuf>,
    /// Weight of the refusals in the loss
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) align_weight: f64,
    /// Weight of the benign answers in the loss
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) help_weight: f64,
    /// Weight of what is kept in the loss, with --keep
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) retain_weight: f64,
    /// Train although most of the refusals hold no phrase of a refusal
    #[arg(long)]
    pub(crate) allow_swapped: bool,
    /// Longest sample, in tokens
    #[arg(long, value_name = "N", default_value = "512")]
    pub(crate) max_length: usize,
    /// Prompt templates: model (its own), plain (USER/ASSISTANT), both, or a text file with {} for the question
    #[arg(long, value_name = "NAME|FILE", default_value = "model", value_parser = values::templates)]
    pub(crate) templates: Templates,
}

impl AlignArgs {
    /// The settings as the trainer takes them.
    fn options(&self) -> TrainOptions {
        TrainOptions {
            align_weight: self.files.align_weight,
            help_weight: self.files.help_weight,
            retain_weight: self.files.retain_weight,
            allow_swapped: self.files.allow_swapped,
            max_length: self.files.max_length,
            templates: self.files.templates.clone(),
            ..options(SFT, &self.out, &self.adapter, &self.optimiser)
        }
    }

    /// What is to be trained, its files read.
    pub(crate) fn plan(&self) -> Outcome<TrainPlan> {
        let mut problems = Problems::default();
        let request = AlignRequest {
            refusals: self.files.refusals.clone(),
            texts: self.files.refusal_texts.clone(),
            benign: self.files.benign.clone(),
            keep: self.files.keep.clone(),
            train: TrainRequest {
                verb: "align",
                model: self.model.plan(&mut problems),
                sets: Vec::new(),
                jailbreaks: Vec::new(),
                options: self.options(),
                dir: self.out.out.clone(),
                resume: self.out.resume,
                force: self.out.force,
            },
        };
        request.resolve(&flag, problems)
    }
}
