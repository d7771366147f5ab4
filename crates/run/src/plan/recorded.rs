//! The plan of a run that is there. In: manifest.json of a directory, whichever verbs filled it; out: the plan that
//! they carried out. Invariant: it says what the records of the artefacts say, nothing of what a run file says now.

use super::measures;
use super::run::{Overrides, RunPlan};
use crate::failure::Outcome;
use crate::manifest::{FILE, Manifest, Record, is_adapter};
use eraser_model::{Error, Result};
use eraser_train::TrainOptions;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

impl RunPlan {
    /// The plan of the run in `dir`, and the evaluation that it asks again, in words: the adapters that were trained in
    /// the directory, under the names that they were evaluated by, and the last evaluation that asked questions under
    /// jailbreak templates, else with any attack. Tasks are those of the last evaluation that had some.
    ///
    /// # Errors
    /// A directory without a trained adapter or such an evaluation on record.
    pub fn of_directory(dir: &Path) -> Outcome<(Self, String)> {
        if !dir.is_dir() {
            let what = if dir.exists() { "this is not a directory" } else { "there is no such directory" };
            return Err(Error::request(format!("{}: {what}", dir.display()))
                .hint("name the directory of a run, as runs/NAME; it is taken relative to the current directory")
                .into());
        }
        let manifest = Manifest::read(dir);
        let listed = listed(dir);
        let trained = |(name, record): &(&str, &Record)| {
            // Of variants that the run file has no more, the adapters are still on record.
            is_adapter(name)
                && record.ended.is_some()
                && (listed.is_empty() || listed.iter().any(|(adapter, _)| adapter == name))
        };
        let mut adapters: Vec<(&str, &Record)> = manifest.artefacts().filter(trained).collect();
        // As they were trained.
        adapters.sort_by_key(|(_, record)| record.started.clone());
        let Some((_, first)) = adapters.first() else {
            return Err(Error::request(format!("{}: no adapter was trained in it", dir.display()))
                .hint("train one: eraser train --out RUN .., or eraser run RUN.toml")
                .into());
        };
        let eval = attacked(&manifest).ok_or_else(|| {
            let none = manifest.get("summary.json").is_none();
            let what = if none {
                "no evaluation was done in it"
            } else {
                "no evaluation in it asked questions with an attack"
            };
            Error::request(format!("{}: {what}", dir.display())).hint(
                "evaluate the adapter first: eraser eval --out RUN --adapter NAME=RUN/adapter --questions SET=FILE ..",
            )
        })?;
        let mut told = format!("asked again is what `eraser {}` asked that was begun {}", eval.verb, eval.started);
        if !has(eval, "attacks", "template") {
            told.push_str(" (no evaluation in this directory asked under jailbreak templates, so none are used)");
        }
        let mut eval = measures::of_record(&eval.options["eval"]);
        if eval["tasks"].as_array().is_none_or(Vec::is_empty)
            && let Some(record) = manifest.requests().rfind(|record| lists(record, "tasks"))
        {
            eval["tasks"] = measures::of_record(&record.options["eval"])["tasks"].clone();
            let _ = write!(told, ", with the tasks of what was begun {}", record.started);
        }
        let set = |name: &str| dir.join("data").join(format!("{name}.jsonl"));
        let sets = [("harm", "harm"), ("help_set", "help"), ("align", "align"), ("retain_set", "retain")]
            .map(|(key, name)| (key, set(name)));
        let data: serde_json::Map<String, Value> = sets
            .into_iter()
            .filter(|(_, path)| path.exists())
            .map(|(key, path)| Ok((key.to_owned(), text(&path)?.into())))
            .collect::<Result<_>>()?;
        let variants = adapters.iter().map(|(artefact, record)| {
            let mut variant = record.options["train"].clone();
            let options = serde_json::from_value::<TrainOptions>(variant.clone());
            // Settings that were shared with other methods, and those of a preset that these take no part in.
            if let (Ok(options), Some(settings)) = (options, variant.as_object_mut()) {
                settings.retain(|key, _| options.uses(key));
            }
            let evaluated = listed.iter().find(|(adapter, _)| adapter == artefact);
            variant["name"] = evaluated.map_or_else(|| record.options["name"].clone(), |(_, name)| json!(name));
            variant["retain"] = record.options["retain"].clone();
            variant
        });
        let root = json!({
            "run": {"name": "run", "dir": text(dir)?},
            "model": first.options["model"],
            "data": data,
            "variant": variants.collect::<Vec<_>>(),
            "eval": eval,
        });
        let damaged = |e: &dyn std::fmt::Display| Error::request(format!("{}: {e}", dir.join(FILE).display()));
        let table = toml::Value::try_from(&root).map_err(|e| damaged(&e))?;
        let source = toml::to_string(&table).map_err(|e| damaged(&e))?;
        let overrides = Overrides { out: Some(dir), ..Overrides::default() };
        let mut plan = Self::parse(&dir.join(FILE), &source, &overrides)?;
        for (variant, (artefact, _)) in plan.variants.iter_mut().zip(&adapters) {
            variant.dir = Path::new(artefact).parent().map_or_else(PathBuf::new, Path::to_owned);
        }
        Ok((plan, told))
    }
}

/// The last evaluation that asked questions under jailbreak templates, else the last with any attack. One that did not
/// end counts where there is no other.
fn attacked(manifest: &Manifest) -> Option<&Record> {
    let attacks = |record: &&Record| lists(record, "questions") && lists(record, "attacks");
    let last = manifest.requests().rfind(|record| attacks(record) && has(record, "attacks", "template"));
    last.or_else(|| manifest.requests().rfind(attacks)).or_else(|| manifest.get("summary.json").filter(attacks))
}

/// Whether an evaluation has something in a list of its options.
fn lists(record: &Record, key: &str) -> bool {
    record.options["eval"][key].as_array().is_some_and(|list| !list.is_empty())
}

/// Whether a list of an evaluation's options holds a name.
fn has(record: &Record, key: &str, name: &str) -> bool {
    record.options["eval"][key].as_array().is_some_and(|list| list.iter().any(|entry| entry == name))
}

/// The adapters that subjects.json lists, by their paths in the run, each with the subject's name. None in a directory
/// without an evaluation.
fn listed(dir: &Path) -> Vec<(String, String)> {
    let text = std::fs::read(dir.join("subjects.json")).unwrap_or_default();
    let subjects: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
    let adapters = subjects.iter().filter_map(|s| Some((s["adapter"].as_str()?, s["name"].as_str()?)));
    let inside = adapters.filter(|(adapter, _)| Path::new(adapter).is_relative());
    inside.map(|(adapter, name)| (adapter.to_owned(), name.to_owned())).collect()
}

/// An absolute path as text.
fn text(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| Error::request(format!("{}: {e}", path.display())))?;
    let text = absolute.to_str().map(ToOwned::to_owned);
    text.ok_or_else(|| Error::request(format!("{}: the path is not UTF-8", path.display())))
}
