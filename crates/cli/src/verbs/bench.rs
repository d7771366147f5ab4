//! `eraser bench`: models with and without adapters, scored on benchmarks.

use crate::errors::again;
use crate::options::bench::BenchArgs;
use crate::output;
use crate::progress::Terminal;
use crate::verbs::sharded;
use eraser_eval::BenchSummary;
use eraser_run::Outcome;
use eraser_run::plan::BenchPlan;
use std::fmt::Write as _;

/// Scores, and prints the figures.
pub(crate) fn bench(args: &BenchArgs, json: bool) -> Outcome {
    scored(&args.plan()?, json)
}

/// Scores as planned.
pub(super) fn scored(plan: &BenchPlan, json: bool) -> Outcome {
    let mut watch = Terminal::default();
    let result = eraser_run::bench(plan, &mut watch);
    let found = watch.finish(result).map_err(|f| f.on_interrupt(again(plan.force)))?;
    if let Some(shard) = plan.part.shard() {
        return sharded(shard, &plan.dir, json);
    }
    if json {
        output::json(&found)?;
    } else {
        output::text(&table(&found))?;
    }
    Ok(())
}

/// The figures as text: a line per subject, task and metric, the difference to the base behind it.
fn table(bench: &BenchSummary) -> String {
    let mut text = String::new();
    let rows = bench.subjects.iter().flat_map(|s| s.utility.iter().map(move |u| (s.name.as_str(), u)));
    let width = |of: &dyn Fn(&str, &str) -> usize| rows.clone().map(|(s, u)| of(s, &u.task)).max().unwrap_or(0);
    let (subjects, tasks) = (width(&|s, _| s.len()), width(&|_, t| t.len()));
    let metrics = rows.clone().map(|(_, u)| u.metric.len()).max().unwrap_or(0);
    for (subject, row) in rows.clone() {
        let figure = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.4}"));
        let (task, metric, value) = (&row.task, &row.metric, figure(row.value));
        // Writing to a string cannot fail.
        let _ = write!(text, "{subject:subjects$}  {task:tasks$}  {metric:metrics$}  {value:>8}");
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
