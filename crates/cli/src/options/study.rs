//! `eraser compare`, `eraser sweep`: several trainings of one run file.

use super::run::{GoArgs, PartArgs};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueHint};
use eraser_run::plan::study::Axis;
use eraser_train::{METHODS, Method};
use std::path::PathBuf;

/// Options of `eraser compare`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Of each method, the file's variants that use it are trained, or else one made of [train] and [method.NAME] \
                        without the retain set. Figures are given under jailbreak templates that no method learnt from: \
                        those not in [data] jailbreaks, or half of the evaluation's."
)]
pub(crate) struct CompareArgs {
    /// Run file; `builtin` is that of the built-in model
    #[arg(value_name = "RUN.toml", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Methods to compare with the base and each other
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "gam,rsft,eraser", value_parser = method())]
    pub(crate) methods: Vec<Method>,
    #[command(flatten)]
    pub(crate) go: GoArgs,
    #[command(flatten)]
    pub(crate) part: PartArgs,
}

/// Options of `eraser sweep`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Several keys make a grid. Points are trained one after another; what is done is not done again, also when \
                        a later sweep in the same directory has other points. Examples: gamma=0.5,1,1.8,2.5,4; \
                        retain_take=0,8,120 retain_weight=0.3,1,3; harm_answers=file,random; \
                        --each harm_weight=0 help_weight=0 align_weight=0"
)]
pub(crate) struct SweepArgs {
    /// Run file; `builtin` is that of the built-in model
    #[arg(value_name = "RUN.toml", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// A key of the table `train` (or `retain`) and its values
    #[arg(value_name = "KEY=V1,V2,..", required = true, value_parser = Axis::parse)]
    pub(crate) axes: Vec<Axis>,
    /// The file's variant to change [default: its first]
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// Change one key at a time, and train the unchanged variant too, instead of every combination
    #[arg(long)]
    pub(crate) each: bool,
    #[command(flatten)]
    pub(crate) go: GoArgs,
    #[command(flatten)]
    pub(crate) part: PartArgs,
}

fn method() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(METHODS.map(|m| m.name))
        .try_map(|name| Method::named(&name).ok_or("this is not a method"))
}
