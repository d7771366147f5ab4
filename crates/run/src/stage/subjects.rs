//! `subjects.json` and `judges.json`, by which the report tells what the subjects are. In: subjects with their
//! adapters' directories, the manifest; out: the files. Invariant: settings are those of the record of the adapter,
//! never of a plan; every subject that the summary has figures of stays listed, so that the report can tell whether
//! they are of its adapter.

use crate::manifest::Manifest;
use crate::stage::summary;
use eraser_data::files::{hash_file, write_atomic};
use eraser_eval::Summary;
use eraser_eval::judge::GCG29;
use eraser_model::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The file of subjects.
const FILE: &str = "subjects.json";

/// Writes both files for the subjects that have an adapter: name and directory of each. Of an adapter that the manifest
/// does not know, the settings are left out.
pub(crate) fn write(dir: &Path, adapters: &[(String, PathBuf)], manifest: &Manifest) -> Result<()> {
    let earlier = earlier(dir, adapters)?;
    let subjects = adapters.iter().chain(&earlier).map(|(name, adapter)| {
        let artefact = inside(dir, adapter);
        let record = artefact.as_deref().and_then(|artefact| manifest.get(artefact));
        let home = artefact.as_deref().and_then(|a| Path::new(a).parent()).map(Path::to_owned);
        // Of one that is elsewhere the whole path: what is relative is in the run.
        let elsewhere = || std::path::absolute(adapter).unwrap_or_else(|_| adapter.clone());
        let mut subject = json!({"name": name, "adapter": artefact.clone().map_or_else(elsewhere, PathBuf::from)});
        if let Some((record, home)) = record.zip(home) {
            let mut settings = record.options["train"].clone();
            settings["retain"] = record.options["retain"].clone();
            subject["settings"] = settings;
            subject["metrics"] = json!(home.join("train/metrics.jsonl"));
        }
        subject
    });
    write_json(dir, FILE, &subjects.collect())?;
    write_json(dir, "judges.json", &json!({"keyword:gcg29": GCG29}))
}

/// That no name stands for another adapter than before: figures of the one in the run would be lost to those of one
/// from elsewhere.
///
/// # Errors
/// A subject whose name is that of an adapter in the run, and whose adapter is another one.
pub(crate) fn check(dir: &Path, adapters: &[(String, PathBuf)]) -> Result<()> {
    for old in listed(dir) {
        let Some((name, now)) = adapters.iter().find(|(name, _)| *name == old.name) else { continue };
        let before = dir.join(&old.adapter);
        // A GGUF file holds all of an adapter.
        let weights = |home: &Path| {
            hash_file(&if home.is_file() { home.to_owned() } else { home.join("adapter_model.safetensors") }).ok()
        };
        let own = old.adapter.is_relative() && before.exists();
        if own && before.canonicalize().ok() != now.canonicalize().ok() && weights(&before) != weights(now) {
            let (now, before) = (now.display(), before.display());
            return Err(Error::request(format!("--adapter: in this run `{name}` is the adapter {before}, not {now}"))
                .hint("give the other one a name of its own, as NAME=DIR, or name another directory with --out")
                .hint("or give --force: it removes what was measured in this one"));
        }
    }
    Ok(())
}

/// The entries of the file. One that cannot be read lists none: it is written anew.
fn listed(dir: &Path) -> Vec<Listed> {
    std::fs::read(dir.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// The subjects of an earlier evaluation that the summary still has figures of, with their adapters' directories.
fn earlier(dir: &Path, now: &[(String, PathBuf)]) -> Result<Vec<(String, PathBuf)>> {
    if !dir.join(summary::FILE).exists() {
        return Ok(Vec::new());
    }
    let measured = Summary::read(dir)?.subjects;
    let kept = listed(dir).into_iter().filter(|old| {
        !now.iter().any(|(name, _)| *name == old.name) && measured.iter().any(|subject| subject.name == old.name)
    });
    Ok(kept.map(|old| (old.name, dir.join(old.adapter))).collect())
}

/// What is read again of an entry.
#[derive(Deserialize)]
struct Listed {
    name: String,
    adapter: PathBuf,
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
