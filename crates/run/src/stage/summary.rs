//! `summary.json`. In: figures of evaluations and benchmarks; out: the file that holds them all. Invariant: it holds figures of
//! one model and its adapters only.

use crate::watch::Watch;
use eraser_eval::{Subject, Summary};
use eraser_model::Result;
use std::path::Path;

/// The file, and the name of its record.
pub(crate) const FILE: &str = "summary.json";

/// Makes room for results of `subjects` in `dir`, or says that it holds those of another model.
pub(crate) fn admit(dir: &Path, subjects: &[Subject<'_>], force: bool, watch: &mut dyn Watch) -> Result<()> {
    let fingerprints = subjects.iter().map(Subject::fingerprint).collect::<Result<Vec<_>>>()?;
    let named: Vec<_> = subjects.iter().map(|s| s.name.as_str()).zip(&fingerprints).collect();
    for text in eraser_eval::admit(dir, &named, force)? {
        watch.note(&text);
    }
    Ok(())
}

/// Removes the figures of subjects that are not among `names`.
pub(crate) fn keep_only(dir: &Path, names: &[&str]) -> Result<()> {
    if !dir.join(FILE).exists() {
        return Ok(());
    }
    let mut summary = Summary::read(dir)?;
    summary.subjects.retain(|subject| names.contains(&subject.name.as_str()));
    summary.write(dir)
}

/// Puts what was measured into the file, beside what that and bench.json hold of the same models.
pub(crate) fn record(dir: &Path, measured: &Summary, watch: &mut dyn Watch) -> Result<Summary> {
    let (summary, notes) = eraser_eval::record(dir, measured)?;
    for text in &notes {
        watch.note(text);
    }
    Ok(summary)
}
