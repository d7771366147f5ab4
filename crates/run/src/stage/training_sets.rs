//! What adapters were trained on. In: their directories; out: the files of their harm and align sets. Invariant: a file
//! is given only if it is the one that the record of the adapter names, where there is a record.

use crate::manifest::{FILE, Manifest};
use crate::watch::Watch;
use eraser_data::files::hash_file;
use eraser_eval::EvalOptions;
use eraser_model::Result;
use eraser_train::SetName;
use std::path::{Path, PathBuf};

/// The sets that hold restricted questions.
const SETS: [SetName; 2] = [SetName::Harm, SetName::Align];

/// Refuses to ask what the adapters were trained on, unless the set is allowed to hold such questions; tells of near
/// duplicates.
///
/// # Errors
/// As [`eraser_eval::leakage`].
pub(crate) fn check(options: &EvalOptions, adapters: &[(String, PathBuf)], watch: &mut dyn Watch) -> crate::Outcome {
    let mut files = Vec::new();
    for (name, adapter) in adapters {
        for path in sets(name, adapter, watch)? {
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    compare(options, &files, watch)
}

/// As [`check`], of the sets in `dir/data` of those that a run takes from files.
pub(crate) fn check_files(
    options: &EvalOptions,
    given: impl Iterator<Item = SetName>,
    dir: &Path,
    watch: &mut dyn Watch,
) -> crate::Outcome {
    let files = given.filter(|set| SETS.contains(set)).map(|set| dir.join("data").join(set.file()));
    compare(options, &files.collect::<Vec<_>>(), watch)
}

fn compare(options: &EvalOptions, files: &[PathBuf], watch: &mut dyn Watch) -> crate::Outcome {
    for note in eraser_eval::leakage(options, files)? {
        watch.note(&note);
    }
    Ok(())
}

/// The file of a set that an adapter was trained on, or why it cannot be used; None where there is no record of either.
pub(crate) fn recorded(adapter: &Path, set: SetName) -> Result<Option<std::result::Result<PathBuf, String>>> {
    let Some((run, artefact)) = run_of(adapter) else { return Ok(None) };
    let input = format!("data/{}", set.file());
    let manifest = Manifest::read(&run);
    let Some(recorded) = manifest.get(&artefact).and_then(|record| record.inputs.get(&input)) else { return Ok(None) };
    let path = run.join(&input);
    Ok(Some(if !path.is_file() {
        Err(format!("{} is not there", path.display()))
    } else if hash_file(&path)? == *recorded {
        Ok(path)
    } else {
        Err(format!("{} holds other rows than those that the adapter was trained on", path.display()))
    }))
}

/// The files of one adapter.
fn sets(name: &str, adapter: &Path, watch: &mut dyn Watch) -> Result<Vec<PathBuf>> {
    let unknown = |why: &str| format!("{name}: whether its training saw these questions is unknown: {why}");
    let Some((run, artefact)) = run_of(adapter) else {
        watch.note(&unknown(&match lost_manifest(adapter) {
            Some(path) => format!("{} is missing", path.display()),
            None => "its directory is in no run directory".to_owned(),
        }));
        return Ok(Vec::new());
    };
    let manifest = Manifest::read(&run);
    let Some(record) = manifest.get(&artefact) else {
        watch.note(&unknown(&format!("{} has no record of it", run.join(FILE).display())));
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    for set in SETS {
        let input = format!("data/{}", set.file());
        let Some(recorded) = record.inputs.get(&input) else { continue };
        let path = run.join(&input);
        if !path.is_file() {
            watch.note(&unknown(&format!("{} is not there", path.display())));
        } else if hash_file(&path)? == *recorded {
            files.push(path);
        } else {
            watch.note(&unknown(&format!("{} holds other rows than those that it was trained on", path.display())));
        }
    }
    Ok(files)
}

/// The run directory that an adapter is in, and the adapter's name in its manifest.
fn run_of(adapter: &Path) -> Option<(PathBuf, String)> {
    let found = |adapter: &Path| {
        let name = adapter.file_name()?.to_str()?;
        let home = adapter.parent()?;
        if home.join(FILE).is_file() {
            return Some((home.to_owned(), name.to_owned()));
        }
        let (variant, variants) = (home.file_name()?.to_str()?, home.parent()?);
        let run = variants.parent()?;
        let is_variant = variants.file_name()? == "variants" && run.join(FILE).is_file();
        is_variant.then(|| (run.to_owned(), format!("variants/{variant}/{name}")))
    };
    found(adapter).or_else(|| found(&adapter.canonicalize().ok()?))
}

/// The manifest that an adapter should have by the files beside it, which only a run has.
fn lost_manifest(adapter: &Path) -> Option<PathBuf> {
    let adapter = adapter.canonicalize().ok()?;
    let home = adapter.parent()?;
    let run = match home.parent() {
        Some(variants) if variants.file_name().is_some_and(|name| name == "variants") => variants.parent()?,
        _ => home,
    };
    let of_a_run = ["train", "data", "plan.toml", "summary.json", "variants"];
    of_a_run.iter().any(|name| run.join(name).exists()).then(|| run.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_of_an_adapter_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let variant = dir.path().join("variants/a/adapter");
        std::fs::create_dir_all(&variant).unwrap();
        assert!(run_of(&variant).is_none());
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        let run = |path: &Path| run_of(path).unwrap();
        assert_eq!(run(&variant), (dir.path().to_owned(), "variants/a/adapter".to_owned()));
        assert_eq!(run(&dir.path().join("adapter")), (dir.path().to_owned(), "adapter".to_owned()));
        assert!(run_of(&dir.path().join("elsewhere/deep/adapter")).is_none());
    }
}
