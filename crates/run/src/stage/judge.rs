//! Judges compared with labels. In: a plan; out: figures, and their files in a directory. Invariant: nothing is loaded
//! before names, options and labels are known to be right.

use crate::builtin::Assets;
use crate::directory::lock;
use crate::failure::Outcome;
use crate::plan::{JudgePlan, flag};
use crate::watch::{Watch, stoppable};
use eraser_data::ask::{Endpoint, Local, Respond};
use eraser_eval::labels::{JudgeFigures, LabelPlan};

/// `eraser judge`: every judge's figures.
///
/// # Errors
/// Everything that is wrong with options and files; a directory that another process holds; a model that cannot be
/// loaded or asked.
pub fn judge(plan: &JudgePlan, watch: &mut dyn Watch) -> Outcome<Vec<JudgeFigures>> {
    let asked = LabelPlan::new(&plan.judges, &plan.options, &plan.labels, &flag)?;
    let _lock = lock(&plan.dir)?;
    let options = asked.options();
    let model = options.model.as_ref().map(|_| plan.model.load(&Assets::InCache, watch)).transpose()?;
    let local = model.as_ref().map(|model| Local::new(model, options.batch));
    let endpoint = options.endpoint().map(|endpoint| Endpoint::new(&endpoint)).transpose()?;
    let judge = match (&local, &endpoint) {
        (Some(local), _) => Some(local as &dyn Respond),
        (None, Some(endpoint)) => Some(endpoint as &dyn Respond),
        (None, None) => None,
    };
    Ok(stoppable(watch, |progress| asked.measure(judge, &plan.dir, progress))?)
}
