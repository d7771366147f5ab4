//! `eraser doctor`: whether a model can be hardened here. In: a model; out: a line for each thing that was looked at.

use crate::options::doctor::DoctorArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_model::{Error, counted};
use eraser_run::{Diagnosis, Finding, Level, Outcome, Problems, doctor};
use std::fmt::Write as _;

/// Looks, and prints what was found.
pub(crate) fn check_model(args: &DoctorArgs, json: bool) -> Outcome {
    let mut problems = Problems::default();
    let plan = args.plan(&mut problems);
    problems.finish(Some(()))?;
    let found = doctor(&plan, args.adapter.as_deref(), &mut Terminal::default());
    if json {
        output::json(&found)?;
    } else {
        output::text(&lines(&found))?;
    }
    match found.errors() {
        0 => Ok(()),
        n => Err(Error::failed(format!("{}: the model cannot be used: {}", args.model, counted(n, "error"))).into()),
    }
}

fn lines(found: &Diagnosis) -> String {
    let width = found.findings.iter().map(|f| f.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { level, what, found, hints } in &found.findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{level:7}  {what:width$}  {found}");
        for hint in hints {
            let _ = writeln!(text, "{:7}  {:width$}  hint: {hint}", "", "");
        }
    }
    text
}
