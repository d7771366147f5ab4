//! `eraser export`: a hardened model as files that other tools load.

use crate::options::export::ExportArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_model::Error;
use eraser_run::{Outcome, Problems};
use serde_json::json;

/// Writes the export and says what it holds.
pub(crate) fn export(args: &ExportArgs, json: bool) -> Outcome {
    let mut problems = Problems::default();
    let plan = args.plan(&mut problems);
    let types = eraser_run::export(&plan, problems, &mut Terminal::default())?;
    if json {
        let mut told = json!({"out": plan.out, "kind": plan.kind.name()});
        if !types.is_empty() {
            told["types"] = serde_json::to_value(&types).map_err(Error::failed)?;
        }
        output::json(&told)?;
    } else {
        output::line(&plan.out.display().to_string())?;
        types.iter().try_for_each(|group| output::line(&format!("  {group}")))?;
    }
    Ok(())
}
