//! `eraser eval`: models with and without adapters, measured.

use super::run::{evaluate, write_summary};
use super::{lock, remove, report};
use crate::errors::Outcome;
use crate::options::eval::EvalArgs;
use crate::output;
use crate::plan::{EvalPlan, SubjectPlan};
use eraser_eval::Subject;
use eraser_model::{Adapter, Model, Result};
use std::time::Instant;

/// Evaluates, writes summary.json, and prints the table.
pub(crate) fn eval(args: &EvalArgs, json: bool) -> Outcome {
    let start = Instant::now();
    let plan = EvalPlan::resolve(args)?;
    let _lock = lock(&plan.dir)?;
    if plan.force {
        remove(&plan.dir, &["eval", "summary.json"])?;
    }
    let model = plan.model.load(&plan.home)?;
    let adapters = load_adapters(&plan.subjects, &model)?;
    let subjects = subjects(&plan.subjects, &model, &adapters);
    let options = &plan.options;
    let mut summary = evaluate(&subjects, options, (&plan.model, &plan.home), &plan.dir)
        .map_err(|f| f.on_interrupt("run the same command again to go on; answers that are there are kept"))?;
    let seconds = start.elapsed().as_secs_f64();
    summary.timing.eval_s = Some(seconds);
    summary.timing.total_s = Some(seconds);
    summary.timing.peak_rss_mb = eraser_ops::threads::peak_rss_mb().map(|mb| mb.round() as u64);
    write_summary(&plan.dir, &summary)?;
    if json {
        output::json(&summary)?;
    } else {
        output::text(&report::table(&plan.dir)?)?;
    }
    Ok(())
}

/// The adapter of every subject that has one.
pub(super) fn load_adapters(subjects: &[SubjectPlan], model: &Model) -> Result<Vec<Option<Adapter>>> {
    let load = |dir: &std::path::PathBuf| Adapter::load(dir, &model.config, model.decoder.device());
    subjects.iter().map(|s| s.adapter.as_ref().map(load).transpose()).collect()
}

/// The subjects of a plan, loaded.
pub(super) fn subjects<'a>(
    plans: &[SubjectPlan],
    model: &'a Model,
    adapters: &'a [Option<Adapter>],
) -> Vec<Subject<'a>> {
    let subject = |(plan, adapter): (&SubjectPlan, &'a Option<Adapter>)| Subject {
        name: plan.name.clone(),
        model,
        adapter: adapter.as_ref(),
    };
    plans.iter().zip(adapters).map(subject).collect()
}
