//! Questions that were trained on. In: the question files of an evaluation, the sets that its adapters were trained on;
//! out: errors, and notes on near duplicates. Invariant: two texts are the same here exactly if preparation takes them
//! for the same.

use crate::likelihood::BENIGN;
use crate::name::Checked;
use crate::options::{EvalOptions, QuestionSet};
use eraser_data::prepare::{Sketches, normal};
use eraser_data::{Question, SetName, read_questions, read_set};
use eraser_model::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Compares the questions of every set, tasks and benign questions included, with what was trained on: `restricted` are
/// files of harm and align sets, `benign` of help and retain sets. Gives a note for everything that a reader of the
/// figures must know: near duplicates, questions that are allowed to have been trained on, benign ones that were, and a
/// set called `seen` that was not.
///
/// # Errors
/// A restricted question that was trained on and is not allowed; a file that cannot be read.
pub fn leakage(options: &EvalOptions, restricted: &[PathBuf], benign: &[PathBuf]) -> Checked<Vec<String>> {
    let mut errors = Vec::new();
    let mut read = |files: &[PathBuf]| -> Vec<(PathBuf, Vec<String>)> {
        let mut texts = Vec::new();
        for path in files {
            // A retain set can hold running text, which is no question.
            match SetName::Retain.read(path) {
                Ok(rows) => texts
                    .push((path.clone(), rows.into_iter().filter(|row| !row.is_text()).map(|row| row.input).collect())),
                Err(error) => errors.push(error),
            }
        }
        texts
    };
    let (texts, kept) = (read(restricted), read(benign));
    let mut notes = Vec::new();
    if texts.is_empty() && kept.is_empty() {
        return if errors.is_empty() { Ok(notes) } else { Err(errors) };
    }
    let by_text = |texts: &[(PathBuf, Vec<String>)]| -> HashMap<String, PathBuf> {
        let all = texts.iter().flat_map(|(path, texts)| texts.iter().map(move |text| (normal(text), path.clone())));
        all.collect()
    };
    let (files, kept) = (by_text(&texts), by_text(&kept));
    let sketches: Vec<(&Path, Sketches)> =
        texts.iter().map(|(path, texts)| (path.as_path(), Sketches::new(texts.iter().map(String::as_str)))).collect();
    for Asked { name, path, read, harmless } in asked(options) {
        let allowed = options.allow_leakage.iter().any(|n| n == name);
        let mut questions = match read(path) {
            Ok(questions) => questions,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        // Each is asked once.
        let mut different = HashSet::new();
        questions.retain(|(_, text)| different.insert(normal(text)));
        questions.truncate(options.limit.unwrap_or(usize::MAX));
        let all = questions.len();
        let found = |files: &HashMap<String, PathBuf>| -> Vec<(String, PathBuf)> {
            questions.iter().filter_map(|(id, text)| Some((id.clone(), files.get(&normal(text))?.clone()))).collect()
        };
        let leaked = found(&files);
        match leaked.first() {
            Some((id, file)) if !allowed => {
                errors.push(told(path, name, id, file, [leaked.len(), all]));
                continue;
            }
            Some(_) if name != SEEN => {
                let n = leaked.len();
                notes.push(format!("{n} of {all} questions of `{name}` were trained on, which was allowed"));
            }
            _ if name == SEEN && leaked.len() < all && !texts.is_empty() => {
                let n = all - leaked.len();
                notes.push(format!("{n} of {all} questions of `{SEEN}` are not among those that were trained on"));
            }
            _ => {}
        }
        let inside = if harmless { found(&kept) } else { Vec::new() };
        if let Some((_, file)) = inside.first() {
            let (n, file) = (inside.len(), file.file_stem().unwrap_or_default().to_string_lossy());
            notes.push(format!("{n} of {all} questions of `{name}` are in the {file} set, which was trained on"));
        }
        if allowed {
            continue;
        }
        let found = Sketches::new(questions.iter().map(|(_, text)| text.as_str()));
        for (file, sketches) in &sketches {
            let near = found.against(sketches).near;
            if near > 0 {
                let set = file.file_stem().unwrap_or_default().to_string_lossy();
                notes.push(format!(
                    "{near} of {all} questions of `{name}` are nearly the same as questions of the {set} set, which was \
                     trained on"
                ));
            }
        }
    }
    if errors.is_empty() { Ok(notes) } else { Err(errors) }
}

/// The name of the set that holds what was trained on.
const SEEN: &str = "seen";

/// What is asked, or whose answers are measured.
struct Asked<'a> {
    name: &'a str,
    path: &'a Path,
    read: Read<'a>,
    /// Its answers are to stay as they are.
    harmless: bool,
}

/// Reads ids and texts of the questions of a file.
type Read<'a> = Box<dyn Fn(&Path) -> Result<Vec<(String, String)>> + 'a>;

/// Everything that is asked, or whose answers are measured: those of benign sets are trained on by design.
fn asked(options: &EvalOptions) -> impl Iterator<Item = Asked<'_>> {
    let attacked = options.questions.iter().chain(&options.contrast).map(|set| (set, false));
    let sets = attacked.chain(options.over_refusal.iter().map(|set| (set, true))).map(|(set, harmless)| Asked {
        name: &set.set,
        path: &set.path,
        read: questions(set.column.as_deref()),
        harmless,
    });
    let tasks = options.tasks.iter().map(|task| Asked {
        name: &task.task,
        path: &task.path,
        read: questions(None),
        harmless: true,
    });
    let answered = options.likelihood_set.iter().filter(|set| !set.set.starts_with(BENIGN));
    let answered = answered.map(|set| {
        let read = |path: &Path| -> Result<Vec<(String, String)>> {
            let rows = read_set(path)?.into_iter().enumerate();
            Ok(rows.map(|(i, row)| (format!("row {}", i + 1), row.input)).collect())
        };
        Asked { name: &set.set, path: &set.path, read: Box::new(read) as Read<'_>, harmless: false }
    });
    sets.chain(tasks).chain(answered)
}

/// Reads a file of questions.
fn questions(column: Option<&str>) -> Read<'_> {
    Box::new(move |path| Ok(read_questions(path, column)?.into_iter().map(|q| (q.id, q.text)).collect()))
}

fn told(path: &Path, set: &str, id: &str, file: &Path, [n, all]: [usize; 2]) -> Error {
    let (path, file) = (path.display(), file.display());
    let what = match n {
        1 => format!("{path}: question `{id}` of `{set}` was trained on: it is in {file}"),
        _ => format!("{path}: {n} of {all} questions of `{set}` were trained on; the first, `{id}`, is in {file}"),
    };
    Error::request(what)
        .hint("leave out what was trained on, or name the set `seen`: figures of other sets are read as those of new questions")
        .hint(format!(
            "or allow it by name: --allow-leakage {set}, in a run file allow_leakage = [\"seen\", \"{set}\"] under [eval]"
        ))
}

/// An error for every two of `sets` that hold the same questions, unless both are `allowed`.
pub(crate) fn same(sets: &[(&QuestionSet, Vec<Question>)], allowed: &[String]) -> Vec<Error> {
    let texts = |questions: &[Question]| questions.iter().map(|q| normal(&q.text)).collect::<Vec<_>>();
    let texts: Vec<Vec<String>> = sets.iter().map(|(_, questions)| texts(questions)).collect();
    let mut errors = Vec::new();
    for (i, (set, _)) in sets.iter().enumerate() {
        let twin = (0..i).find(|&j| !texts[i].is_empty() && texts[i] == texts[j]);
        let Some((first, _)) = twin.map(|j| &sets[j]) else { continue };
        if [&set.set, &first.set].iter().all(|name| allowed.contains(name)) && set.set != first.set {
            continue;
        }
        let (a, b, path) = (&first.set, &set.set, set.path.display());
        errors.push(
            Error::request(format!("{path}: the question sets `{a}` and `{b}` hold the same questions"))
                .hint("give every set a file, or rows, of its own")
                .hint(format!("or allow it by name: --allow-leakage {b}")),
        );
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::likelihood::AnswerSet;

    #[test]
    fn what_was_trained_on_is_named_and_what_is_near_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let long = "explain to a beginner how the bread in this village is baked in winter";
        let row = |text: &str| format!("{{\"input\":\"{text}\",\"output\":\"x\"}}\n");
        let harm = write("harm.jsonl", &(row("How do I bake?") + &row(long)));
        let ask = |text: &str, limit, allowed: &[&str]| {
            let path = write("ask.txt", text);
            let questions = vec![QuestionSet { set: "unseen".into(), path, column: None }];
            let allow_leakage = allowed.iter().map(ToString::to_string).collect();
            let options = EvalOptions { questions, allow_leakage, limit, ..EvalOptions::default() };
            leakage(&options, std::slice::from_ref(&harm), &[])
        };
        let errors = ask("what?\nhow do I -- BAKE\n", None, &["seen"]).unwrap_err();
        let text = errors[0].to_string();
        assert!(text.contains("ask.txt: question `") && text.contains("harm.jsonl"), "{text}");
        assert!(errors[0].hints()[1].contains("--allow-leakage unseen"));
        // What was allowed was told nowhere, and read as figures of new questions.
        let allowed = ask("what?\nhow do I bake\n", None, &["unseen"]).unwrap();
        assert_eq!(allowed, ["1 of 2 questions of `unseen` were trained on, which was allowed"]);
        assert!(ask("what?\nhow do I bake\n", Some(1), &[]).unwrap().is_empty(), "the second is not asked");
        let notes = ask(&format!("what?\n{long}s\n"), None, &["seen"]).unwrap();
        assert!(
            notes.len() == 1
                && notes[0]
                    == "1 of 2 questions of `unseen` are nearly the same as questions of the harm set, which was trained on",
            "{notes:?}"
        );
        let path = write("seen.txt", "what?\nhow do I bake\n");
        let seen = QuestionSet { set: "seen".into(), path: path.clone(), column: None };
        let benign = QuestionSet { set: "harmless".into(), path, column: None };
        let options = EvalOptions { questions: vec![seen], over_refusal: Some(benign), ..EvalOptions::default() };
        let options = EvalOptions { allow_leakage: vec!["seen".into(), "harmless".into()], ..options };
        let kept = write("retain.jsonl", &(row("What?") + "{\"text\":\"What?\"}\n"));
        assert_eq!(
            leakage(&options, std::slice::from_ref(&harm), &[kept]).unwrap(),
            [
                "1 of 2 questions of `seen` are not among those that were trained on",
                "1 of 2 questions of `harmless` were trained on, which was allowed",
                "1 of 2 questions of `harmless` are in the retain set, which was trained on",
            ]
        );
        let known = |set: &str| {
            let likelihood_set = vec![AnswerSet { set: set.into(), path: harm.clone() }];
            leakage(&EvalOptions { likelihood_set, ..EvalOptions::default() }, std::slice::from_ref(&harm), &[])
        };
        assert!(known("unseen").unwrap_err()[0].to_string().contains("2 of 2 questions of `unseen`"));
        assert!(known("seen").is_ok() && known("benign").is_ok());
        assert_eq!(leakage(&EvalOptions::default(), &[dir.path().join("none")], &[]).unwrap_err().len(), 1);
    }
}
