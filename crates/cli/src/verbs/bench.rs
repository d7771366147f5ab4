//! `eraser bench`: models with and without adapters, scored on benchmarks.

use super::eval::{load_adapters, subjects};
use super::run::write_summary;
use super::{lock, remove};
use crate::errors::Outcome;
use crate::interrupt::Graceful;
use crate::options::bench::BenchArgs;
use crate::output;
use crate::plan::{BenchPlan, Home};
use crate::progress::EvalWatch;
use eraser_eval::{BenchSummary, Summary};
use eraser_model::Result;
use std::fmt::Write as _;

/// Scores, writes bench.json, joins the figures to summary.json, and prints them.
pub(crate) fn bench(args: &BenchArgs, json: bool) -> Outcome {
    let plan = BenchPlan::resolve(args)?;
    let _lock = lock(&plan.dir)?;
    if plan.force {
        remove(&plan.dir, &["bench", "bench.json"])?;
    }
    let model = plan.model.load(&Home::Cache)?;
    let adapters = load_adapters(&plan.subjects, &model)?;
    let mut watch = EvalWatch::default();
    let graceful = Graceful::begin();
    let result = eraser_eval::bench(&subjects(&plan.subjects, &model, &adapters), &plan.options, &plan.dir, &mut watch);
    drop(graceful);
    watch.finish();
    let found = result.map_err(crate::errors::Failure::from);
    let found =
        found.map_err(|f| f.on_interrupt("run the same command again to go on; scores that are there are kept"))?;
    let summary = if plan.dir.join("summary.json").exists() { Summary::read(&plan.dir)? } else { empty() };
    write_summary(&plan.dir, &summary)?;
    if json {
        output::json(&found)?;
    } else {
        output::text(&table(&found))?;
    }
    Ok(())
}

fn empty() -> Summary {
    Summary { schema: Summary::SCHEMA, ..Summary::default() }
}

/// Puts the figures of a bench.json that stands beside the summary among its own.
pub(super) fn join(dir: &std::path::Path, summary: &mut Summary) -> Result<()> {
    if let Some(bench) = BenchSummary::read(dir)? {
        bench.join(summary);
    }
    Ok(())
}

/// The figures as text: a line per subject, task and metric, the difference to the base behind it.
fn table(bench: &BenchSummary) -> String {
    let mut text = String::new();
    let rows = bench.subjects.iter().flat_map(|s| s.utility.iter().map(move |u| (s.name.as_str(), u)));
    let width = |of: &dyn Fn(&str, &str) -> usize| rows.clone().map(|(s, u)| of(s, &u.task)).max().unwrap_or(0);
    let (subjects, tasks) = (width(&|s, _| s.len()), width(&|_, t| t.len()));
    for (subject, row) in rows.clone() {
        let figure = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.4}"));
        let (task, metric, value) = (&row.task, &row.metric, figure(row.value));
        // Writing to a string cannot fail.
        let _ = write!(text, "{subject:subjects$}  {task:tasks$}  {metric:10}  {value:>8}");
        if let Some(error) = row.stderr {
            let _ = write!(text, " ± {error:.4}");
        }
        let _ = write!(text, "  n {}", row.n);
        let same = |d: &&eraser_eval::bench::Difference| d.subject == subject && d.task == *task && d.metric == *metric;
        if let Some(d) = bench.differences.iter().find(same) {
            let _ = write!(text, "  {} to base", d.difference.map_or("-".to_owned(), |x| format!("{x:+.4}")));
            if let Some([low, high]) = d.ci {
                let _ = write!(text, " [{low:+.4}, {high:+.4}]");
            }
        }
        text.push('\n');
    }
    text
}
