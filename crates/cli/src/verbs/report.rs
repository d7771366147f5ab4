//! `eraser report`: the files of a run become report.html and report.md.

use crate::errors::Outcome;
use crate::options::run::ReportArgs;
use crate::output;
use eraser_model::{Error, ErrorKind, Result};
use eraser_report::Written;
use serde_json::json;
use std::path::Path;

/// Writes the report and says where.
pub(crate) fn report(args: &ReportArgs, json: bool) -> Outcome {
    let written = write(&args.run)?;
    if json {
        output::json(&json!({"html": written.html, "markdown": written.markdown}))?;
    } else {
        output::line(&written.html.display().to_string())?;
    }
    Ok(())
}

/// Writes the report of a run directory.
pub(super) fn write(run: &Path) -> Result<Written> {
    eraser_report::write_report(run).map_err(|e| convert(&e))
}

/// The figures of a run as a table for the terminal: those of its study, if it is one, else of its summary.
pub(super) fn table(run: &Path) -> Result<String> {
    eraser_report::terminal(run).map_err(|e| convert(&e))
}

/// What durability.json of a run directory says, for the terminal.
pub(super) fn durability_table(run: &Path) -> Result<String> {
    eraser_report::durability_table(&run.join("durability.json")).map_err(|e| convert(&e))
}

/// The data report of a run directory as a table for the terminal.
pub(super) fn data_table(run: &Path) -> Result<String> {
    eraser_report::data_table(&run.join("data_report.json")).map_err(|e| convert(&e))
}

/// The report depends on none of our crates, so its error is its own.
fn convert(error: &eraser_report::Error) -> Error {
    let kind = if error.is_request() { ErrorKind::Request } else { ErrorKind::Failed };
    let converted = Error::new(kind, error);
    match error.hint() {
        Some(hint) => converted.hint(hint),
        None => converted,
    }
}
