//! Files of results that are not as they were written. In: the hashes in manifest.json, and the files; out: sentences
//! for a reader of the figures. Invariant: what this tool writes it also records, so a file with another hash, or one
//! that is gone, was changed from outside, or by work that has not ended.

use crate::error::Result;
use crate::format::list;
use crate::manifest::{Manifest, Record, sha256};
use std::path::Path;

/// The file of what outlasts merging, quantising and fine-tuning, and the name of its record.
pub(crate) const DURABILITY: &str = "durability.json";

/// Files that one kind of work writes.
struct Kind {
    /// What the names begin with, or the whole name of a single file.
    prefix: &'static str,
    /// The record of the work; None: the files are recorded whenever they are written, also by work that does not end.
    made_by: Option<&'static str>,
    /// What is in them, at the beginning of a sentence.
    what: &'static str,
}

/// Answers and scores.
const ANSWERS: [Kind; 2] = [
    Kind { prefix: "eval/", made_by: Some("summary.json"), what: "Answers" },
    Kind { prefix: "bench/", made_by: Some("bench.json"), what: "Scores" },
];

/// Files of figures, each with the record of the work that makes it again.
const FIGURES: [(&str, &str); 3] =
    [("summary.json", "summary.json"), ("bench.json", "bench.json"), ("study.json", "summary.json")];

/// What must be said of the files of results in `run`, a sentence or two for each kind.
pub(crate) fn sentences(run: &Path, manifest: &Manifest) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for kind in &ANSWERS {
        said.extend(answers(run, manifest, kind)?);
    }
    for (file, made_by) in FIGURES {
        if let (Some(written), Some(now)) = (manifest.results.get(file), sha256(run, file)?)
            && now != *written
        {
            said.push(format!(
                "`{file}` was changed after it had been written: its figures may not be what was measured. {} makes \
                 it again.",
                same(manifest.artefacts.get(made_by))
            ));
        }
    }
    said.extend(training(run, manifest)?);
    said.extend(adapters(run, manifest)?);
    if manifest.artefacts.get(DURABILITY).is_some_and(|r| r.ended.is_some()) && !run.join(DURABILITY).exists() {
        said.push(format!(
            "Durability was measured, and `{DURABILITY}` was removed: `eraser durability` makes it again."
        ));
    }
    Ok(said)
}

/// The command that makes files again, at the beginning of a sentence, by the verb of their record.
fn same(record: Option<&Record>) -> String {
    let verb = record.map(|r| r.verb.as_str()).filter(|verb| verb.chars().all(|c| c.is_ascii_lowercase()));
    verb.map_or_else(|| "The same command".to_owned(), |verb| format!("The same `eraser {verb}`"))
}

/// What is said of answers or scores.
fn answers(run: &Path, manifest: &Manifest, kind: &Kind) -> Result<Vec<String>> {
    let Some(record) = kind.made_by.and_then(|made_by| manifest.artefacts.get(made_by)) else { return Ok(Vec::new()) };
    let written = manifest.results.iter().filter(|(name, _)| name.starts_with(kind.prefix));
    let written: Vec<(&str, &str)> = written.map(|(name, hash)| (name.as_str(), hash.as_str())).collect();
    let Differing { edited, gone } = differing(run, &written)?;
    if record.ended.is_none() {
        if manifest.requests.is_empty() && manifest.figures.is_empty() {
            return Ok(Vec::new());
        }
        // What it has replaced is not what the figures were computed from.
        let mut lost: Vec<String> = edited.iter().chain(&gone).map(|name| shown(name)).collect();
        lost.sort();
        let verb = &record.verb;
        let last = format!("The last `eraser {verb}` has not ended: it is still at work, or was stopped.");
        return Ok(vec![if lost.is_empty() {
            format!("{last} The figures are of those before it. Run it again.")
        } else {
            format!("{last} The answers that the figures of these come from are gone: {}. Run it again.", list(&lost))
        }]);
    }
    let (what, again) = (kind.what, same(Some(record)));
    let mut said = Vec::new();
    if !edited.is_empty() {
        said.push(format!(
            "{what} were changed after they had been written ({}): they may not be what the model gave. {again} makes \
             them again.",
            list(&edited)
        ));
    }
    if !gone.is_empty() {
        said.push(format!(
            "{what} were removed after they had been written ({}): the figures of them can no longer be checked. \
             {again} makes them again.",
            list(&directories(run, &gone))
        ));
    }
    Ok(said)
}

/// What is said of the metrics of trainings that have ended.
fn training(run: &Path, manifest: &Manifest) -> Result<Option<String>> {
    let ended = |name: &str| {
        let home = name.split_once("train/").map_or("", |(home, _)| home);
        manifest.artefacts.get(&format!("{home}adapter")).is_some_and(|record| record.ended.is_some())
    };
    let written: Vec<(&str, &str)> = manifest
        .results
        .iter()
        .filter(|(name, _)| (name.starts_with("train/") || name.starts_with("variants/")) && ended(name))
        .map(|(name, hash)| (name.as_str(), hash.as_str()))
        .collect();
    let edited = differing(run, &written)?.edited;
    Ok((!edited.is_empty()).then(|| {
        format!(
            "What training had written was changed later ({}): what is said of the training may not be so.",
            list(&edited)
        )
    }))
}

/// What is said of adapters that are not as their training left them.
fn adapters(run: &Path, manifest: &Manifest) -> Result<Option<String>> {
    let mut edited = Vec::new();
    for (_, record) in manifest.artefacts.iter().filter(|(name, r)| is_adapter(name) && r.ended.is_some()) {
        let files: Vec<(&str, &str)> = record.files.iter().map(|(name, hash)| (name.as_str(), hash.as_str())).collect();
        edited.extend(differing(run, &files)?.edited);
    }
    Ok((!edited.is_empty()).then(|| {
        format!(
            "An adapter was changed after its training had written it ({}): what is said of that training is not of the \
             adapter that is there.",
            list(&edited)
        )
    }))
}

/// What is said of trainings that have not ended and whose adapters are not among `homes`, those of the subjects.
pub(crate) fn unended(manifest: &Manifest, homes: &[&str]) -> Vec<String> {
    let other = |(name, record): &(&String, &Record)| {
        is_adapter(name) && record.ended.is_none() && !homes.contains(&name.as_str())
    };
    let told = |(name, _)| {
        format!("The training of {name} has not ended: it is still at work, or was stopped. No figure here is of it.")
    };
    manifest.artefacts.iter().filter(other).map(told).collect()
}

/// Whether an artefact is an adapter of the run.
fn is_adapter(name: &str) -> bool {
    name == "adapter" || name.starts_with("variants/") && name.ends_with("/adapter")
}

/// What must be said of the rows of durability.json.
pub(crate) fn of_durability(run: &Path, record: Option<&Record>) -> Result<Vec<String>> {
    let again = "Run `eraser durability` again.";
    let Some(record) = record else {
        return Ok(vec!["How these rows were measured is not recorded.".to_owned()]);
    };
    if record.ended.is_none() {
        return Ok(vec![format!(
            "The last `eraser durability` has not ended: it is still at work, or was stopped. These rows are of the one \
             before it, whose answers may be gone. {again}"
        )]);
    }
    let written: Vec<(&str, &str)> = record.files.iter().map(|(name, hash)| (name.as_str(), hash.as_str())).collect();
    let Differing { mut edited, gone } = differing(run, &written)?;
    let mut said = Vec::new();
    if let Some(place) = edited.iter().position(|name| name == DURABILITY) {
        edited.remove(place);
        said.push(format!("`{DURABILITY}` was changed after it had been written. {again}"));
    }
    if !edited.is_empty() {
        said.push(format!("Answers that rows come from were changed later ({}). {again}", list(&edited)));
    }
    if !gone.is_empty() {
        let gone = list(&directories(run, &gone));
        said.push(format!(
            "Answers that rows come from were removed ({gone}), so they can no longer be checked. {again}"
        ));
    }
    Ok(said)
}

/// Names of files, in order.
struct Differing {
    /// Those with another content.
    edited: Vec<String>,
    /// Those that are not there.
    gone: Vec<String>,
}

fn differing(run: &Path, written: &[(&str, &str)]) -> Result<Differing> {
    let (mut edited, mut gone) = (Vec::new(), Vec::new());
    for (name, hash) in written {
        match sha256(run, name)? {
            None => gone.push((*name).to_owned()),
            Some(now) if now != *hash => edited.push((*name).to_owned()),
            Some(_) => {}
        }
    }
    Ok(Differing { edited, gone })
}

/// The files, with a directory that is gone in place of its files.
fn directories(run: &Path, files: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in files {
        let parents = Path::new(name).ancestors().skip(1).filter(|parent| parent.components().count() > 0);
        let lost = parents.filter(|parent| !run.join(parent).exists()).last();
        let lost = lost.map_or_else(|| name.clone(), |dir| format!("{}/", dir.display()));
        if !found.contains(&lost) {
            found.push(lost);
        }
    }
    found
}

/// `base direct` for `eval/base/direct.jsonl`.
fn shown(name: &str) -> String {
    let inside = name.split_once('/').map_or(name, |(_, rest)| rest);
    inside.strip_suffix(".jsonl").unwrap_or(inside).replace('/', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// SHA-256 of a file with this content.
    fn hash(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), text).unwrap();
        sha256(dir.path(), "f").unwrap().unwrap()
    }

    fn manifest(ended: bool) -> Manifest {
        let end = ended.then_some("2026-01-01T00:00:00Z");
        let record = |verb: &str| json!({"verb": verb, "ended": end});
        let durability = json!({"verb": "durability", "ended": end, "files":
            {"durability.json": hash("d"), "durability/eraser/eval/merged/direct.jsonl": hash("a")}});
        serde_json::from_value(json!({
            "schema": 1,
            "artefacts": {"summary.json": record("eval"), "bench.json": record("bench"), "adapter": record("train"),
                "durability.json": durability},
            "requests": {"1": record("eval")},
            "figures": {},
            "results": {"eval/base/direct.jsonl": hash("a"), "eval/base/template.jsonl": hash("b"),
                "bench/base/arc.jsonl": hash("c"), "summary.json": hash("s"), "train/metrics.jsonl": hash("m")},
        }))
        .unwrap()
    }

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("eval/base/direct.jsonl", "a"),
            ("eval/base/template.jsonl", "b"),
            ("bench/base/arc.jsonl", "c"),
            ("summary.json", "s"),
            ("train/metrics.jsonl", "m"),
            ("durability.json", "d"),
            ("durability/eraser/eval/merged/direct.jsonl", "a"),
        ];
        for (name, text) in files {
            std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn files_as_they_were_written_need_no_word() {
        let dir = directory();
        assert_eq!(sentences(dir.path(), &manifest(true)).unwrap(), Vec::<String>::new());
        let record = &manifest(true).artefacts["durability.json"];
        assert_eq!(of_durability(dir.path(), Some(record)).unwrap(), Vec::<String>::new());
    }

    /// The remedy of changed scores was `eraser eval`; a changed summary.json or durability.json was shown as it was.
    #[test]
    fn every_file_of_results_that_was_changed_or_removed_is_told_with_its_remedy() {
        let dir = directory();
        let change = |name: &str| std::fs::write(dir.path().join(name), "x").unwrap();
        for name in ["eval/base/direct.jsonl", "summary.json", "train/metrics.jsonl", "durability.json"] {
            change(name);
        }
        std::fs::remove_dir_all(dir.path().join("bench")).unwrap();
        let said = sentences(dir.path(), &manifest(true)).unwrap();
        let expected = [
            "Answers were changed after they had been written (eval/base/direct.jsonl)",
            "Scores were removed after they had been written (bench/)",
            "`summary.json` was changed after it had been written",
            "What training had written was changed later (train/metrics.jsonl)",
        ];
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(expected), "{said}");
        }
        assert!(said[0].ends_with("The same `eraser eval` makes them again."), "{}", said[0]);
        assert!(said[1].ends_with("The same `eraser bench` makes them again."), "{}", said[1]);
        let record = manifest(true).artefacts["durability.json"].clone();
        let marks = of_durability(dir.path(), Some(&record)).unwrap();
        assert!(marks[0].starts_with("`durability.json` was changed"), "{marks:?}");
        std::fs::remove_dir_all(dir.path().join("durability")).unwrap();
        let marks = of_durability(dir.path(), Some(&record)).unwrap();
        assert!(marks[1].starts_with("Answers that rows come from were removed (durability/)"), "{marks:?}");
        std::fs::remove_file(dir.path().join("durability.json")).unwrap();
        let said = sentences(dir.path(), &manifest(true)).unwrap();
        assert!(said.last().unwrap().starts_with("Durability was measured, and `durability.json` was removed"));
    }

    /// An interrupted evaluation named the file that was under way, and not those that it had replaced before.
    #[test]
    fn work_that_has_not_ended_names_the_figures_whose_answers_it_replaced() {
        let dir = directory();
        let said = sentences(dir.path(), &manifest(false)).unwrap();
        assert!(said[0].starts_with("The last `eraser eval` has not ended") && said[0].contains("of those before it"));
        std::fs::write(dir.path().join("eval/base/direct.jsonl"), "new").unwrap();
        std::fs::remove_file(dir.path().join("eval/base/template.jsonl")).unwrap();
        let said = sentences(dir.path(), &manifest(false)).unwrap();
        assert!(said[0].contains("are gone: base direct and base template."), "{}", said[0]);
        let record = manifest(false).artefacts["durability.json"].clone();
        assert!(of_durability(dir.path(), Some(&record)).unwrap()[0].contains("has not ended"));
        // A run that was stopped where a comparison had been left no word of its adapter.
        assert!(
            unended(&manifest(false), &["variants/a/adapter"])[0].starts_with("The training of adapter has not ended")
        );
        assert!(unended(&manifest(false), &["adapter"]).is_empty() && unended(&manifest(true), &[]).is_empty());
    }
}
