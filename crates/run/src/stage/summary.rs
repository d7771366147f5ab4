//! `summary.json`. In: figures of evaluations and benchmarks; out: the file that holds them all. Invariant: it holds what
//! `bench.json` beside it says.

use eraser_data::files::write_atomic;
use eraser_eval::{BenchSummary, Summary};
use eraser_model::{Error, Result};
use std::path::Path;

/// The file, and the name of its record.
pub(crate) const FILE: &str = "summary.json";

/// The summary of a run directory; an empty one where there is none.
pub(crate) fn read(dir: &Path) -> Result<Summary> {
    if dir.join(FILE).exists() {
        return Summary::read(dir);
    }
    Ok(Summary { schema: Summary::SCHEMA, ..Summary::default() })
}

/// Writes it, with the figures of a bench.json that is there.
pub(crate) fn write(dir: &Path, summary: &Summary) -> Result<()> {
    let mut summary = summary.clone();
    if let Some(bench) = BenchSummary::read(dir)? {
        bench.join(&mut summary);
    }
    let text = serde_json::to_string_pretty(&summary).map_err(|e| Error::failed(format!("{FILE}: {e}")))?;
    write_atomic(&dir.join(FILE), format!("{text}\n").as_bytes())
}
