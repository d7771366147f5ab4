//! `eraser tune`: a search over settings.

use super::run::GoArgs;
use clap::{Args, ValueHint};
use eraser_run::plan::study::Axis;
use eraser_run::study::Bounds;
use std::path::PathBuf;

/// Options of `eraser tune`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The run file needs [train] steps, the steps of a whole training, and a table [tune]: the keys of [eval], with \
                        questions of its own, since questions that choose a setting are not to measure it. Settings are \
                        drawn and trained for a ninth of the steps, the best third of them for a third, the best third of \
                        those in full (successive halving). DIR/tuned.toml is the run file with the best setting: \
                        `eraser run DIR/tuned.toml` trains and measures it by [eval]. Give [tune] a likelihood set `benign`, \
                        or the cost to benign answers is not looked at."
)]
pub(crate) struct TuneArgs {
    /// Run file; `builtin` is that of the built-in model
    #[arg(value_name = "RUN.toml", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// A key of the table `train` and its values; repeatable [default: gamma, rate, targets, rank, scope of gamma, kind
    /// and share of the noise, depths, noise around refusals]
    #[arg(value_name = "KEY=V1,V2,..", value_parser = Axis::parse)]
    pub(crate) axes: Vec<Axis>,
    /// About how long the search takes; the first setting shows how many others there is time for
    #[arg(long, value_name = "N", default_value = "60")]
    pub(crate) minutes: f64,
    /// Settings to begin with, in place of --minutes
    #[arg(long, value_name = "N", conflicts_with = "minutes", value_parser = clap::value_parser!(u16).range(1..=243))]
    pub(crate) points: Option<u16>,
    /// The file's variant to change [default: its first]
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// Most that benign answers may cost more than they cost the base, in nats per token; 0.05 is 5 % of perplexity
    #[arg(long, value_name = "X", default_value_t = Bounds::default().benign)]
    pub(crate) most_benign: f64,
    /// Most by which the share of refused benign questions may rise
    #[arg(long, value_name = "X", default_value_t = Bounds::default().over_refusal)]
    pub(crate) most_over_refusal: f64,
    /// Largest share of degenerate answers
    #[arg(long, value_name = "X", default_value_t = Bounds::default().degenerate)]
    pub(crate) most_degenerate: f64,
    /// Seed of the draws of settings
    #[arg(long, value_name = "N", default_value = "42")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) go: GoArgs,
}

impl TuneArgs {
    /// What a setting may cost.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { benign: self.most_benign, over_refusal: self.most_over_refusal, degenerate: self.most_degenerate }
    }
}
