//! Studies as runs. In: a run file and methods, or a variant and values of its settings; out: a plan whose variants the
//! study makes.

use crate::failure::Outcome;
use crate::plan::study::{Axis, Point, Variants};
use crate::plan::{Overrides, RunPlan};
use eraser_model::Error;
use eraser_train::Method;
use std::path::Path;

/// The plan of `eraser compare`: a variant for each method.
///
/// # Errors
/// Everything that is wrong with the run file.
pub fn compare_plan(file: &Path, methods: &[Method], overrides: &Overrides<'_>) -> Outcome<RunPlan> {
    let twice = methods.iter().enumerate().find(|(i, method)| methods[..*i].contains(method));
    if let Some((_, method)) = twice {
        return Err(Error::request(format!("--methods: `{}` is named twice", method.name))
            .hint("name each method once; variants of one method are tables [[variant]] of the run file")
            .into());
    }
    RunPlan::read(file, &Overrides { variants: Variants::Methods(methods), suffix: "-compare", ..overrides.clone() })
}

/// The plan of `eraser sweep`: the variant `of`, None = the first, at every point.
///
/// # Errors
/// Everything that is wrong with the run file, and an axis that would change nothing.
pub fn sweep_plan(
    file: &Path,
    axes: &[Axis],
    points: &[Point],
    of: Option<&str>,
    overrides: &Overrides<'_>,
) -> Outcome<RunPlan> {
    let variants = Variants::Points { of, points };
    let plan = RunPlan::read(file, &Overrides { variants, suffix: "-sweep", ..overrides.clone() })?;
    // It would train the same adapter for every value.
    let idle = axes.iter().find(|axis| ["retain_take", "retain_weight"].contains(&axis.key.as_str()));
    if let Some(axis) = idle.filter(|_| plan.variants.iter().all(|v| !v.retain)) {
        let error = Error::request(format!("{}: the variant uses no retain set", axis.key));
        return Err(error.hint("name one that does by --variant, or give a set as [data] retain_set").into());
    }
    Ok(plan)
}
