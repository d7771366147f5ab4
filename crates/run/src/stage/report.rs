//! The report. In: the files of a run directory; out: report.html, report.md, report.csv, and tables for a terminal.

use eraser_model::{Error, ErrorKind, Result};
use eraser_report::Written;
use std::path::Path;

/// Writes the report of a run directory and says where it is.
///
/// # Errors
/// A directory without figures; a file that is damaged or cannot be written.
pub fn report(dir: &Path) -> Result<Written> {
    eraser_report::write_report(dir).map_err(|e| convert(&e))
}

/// Writes the report again where there is one, so that it tells what has changed since. Work does not fail by what is
/// wrong with a report; asking for one tells of it.
pub(crate) fn refresh(dir: &Path) {
    if dir.join("report.md").exists()
        && let Err(error) = report(dir)
    {
        tracing::warn!("{}: the report is not up to date: {error}", dir.display());
    }
}

/// The figures of a run directory as a table: those of its study, if it is one, else of its summary.
///
/// # Errors
/// As [`report`].
pub fn table(dir: &Path) -> Result<String> {
    eraser_report::terminal(dir).map_err(|e| convert(&e))
}

/// What durability.json of a run directory says, as a table.
///
/// # Errors
/// As [`report`].
pub fn durability_table(dir: &Path) -> Result<String> {
    eraser_report::durability_table(dir).map_err(|e| convert(&e))
}

/// What is in the prepared sets of a run directory, as a table.
///
/// # Errors
/// As [`report`].
pub fn data_table(dir: &Path) -> Result<String> {
    eraser_report::data_table(&dir.join("data_report.json")).map_err(|e| convert(&e))
}

/// The report depends on none of our crates, so its error is its own.
pub(crate) fn convert(error: &eraser_report::Error) -> Error {
    let kind = if error.is_request() { ErrorKind::Request } else { ErrorKind::Failed };
    let converted = Error::new(kind, error);
    match error.hint() {
        Some(hint) => converted.hint(hint),
        None => converted,
    }
}
