//! `eraser plan` and `eraser run --dry-run`: what a run would do, and how long it would take. In: a plan; out: a line
//! for each step, and the whole. Invariant: the run directory is not written to.

use crate::options::run::PlanArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_run::machine::number;
use eraser_run::plan::RunPlan;
use eraser_run::{Estimate, Outcome, Step, Todo, estimate};
use std::fmt::Write as _;

/// `eraser plan`.
pub(crate) fn plan(args: &PlanArgs, json: bool) -> Outcome {
    let plan = RunPlan::read(&args.file, &args.how.overrides(args.out.as_deref()))?;
    show(&plan, !args.no_timing, json)
}

/// Says what `plan` would do.
pub(super) fn show(plan: &RunPlan, timing: bool, json: bool) -> Outcome {
    let found = estimate(plan, timing, &mut Terminal::default())?;
    if json { Ok(output::json(&found)?) } else { Ok(output::text(&lines(&found))?) }
}

fn lines(found: &Estimate) -> String {
    let mut text = String::new();
    let title = |s: &Step| format!("{} {}", s.stage, s.name);
    let width = found.steps.iter().map(|s| title(s).chars().count()).max().unwrap_or(0);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{} with {}", found.dir.display(), found.model);
    for step in &found.steps {
        let done = matches!(step.todo, Todo::Done | Todo::DoneBefore);
        let time = match step.seconds {
            _ if done => String::new(),
            Some(seconds) => format!("  {}", range(seconds)),
            None if found.seconds.is_some() => "  not known".to_owned(),
            None => String::new(),
        };
        let tokens = step.tokens.filter(|t| !done && found.seconds.is_some() && t[1] > 0.0);
        let tokens = tokens.map_or_else(String::new, |[low, high]| {
            let (low, high) = (number(low), number(high));
            if low == high { format!("; {high} tokens") } else { format!("; {low} to {high} tokens") }
        });
        let _ = writeln!(text, "  {:width$}  {}{tokens}{time}", title(step), step.what);
    }
    if let Some(seconds) = found.seconds {
        let m = &found.machine;
        let unknown = if found.unknown > 0 { ", and what is not known" } else { "" };
        let kernels = m.kernels.join(", ");
        let _ =
            writeln!(text, "in all {}{unknown}, on this machine ({} threads, {kernels})", range(seconds), m.threads);
    }
    match (found.memory_mb, found.machine.available_mb) {
        (Some(mb), Some(free)) => {
            let _ = writeln!(text, "memory: at least {mb:.0} MiB, as timing took; {free:.0} MiB are available");
        }
        (None, Some(free)) if found.seconds.is_some() => {
            let _ = writeln!(
                text,
                "memory: not known, since less than a whole training step was timed; {free:.0} MiB are available"
            );
        }
        _ => {}
    }
    text
}

/// `40 s to 1 min 20 s`.
fn range([low, high]: [f64; 2]) -> String {
    let (low, high) = (duration(low), duration(high));
    if low == high { low } else { format!("{low} to {high}") }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0 => "under 1 s".to_owned(),
        1..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn times_are_read_at_a_glance() {
        assert_eq!(range([0.1, 0.2]), "under 1 s");
        assert_eq!(range([40.0, 80.4]), "40 s to 1 min 20 s");
        assert_eq!(range([3599.9, 9000.0]), "1 h 00 min to 2 h 30 min");
    }
}
