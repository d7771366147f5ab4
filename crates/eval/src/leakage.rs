//! Questions that were trained on. In: the question files of an evaluation, the sets that its adapters were trained on;
//! out: errors, and notes on near duplicates. Invariant: two texts are the same here exactly if preparation takes them
//! for the same.

use crate::likelihood::BENIGN;
use crate::name::Checked;
use crate::options::{EvalOptions, QuestionSet};
use eraser_data::prepare::{Sketches, normal};
use eraser_data::{Question, read_questions, read_set};
use eraser_model::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Compares the questions of every set that is not named in `allow_leakage`, tasks and benign questions included, with
/// `trained`: files of harm and align sets. Gives a note for every set with near duplicates.
///
/// # Errors
/// A question that was trained on; a file that cannot be read.
pub fn leakage(options: &EvalOptions, trained: &[PathBuf]) -> Checked<Vec<String>> {
    let mut errors = Vec::new();
    let mut notes = Vec::new();
    let mut texts: Vec<(&Path, Vec<String>)> = Vec::new();
    for path in trained {
        match read_set(path) {
            Ok(rows) => texts.push((path, rows.into_iter().map(|row| row.input).collect())),
            Err(error) => errors.push(error),
        }
    }
    if texts.is_empty() {
        return if errors.is_empty() { Ok(notes) } else { Err(errors) };
    }
    let mut files: HashMap<String, &Path> = HashMap::new();
    for (path, texts) in &texts {
        for text in texts {
            files.entry(normal(text)).or_insert(path);
        }
    }
    let sketches: Vec<(&Path, Sketches)> =
        texts.iter().map(|(path, texts)| (*path, Sketches::new(texts.iter().map(String::as_str)))).collect();
    for (name, path, read) in asked(options).filter(|(name, ..)| !options.allow_leakage.iter().any(|n| n == name)) {
        let mut questions = match read(path) {
            Ok(questions) => questions,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        questions.truncate(options.limit.unwrap_or(usize::MAX));
        let found = |(id, text): &(String, String)| Some((id.clone(), *files.get(&normal(text))?));
        let leaked: Vec<(String, &Path)> = questions.iter().filter_map(found).collect();
        if let Some((id, file)) = leaked.first() {
            errors.push(told(path, name, id, file, [leaked.len(), questions.len()]));
            continue;
        }
        let found = Sketches::new(questions.iter().map(|(_, text)| text.as_str()));
        for (file, sketches) in &sketches {
            let near = found.against(sketches).near;
            if near > 0 {
                let (all, path, file) = (questions.len(), path.display(), file.display());
                notes.push(format!(
                    "{path}: questions of `{name}` that are nearly the same as questions of {file}, which was trained on: \
                     {near} of {all}"
                ));
            }
        }
    }
    if errors.is_empty() { Ok(notes) } else { Err(errors) }
}

/// Reads ids and texts of the questions of a file.
type Read<'a> = Box<dyn Fn(&Path) -> Result<Vec<(String, String)>> + 'a>;

/// Name, file and reading of everything that is asked, or whose answers are measured: those of benign sets are trained
/// on by design.
fn asked(options: &EvalOptions) -> impl Iterator<Item = (&str, &Path, Read<'_>)> {
    let sets = options.questions.iter().chain(&options.over_refusal).chain(&options.contrast);
    let sets = sets.map(|set| (set.set.as_str(), set.path.as_path(), questions(set.column.as_deref())));
    let tasks = options.tasks.iter().map(|task| (task.task.as_str(), task.path.as_path(), questions(None)));
    let answered = options.likelihood_set.iter().filter(|set| !set.set.starts_with(BENIGN));
    let answered = answered.map(|set| {
        let read = |path: &Path| -> Result<Vec<(String, String)>> {
            let rows = read_set(path)?.into_iter().enumerate();
            Ok(rows.map(|(i, row)| (format!("row {}", i + 1), row.input)).collect())
        };
        (set.set.as_str(), set.path.as_path(), Box::new(read) as Read<'_>)
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
            leakage(&options, std::slice::from_ref(&harm))
        };
        let errors = ask("what?\nhow do I -- BAKE\n", None, &["seen"]).unwrap_err();
        let text = errors[0].to_string();
        assert!(text.contains("ask.txt: question `") && text.contains("harm.jsonl"), "{text}");
        assert!(errors[0].hints()[1].contains("--allow-leakage unseen"));
        assert!(ask("what?\nhow do I bake\n", None, &["unseen"]).unwrap().is_empty());
        assert!(ask("what?\nhow do I bake\n", Some(1), &[]).unwrap().is_empty(), "the second is not asked");
        let notes = ask(&format!("what?\n{long}s\n"), None, &["seen"]).unwrap();
        assert!(
            notes.len() == 1
                && notes[0].contains("questions of `unseen` that are nearly the same")
                && notes[0].ends_with(": 1 of 2"),
            "{notes:?}"
        );
        let known = |set: &str| {
            let likelihood_set = vec![AnswerSet { set: set.into(), path: harm.clone() }];
            leakage(&EvalOptions { likelihood_set, ..EvalOptions::default() }, std::slice::from_ref(&harm))
        };
        assert!(known("unseen").unwrap_err()[0].to_string().contains("2 of 2 questions of `unseen`"));
        assert!(known("seen").is_ok() && known("benign").is_ok());
        assert_eq!(leakage(&EvalOptions::default(), &[dir.path().join("none")]).unwrap_err().len(), 1);
    }
}
