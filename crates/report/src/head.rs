//! What a report is about: model, method, sets, adapter, date, version. Input: the manifest, the summary. Output: a
//! title and facts for the first lines of the page and of Markdown. Invariant: what is not on record is left out.

use crate::format::list;
use crate::manifest::{Manifest, Record, short};
use crate::measured;
use crate::summary::Summary;
use serde::Serialize;

/// The first lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Head {
    pub(crate) title: String,
    pub(crate) facts: Vec<(&'static str, String)>,
}

/// The first lines of a run; `adapters` are its subjects with the directories of their adapters.
pub(crate) fn head(summary: Option<&Summary>, manifest: Option<&Manifest>, adapters: &[(String, String)]) -> Head {
    let mut head = Head { title: "Eraser report".to_owned(), facts: Vec::new() };
    let Some(manifest) = manifest else { return head };
    let trained: Vec<(&str, &Record)> = adapters
        .iter()
        .filter_map(|(name, home)| Some((name.as_str(), manifest.artefacts.get(home)?)))
        .filter(|(_, record)| record.options["train"]["method"].is_string())
        .collect();
    let measured = manifest.requests.values().next_back();
    let mut records = trained.iter().map(|(_, record)| *record).chain(measured);
    if let Some(path) = records.find_map(|record| record.options["model"]["path"].as_str()) {
        let name = measured::name(path);
        let hardened = summary.is_some_and(|s| s.hardened().next().is_some()) || !trained.is_empty();
        head.title = if hardened { format!("{name}, hardened") } else { name.to_owned() };
    }
    let methods: Vec<String> = trained.iter().map(|(name, record)| method(name, record, trained.len() > 1)).collect();
    let rows = rows(&trained);
    let adapters = trained.iter().filter_map(|(name, record)| {
        let hash = short(record.fingerprint.as_deref()?);
        Some(if trained.len() > 1 { format!("{name} {hash}") } else { hash })
    });
    let last = trained.iter().map(|(_, record)| *record).chain(measured).max_by(|a, b| a.started.cmp(&b.started));
    let made = last.map_or_else(String::new, |record| {
        let commit = record.commit.as_deref().map_or_else(String::new, |commit| format!(", commit {}", short(commit)));
        format!("eraser {}{commit}", record.version)
    });
    let date = last.and_then(|record| record.started.split('T').next()).unwrap_or_default().to_owned();
    let facts = [
        ("method", list(&methods)),
        ("trained on", rows),
        ("adapter", list(&adapters.collect::<Vec<_>>())),
        ("measured", date),
        ("with", made),
    ];
    head.facts.extend(facts.into_iter().filter(|(_, value)| !value.is_empty()));
    if head.facts.iter().any(|(name, _)| *name == "trained on") {
        head.facts.iter_mut().filter(|(name, _)| *name == "trained on").for_each(|(_, rows)| rows.push_str(" rows"));
    }
    head
}

/// The rows of each set; where subjects saw other sets, of each subject.
fn rows(trained: &[(&str, &Record)]) -> String {
    let of = |record: &Record| {
        let sets = record.options["rows"].as_object();
        list(&sets.into_iter().flatten().map(|(set, n)| format!("{n} {set}")).collect::<Vec<_>>())
    };
    let Some((_, first)) = trained.first() else { return String::new() };
    let same = trained.iter().all(|(_, record)| of(record) == of(first));
    if same {
        return of(first);
    }
    trained.iter().map(|(name, record)| format!("{name}: {}", of(record))).collect::<Vec<_>>().join("; ")
}

/// How a subject was trained, in a few words.
fn method(name: &str, record: &Record, named: bool) -> String {
    let train = &record.options["train"];
    let mut text = train["method"].as_str().unwrap_or_default().to_owned();
    if let Some(preset) = train["preset"].as_str() {
        text = format!("{text}, preset {preset}");
    }
    if let Some(steps) = train["steps"].as_u64() {
        text = format!("{text}, {steps} steps");
    }
    if named && name != text { format!("{name} ({text})") } else { text }
}
