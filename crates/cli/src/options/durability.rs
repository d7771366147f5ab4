//! `eraser durability`.

use clap::{Args, ValueHint};
use std::path::PathBuf;

/// Options of `eraser durability`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "RUN/durability.json holds the figures, RUN/durability/ the answers; the report gets a section. What is \
                        there already is not done again."
)]
pub(crate) struct DurabilityArgs {
    /// Run directory in which an adapter was trained and evaluated
    #[arg(value_name = "RUN", value_hint = ValueHint::DirPath)]
    pub(crate) run: PathBuf,
    /// Variant to measure; with commas or repeated [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) variant: Vec<String>,
    /// Optimiser steps of fine-tuning
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) steps: usize,
    /// Learning rate of fine-tuning, at most 1 [default: that of the variant]
    #[arg(long, value_name = "X")]
    pub(crate) lr: Option<f64>,
    /// Pairs of the harm set that are trained back in
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) pairs: usize,
    /// Only the first N questions of each file
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Most new tokens per answer [default: that of the run]
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Remove what an earlier invocation left
    #[arg(long)]
    pub(crate) force: bool,
}
