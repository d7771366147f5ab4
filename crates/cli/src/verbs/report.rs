//! `eraser report`: the files of a run become report.html and report.md.

use crate::options::run::ReportArgs;
use crate::output;
use eraser_run::Outcome;
use serde_json::json;

/// Writes the report and says where.
pub(crate) fn report(args: &ReportArgs, json: bool) -> Outcome {
    let written = eraser_run::report(&args.run)?;
    if json {
        output::json(&json!({"html": written.html, "markdown": written.markdown}))?;
    } else {
        output::line(&written.html.display().to_string())?;
    }
    Ok(())
}
