//! What adapters were trained on. In: their directories; out: the files of their sets, and what a reader of their figures
//! must know of them. Invariant: a file
//! is given only if it is the one that the record of the adapter names, where there is a record.

use crate::failure::Outcome;
use crate::manifest::{FILE, Manifest};
use eraser_data::files::hash_file;
use eraser_data::read_set;
use eraser_eval::EvalOptions;
use eraser_eval::attack::read_templates;
use eraser_model::Result;
use eraser_train::SetName;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// The sets that hold restricted questions.
const RESTRICTED: [SetName; 2] = [SetName::Harm, SetName::Align];
/// The sets that hold harmless ones.
const HARMLESS: [SetName; 2] = [SetName::Help, SetName::Retain];
/// More adapters than any chain of `--init-adapter` has.
const LONGEST: usize = 16;

/// What adapters were trained on.
#[derive(Default)]
struct Trained {
    restricted: Vec<PathBuf>,
    harmless: Vec<PathBuf>,
    /// The adapter, its align set, and that set under the templates that it learnt from.
    wrapped: Vec<(String, PathBuf, PathBuf)>,
    /// What is unknown.
    notes: Vec<String>,
}

/// Refuses to ask what the adapters were trained on, unless the set is allowed to hold such questions. Gives what a
/// reader of the figures must know: near duplicates, what was allowed, what is unknown.
///
/// # Errors
/// As [`eraser_eval::leakage`].
pub(crate) fn check(options: &EvalOptions, adapters: &[(String, PathBuf)]) -> Outcome<Vec<String>> {
    let mut trained = Trained::default();
    for (name, adapter) in adapters {
        trained.add(name, adapter)?;
    }
    trained.compare(options)
}

/// As [`check`], of the sets in `dir/data` of those that a run takes from files.
pub(crate) fn check_files(
    options: &EvalOptions,
    given: impl Iterator<Item = SetName>,
    dir: &Path,
) -> Outcome<Vec<String>> {
    let mut trained = Trained::default();
    for set in given {
        let path = dir.join("data").join(set.file());
        if RESTRICTED.contains(&set) {
            trained.restricted.push(path);
        } else if HARMLESS.contains(&set) {
            trained.harmless.push(path);
        }
    }
    trained.compare(options)
}

/// That adapters were trained on another model than the one whose fingerprint this is.
pub(crate) fn other_model(fingerprint: &str, adapters: &[(String, PathBuf)]) -> Vec<String> {
    let told = |(name, adapter): &(String, PathBuf)| {
        let (run, artefact) = run_of(adapter)?;
        let manifest = Manifest::read(&run);
        let record = manifest.get(&artefact)?;
        let trained = record.inputs.get("model").filter(|trained| *trained != fingerprint)?;
        let model = record.options["model"]["path"].as_str().unwrap_or("another one");
        let model = Path::new(model).file_name().map_or(model.into(), |name| name.to_string_lossy());
        let [trained, measured] = [trained, fingerprint].map(|hash| hash.chars().take(12).collect::<String>());
        Some(format!(
            "{name} was trained on the model {model} ({trained}), and is measured on another one ({measured})"
        ))
    };
    adapters.iter().filter_map(told).collect()
}

impl Trained {
    /// Adds the sets of an adapter, and of those that its training began from.
    fn add(&mut self, name: &str, adapter: &Path) -> Result<()> {
        let mut next = Some((name.to_owned(), adapter.to_owned()));
        for _ in 0..LONGEST {
            let Some((name, adapter)) = next.take() else { break };
            next = self
                .add_one(&name, &adapter)?
                .map(|first| (format!("{name}, which began from {}", first.display()), first));
        }
        Ok(())
    }

    /// Adds the sets of one adapter; gives the adapter that its training began from.
    fn add_one(&mut self, name: &str, adapter: &Path) -> Result<Option<PathBuf>> {
        let unknown = |why: &str| format!("{name}: whether its training saw these questions is unknown: {why}");
        let Some((run, artefact)) = run_of(adapter) else {
            self.notes.push(unknown(&match lost_manifest(adapter) {
                Some(path) => format!("{} is missing", path.display()),
                None => "it is in no run directory".to_owned(),
            }));
            return Ok(None);
        };
        let manifest = Manifest::read(&run);
        let Some(record) = manifest.get(&artefact) else {
            self.notes.push(unknown(&format!("{} has no record of it", run.join(FILE).display())));
            return Ok(None);
        };
        let mut found = BTreeMap::new();
        for set in RESTRICTED.into_iter().chain(HARMLESS).chain([SetName::Wrapped]) {
            let input = format!("data/{}", set.file());
            let Some(recorded) = record.inputs.get(&input) else { continue };
            let path = run.join(&input);
            if !path.is_file() {
                self.notes.push(unknown(&format!("{} is not there", path.display())));
            } else if hash_file(&path)? == *recorded {
                found.insert(set, path);
            } else {
                let other = "holds other rows than those that it was trained on";
                self.notes.push(unknown(&format!("{} {other}", path.display())));
            }
        }
        if let (Some(align), Some(wrapped)) = (found.get(&SetName::Align), found.get(&SetName::Wrapped)) {
            self.wrapped.push((name.to_owned(), align.clone(), wrapped.clone()));
        }
        for (sets, files) in [(RESTRICTED, &mut self.restricted), (HARMLESS, &mut self.harmless)] {
            for path in sets.iter().filter_map(|set| found.get(set)) {
                if !files.contains(path) {
                    files.push(path.clone());
                }
            }
        }
        Ok(record.options["train"]["init_adapter"].as_str().map(PathBuf::from))
    }

    fn compare(self, options: &EvalOptions) -> Outcome<Vec<String>> {
        let mut notes = self.notes;
        notes.extend(eraser_eval::leakage(options, &self.restricted, &self.harmless)?);
        // Whatever is wrong with templates is told where they are read to be asked.
        let templates = read_templates(&options.templates).unwrap_or_default();
        for (name, align, wrapped) in &self.wrapped {
            let asked: HashSet<String> = read_set(wrapped)?.into_iter().map(|row| row.input).collect();
            let Some(first) = read_set(align)?.into_iter().next() else { continue };
            let learnt = templates.iter().filter(|template| asked.contains(&template.fill(&first.input)));
            let learnt: Vec<&str> = learnt.map(|template| template.name.as_str()).collect();
            if !learnt.is_empty() {
                let (n, all, learnt) = (learnt.len(), templates.len(), learnt.join(", "));
                notes.push(format!("{name} learnt from {n} of the {all} templates that are asked: {learnt}"));
            }
        }
        Ok(notes)
    }
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
