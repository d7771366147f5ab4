//! `subjects.json` and `judges.json`, by which the report tells what the subjects are. In: subjects with their adapters' directories, the
//! manifest; out: the files. Invariant: settings are those of the record of the adapter, never of a plan.

use crate::manifest::Manifest;
use eraser_data::files::write_atomic;
use eraser_eval::judge::GCG29;
use eraser_model::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Writes both files for the subjects that have an adapter: name and directory of each. Of an adapter that the manifest does
/// not know, the settings are not told.
pub(crate) fn write(dir: &Path, adapters: &[(String, PathBuf)], manifest: &Manifest) -> Result<()> {
    let subjects = adapters.iter().map(|(name, adapter)| {
        let artefact = inside(dir, adapter);
        let record = artefact.as_deref().and_then(|artefact| manifest.get(artefact));
        let home = artefact.as_deref().and_then(|a| Path::new(a).parent()).map(Path::to_owned);
        let mut subject = json!({"name": name, "adapter": artefact.as_deref().map_or(adapter.as_path(), Path::new)});
        if let Some((record, home)) = record.zip(home) {
            let mut settings = record.options["train"].clone();
            settings["retain"] = record.options["retain"].clone();
            subject["settings"] = settings;
            subject["metrics"] = json!(home.join("train/metrics.jsonl"));
        }
        subject
    });
    write_json(dir, "subjects.json", &subjects.collect())?;
    write_json(dir, "judges.json", &json!({"keyword:gcg29": GCG29}))
}

/// The path below `dir` of a path that is in it.
fn inside(dir: &Path, path: &Path) -> Option<String> {
    let absolute = |path: &Path| path.canonicalize().ok();
    let (dir, path) = (absolute(dir)?, absolute(path)?);
    Some(path.strip_prefix(&dir).ok()?.to_str()?.replace('\\', "/"))
}

fn write_json(dir: &Path, name: &str, value: &Value) -> Result<()> {
    write_atomic(&dir.join(name), format!("{value:#}\n").as_bytes())
}
