//! What an evaluation replaces. In: the requests that the figures of a summary come from, and what is asked now; out: a
//! line for each thing that changes under a name that stays. Invariant: a figure that is measured anew in another way,
//! or that goes because its answers do, is told before the first answer is generated.

use crate::manifest::{Manifest, Record};
use crate::stage::summary::{LIKELIHOOD, TASK};
use eraser_eval::Asked;
use eraser_eval::judge::asks_model;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Files of questions of which a summary has one set.
const ONE_SET: [&str; 2] = ["over-refusal", "contrast"];
/// Attacks that give or search the opening of an answer.
const OPENING: [&str; 4] = ["prefill", "prefill-thought", "gcg", "autodan"];
/// Attacks whose budget is a table of its own.
const SEARCHES: [&str; 2] = ["gcg", "autodan"];

/// What is asked now.
pub(crate) struct Now<'a> {
    /// The hashes of what is read, by name.
    pub(crate) inputs: &'a BTreeMap<String, String>,
    /// The options, as the manifest records them.
    pub(crate) eval: &'a Value,
}

/// A figure that was measured before, taken apart.
struct Earlier<'a> {
    file: String,
    set: String,
    /// Empty for what is no attack.
    judge: String,
    record: &'a Record,
}

/// What an evaluation of `asked` on `subjects` replaces that was measured on other files or under other settings, in a
/// line each.
pub(crate) fn replaced(manifest: &Manifest, subjects: &[&str], asked: &BTreeSet<Asked>, now: &Now<'_>) -> Vec<String> {
    let earlier: Vec<Earlier<'_>> =
        manifest.figures().filter_map(|(figure, r)| taken_apart(figure, r, subjects)).collect();
    let questions: BTreeSet<(&str, &str)> = asked.iter().map(|a| (a.file.as_str(), a.set.as_str())).collect();
    let mut notes = BTreeSet::new();
    for (file, set) in &questions {
        for before in earlier.iter().filter(|e| e.file == *file && e.set == *set) {
            let (what, found) = (told(file, set), differences(before, now));
            notes.extend(found.iter().map(|how| format!("{what}: earlier figures are {how}; they are replaced")));
            let judged = before.judge.is_empty() || asked.iter().any(|a| a.judge == before.judge);
            if !found.is_empty() && !judged {
                let judge = &before.judge;
                notes.insert(format!("{what}: figures under {judge} go with the answers that it judged"));
            }
        }
        let other = |e: &&Earlier<'_>| ONE_SET.contains(file) && e.file == *file && e.set != *set;
        for before in earlier.iter().filter(other) {
            let other = &before.set;
            notes.insert(format!(
                "{file}: figures of {other} are left out: the summary has one set, and {set} is asked now"
            ));
        }
    }
    notes.into_iter().collect()
}

/// The parts of a figure's name; None of another subject, and of benchmarks.
fn taken_apart<'a>(figure: &str, record: &'a Record, subjects: &[&str]) -> Option<Earlier<'a>> {
    record.options["eval"].as_object()?;
    let mut parts = figure.splitn(5, '/');
    let (kind, subject, third) = (parts.next()?, parts.next()?, parts.next()?.to_owned());
    if !subjects.contains(&subject) {
        return None;
    }
    let empty = String::new();
    let (file, set, judge) = match kind {
        "attack" => (third, parts.next()?.to_owned(), parts.next()?.to_owned()),
        "utility" => (format!("{TASK}{third}"), third, empty),
        other => (other.to_owned(), third, empty),
    };
    Some(Earlier { file, set, judge, record })
}

/// A file of answers and a set in words.
fn told(file: &str, set: &str) -> String {
    match file.strip_prefix(TASK) {
        Some(task) => format!("task {task}"),
        None if file == LIKELIHOOD => format!("{file} of {set}"),
        None => format!("{file} on {set}"),
    }
}

/// How an earlier figure was measured in another way than is asked now.
fn differences(earlier: &Earlier<'_>, now: &Now<'_>) -> Vec<String> {
    let Earlier { file, set, judge, record } = earlier;
    let eval = &record.options["eval"];
    let differs = |of: &dyn Fn(&str) -> bool| {
        let all = |inputs: &BTreeMap<String, String>| -> Vec<(String, String)> {
            inputs.iter().filter(|(name, _)| of(name)).map(|(n, h)| (n.clone(), h.clone())).collect()
        };
        all(&record.inputs) != all(now.inputs)
    };
    let mut found = Vec::new();
    let (list, inputs) = match file.as_str() {
        file if file.starts_with(TASK) => ("tasks", "task"),
        LIKELIHOOD => ("likelihood_set", LIKELIHOOD),
        _ => ("questions", "questions"),
    };
    if differs(&|name| name == format!("{inputs} {set}")) {
        let files = paths(&eval[list], &|e| e["set"] == set.as_str() || e["task"] == set.as_str());
        let other = if inputs == LIKELIHOOD { "answers" } else { "questions" };
        found.push(format!("of other {other}{files}"));
    }
    if ["template", "autodan", LIKELIHOOD].contains(&file.as_str()) && differs(&|name| name.starts_with("template ")) {
        found.push(format!("under other templates{}", paths(&eval["templates"], &|_| true)));
    }
    let changed: Vec<String> = keys(file, judge, now.eval)
        .into_iter()
        .filter(|key| at(eval, key) != at(now.eval, key))
        .map(|key| format!("{key} {}, now {}", shown(at(eval, &key)), shown(at(now.eval, &key))))
        .collect();
    if !changed.is_empty() {
        found.push(format!("under other settings ({})", changed.join("; ")));
    }
    found
}

/// The settings that a figure depends on, as keys of `[eval]`.
fn keys(file: &str, judge: &str, now: &Value) -> Vec<String> {
    let mut keys = vec!["limit".to_owned()];
    let mut add = |more: &[&str]| keys.extend(more.iter().map(|key| (*key).to_owned()));
    if file == LIKELIHOOD {
        add(&["likelihood_cuts"]);
        return keys;
    }
    add(&["max_new_tokens"]);
    if !file.starts_with(TASK) {
        add(&["temperature"]);
    }
    let drawn = now["temperature"].as_f64().is_some_and(|t| t > 0.0) && !file.starts_with(TASK);
    if drawn || SEARCHES.contains(&file) {
        add(&["seed"]);
    }
    if OPENING.contains(&file) {
        add(&["target"]);
    }
    if asks_model(judge) {
        add(&["judge.model", "judge.endpoint_model", "judge.tokenizer"]);
    }
    if SEARCHES.contains(&file) {
        keys.extend(now[file].as_object().into_iter().flatten().map(|(key, _)| format!("{file}.{key}")));
    }
    keys
}

/// The value of a key, which may be one of a table.
fn at<'a>(eval: &'a Value, key: &str) -> &'a Value {
    key.split('.').fold(eval, |value, part| &value[part])
}

fn shown(value: &Value) -> String {
    if value.is_null() { "not given".to_owned() } else { value.to_string() }
}

/// The names of the files in a list of options, in parentheses.
fn paths(list: &Value, of: &dyn Fn(&Value) -> bool) -> String {
    let path = |entry: &Value| entry.as_str().or(entry["path"].as_str()).map(str::to_owned);
    let names = list.as_array().into_iter().flatten().filter(|e| of(e)).filter_map(path);
    let names = names.map(|p| Path::new(&p).file_name().unwrap_or_default().to_string_lossy().into_owned());
    let names: Vec<String> = names.collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}
