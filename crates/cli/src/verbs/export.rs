//! `eraser export`: a hardened model as files that other tools load.

use crate::options::export::ExportArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_run::{Outcome, Problems};
use serde_json::json;

/// Writes the export and says what it holds.
pub(crate) fn export(args: &ExportArgs, json: bool) -> Outcome {
    let mut problems = Problems::default();
    let plan = args.plan(&mut problems);
    eraser_run::export(&plan, problems, &mut Terminal::default())?;
    if json {
        output::json(&json!({"out": plan.out, "kind": plan.kind.name()}))?;
    } else {
        output::line(&plan.out.display().to_string())?;
    }
    Ok(())
}
