//! `eraser export`: a hardened model as files that other tools load.

use crate::options::export::ExportArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_run::{ExportKind, Outcome, Problems};
use serde_json::json;

/// Writes the export and says what it holds.
pub(crate) fn export(args: &ExportArgs, json: bool) -> Outcome {
    let mut problems = Problems::default();
    let plan = args.plan(&mut problems);
    eraser_run::export(&plan, problems, &mut Terminal::default())?;
    if json {
        let kind = if plan.kind == ExportKind::Adapter { "adapter" } else { "merged" };
        output::json(&json!({"out": plan.out, "kind": kind}))?;
    } else {
        output::line(&plan.out.display().to_string())?;
    }
    Ok(())
}
