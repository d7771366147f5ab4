//! What is to be done, resolved. In: raw options and run files; out: plans that hold no question any more. Invariant:
//! a plan is made only if every option and file it names was checked, and all that is wrong is reported at once.

mod bench;
mod check;
mod document;
mod eval;
mod jailbreak;
mod model;
mod prepare;
mod run;
mod section;
mod source;
pub(crate) mod study;
mod train;
pub(crate) mod values;

pub(crate) use bench::BenchPlan;
pub(crate) use eval::{Asked, EvalPlan, SubjectPlan};
pub(crate) use jailbreak::Jailbreaks;
pub(crate) use model::{Home, ModelPlan, parse_dtype};
pub(crate) use prepare::{Preparation, PreparePlan};
pub(crate) use run::{Overrides, RunPlan, Variant};
pub(crate) use source::Source;
pub(crate) use train::TrainPlan;

use eraser_model::{Error, Result};
use std::path::Path;

/// An error unless `path` can be found.
fn exists(path: &Path) -> Result<()> {
    use eraser_model::error::PathContext as _;
    std::fs::metadata(path).at(path).map(|_| ())
}

/// An error of the option or key named `at`.
fn wrong(at: &str, what: impl std::fmt::Display) -> Error {
    Error::request(format!("{at}: {what}"))
}
