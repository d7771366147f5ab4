//! `eraser check`: a gate on the figures of a run. In: a run directory and conditions; out: one line, and an exit code.
//! Invariant: nothing is measured or written.

use crate::options::check::CheckArgs;
use crate::output;
use eraser_model::{Error, counted};
use eraser_run::{Gate, Outcome, gate};
use std::fmt::Write as _;

/// Compares, or lists every figure.
pub(crate) fn check(args: &CheckArgs, json: bool) -> Outcome {
    let found = gate(&args.run, &args.fail_if, &args.subject)?;
    let meant = |name: &str| args.subject.is_empty() || args.subject.iter().any(|s| s == name);
    for subject in found.run.subjects.iter().filter(|s| meant(&s.subject)) {
        if let Some(why) = &subject.unknown {
            let name = &subject.subject;
            tracing::warn!("whether the figures of {name} are of its adapter as it is now is unknown: {why}");
        }
    }
    if json {
        output::json(&found)?;
    } else if found.passed.is_none() {
        output::text(&list(&found, &meant))?;
    }
    match found.passed {
        Some(false) => {
            let held = found.conditions.iter().filter(|f| f.holds);
            let held: Vec<String> =
                held.map(|f| format!("{}: {}, measured {}", f.subject, f.condition, f.value)).collect();
            Err(Error::failed(format!("check failed: {}", held.join("; "))).into())
        }
        Some(true) if !json => Ok(output::line(&passed(&found))?),
        _ => Ok(()),
    }
}

/// That no condition holds, and of whom.
fn passed(found: &Gate) -> String {
    let mut subjects: Vec<&str> = Vec::new();
    let mut conditions: Vec<&str> = Vec::new();
    for f in &found.conditions {
        if !subjects.contains(&f.subject.as_str()) {
            subjects.push(&f.subject);
        }
        if !conditions.contains(&f.condition.as_str()) {
            conditions.push(&f.condition);
        }
    }
    format!("passed: {} checked on {}, none holds", counted(conditions.len(), "condition"), subjects.join(", "))
}

/// Every name and value; what stands against trusting them comes last.
fn list(found: &Gate, meant: &dyn Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let base = |name: &str| name == "base";
    for subject in found.run.subjects.iter().filter(|s| base(&s.subject) || meant(&s.subject)) {
        let stale = subject.stale.as_ref().map_or("", |_| " (earlier adapter)");
        let width = subject.figures.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}{stale}", subject.subject);
        if let Some(verdict) = subject.verdict {
            let _ = writeln!(text, "  {:width$}  {verdict}", "verdict");
        }
        let prefix = if base(&subject.subject) { "base." } else { "" };
        for figure in &subject.figures {
            let n = figure.n.map_or_else(String::new, |n| format!("  n {n}"));
            let _ = writeln!(text, "  {prefix}{:width$}  {}{n}", figure.name, figure.shown());
        }
    }
    for said in found.run.changed.iter().chain(&found.run.durability_changed) {
        let _ = writeln!(text, "{said}");
    }
    text
}
