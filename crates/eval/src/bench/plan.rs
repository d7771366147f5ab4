//! From options to prompts: files are read, tasks looked up, examples put before each question. Invariant: a plan is
//! made only if every file is sound, and all that is wrong is reported at once.

use super::item::Item;
use super::metric::Metric;
use super::options::{BenchOptions, TaskRows};
use super::results::ItemScore;
use super::shots::Shots;
use super::{Fields, Form, Task, Written, find, shows_all_examples};
use crate::name::{self, At, Checked};
use eraser_data::{Journal, Share, read_rows, read_text};
use eraser_model::{Error, Result, counted};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The tasks that a retain model is compared on, with the metrics that this needs, and whether it must have them.
const LOGGED: [(&str, &[Metric], bool); 4] = [
    ("tofu_forget", &[Metric::Ratio, Metric::MinK], true),
    ("tofu_holdout", &[Metric::MinK], false),
    ("muse_forget", &[Metric::MinK], true),
    ("muse_holdout", &[Metric::MinK], true),
];

/// Everything to score for each subject, in order.
pub struct Plan {
    options: BenchOptions,
    pub(crate) jobs: Vec<Job>,
    /// What a retain model made of the sets.
    pub(crate) retain: Option<Reference>,
    /// How much of it this process does.
    pub(crate) share: Share,
}

/// One task or text.
pub(crate) struct Job {
    /// Its name, and that of its file of scores.
    pub(crate) name: String,
    pub(crate) work: Work,
}

/// What is scored.
pub(crate) enum Work {
    /// Questions, each with all the text before it.
    Items { metrics: &'static [Metric], form: Form, items: Vec<PromptedItem> },
    /// A text.
    Text(String),
}

/// What a retain model made of the sets: its scores, by task.
pub(crate) type Reference = BTreeMap<&'static str, Vec<ItemScore>>;

impl Job {
    /// What is computed of each item.
    pub(crate) fn metrics(&self) -> &'static [Metric] {
        match &self.work {
            Work::Items { metrics, .. } => metrics,
            Work::Text(_) => &[Metric::Perplexity],
        }
    }

    /// Whether a server cannot do it: it has no text written, nor the likeliest token told.
    fn needs_weights(&self) -> bool {
        let form = matches!(self.work, Work::Items { form: Form::Written(_) | Form::Chat { .. }, .. });
        form || self.metrics().iter().any(|metric| metric.needs_likeliest())
    }
}

/// An item after its examples.
pub(crate) struct PromptedItem {
    /// Put before the context of every choice.
    pub(crate) before: String,
    pub(crate) item: Item,
}

impl Plan {
    /// Does only this share of it.
    pub fn take_share(&mut self, share: Share) {
        self.share = share;
    }

    /// Reads every file and looks up every name; `at` says what an option is called.
    ///
    /// # Errors
    /// Everything that is wrong: unknown tasks, missing or malformed files, values out of range.
    pub fn new(options: &BenchOptions, at: At<'_>) -> Checked<Self> {
        let mut errors = Vec::new();
        let mut wrong = |bad: bool, field: &str, message: &str, hint: &str| {
            if bad {
                errors.push(Error::request(format!("{}: {message}", at(field))).hint(hint));
            }
        };
        wrong(
            options.tasks.is_empty() && options.texts.is_empty(),
            "tasks",
            "nothing to measure: no task and no text",
            "name the file of a task, as arc_easy=FILE, or of a text",
        );
        wrong(options.limit == Some(0), "limit", "must be at least 1", "leave it out to score every item");
        wrong(options.window == 0, "window", "must be at least 1", "1024 is the usual value");
        wrong(
            options.max_new_tokens == Some(0),
            "max_new_tokens",
            "must be at least 1",
            "leave it out for as many as each task has",
        );
        let drawn = |t: &TaskRows| t.examples.is_some() && !shows_all_examples(&t.task);
        wrong(
            options.shots == 0 && options.tasks.iter().any(drawn),
            "examples",
            "rows for examples are given, but no examples are asked for",
            &format!("say how many by {}, or leave the rows out", at("shots")),
        );
        let names = options.tasks.iter().map(|t| t.task.as_str()).chain(options.texts.iter().map(|t| t.name.as_str()));
        let wrong_names = names.clone().filter_map(|name| name::check("task", name).err());
        let wrong_names = wrong_names.chain(name::duplicates("task", names.clone()));
        errors.extend(wrong_names.map(|e| e.context(at("tasks"))));
        let mut jobs = Vec::new();
        for rows in &options.tasks {
            match find(&rows.task).map_err(|e| vec![e]).and_then(|task| prompted(task, rows, options)) {
                Ok(work) => jobs.push(Job { name: rows.task.clone(), work }),
                Err(wrong) => errors.extend(wrong),
            }
        }
        for text in &options.texts {
            let content = read_text(&text.path).and_then(|content| {
                if content.trim().is_empty() {
                    return Err(Error::request(format!("{}: the text is empty", text.path.display())));
                }
                Ok(content)
            });
            match content {
                Ok(content) => jobs.push(Job { name: text.name.clone(), work: Work::Text(content) }),
                Err(error) => errors.push(error),
            }
        }
        let retain = options.retain_log.as_deref().map(|dir| reference(dir, &jobs, options, &at("retain_log")));
        let retain = retain.transpose().unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        if errors.is_empty() {
            Ok(Self { options: options.clone(), jobs, retain, share: Share::Whole })
        } else {
            Err(errors)
        }
    }

    /// The tasks that only a model that is loaded can be asked.
    pub fn need_weights(&self) -> Vec<&str> {
        self.jobs.iter().filter(|job| job.needs_weights()).map(|job| job.name.as_str()).collect()
    }

    /// The files that a retain model's scores are read from.
    pub fn retain_files(&self) -> Vec<PathBuf> {
        let home = self.options.retain_log.as_deref().map(scores_in);
        let files = home.iter().flat_map(|home| LOGGED.map(|(task, ..)| home.join(format!("{task}.jsonl"))));
        files.filter(|file| file.exists()).collect()
    }

    /// The options that it was made of.
    pub fn options(&self) -> &BenchOptions {
        &self.options
    }
}

/// The directory of a retain model's scores: in a run directory those of the only subject, or of the base; else `dir`.
fn scores_in(dir: &Path) -> PathBuf {
    let home = dir.join("bench");
    let subjects = std::fs::read_dir(&home).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let subjects: Vec<PathBuf> = subjects.filter(|path| path.is_dir()).collect();
    match subjects.as_slice() {
        [] => dir.to_owned(),
        [only] => only.clone(),
        _ => home.join(crate::summary::BASE),
    }
}

/// Reads what a retain model made of the sets of `jobs`.
fn reference(dir: &Path, jobs: &[Job], options: &BenchOptions, at: &str) -> Result<Reference> {
    if !options.tasks.iter().any(|rows| LOGGED.iter().any(|(task, ..)| rows.task == *task)) {
        return Err(Error::request(format!("{at}: no task is measured that is compared with a retain model"))
            .hint("add --suite tofu=DIR or muse=DIR, or leave it out"));
    }
    let home = scores_in(dir);
    let mut reference = Reference::new();
    for (task, metrics, needed) in LOGGED {
        // Where its own file has an error, that was told.
        let Some(Work::Items { items, .. }) = jobs.iter().find(|job| job.name == task).map(|job| &job.work) else {
            continue;
        };
        let path = home.join(format!("{task}.jsonl"));
        if !needed && !path.exists() {
            continue;
        }
        let scores: Vec<ItemScore> = Journal::look(&path).map_err(|e| {
            e.context(at).hint("measure the retain model first, with the same suite and --out OUT; then name OUT here")
        })?;
        let wrong =
            |what: String, hint: &str| Err(Error::request(format!("{at}: {}: {what}", path.display())).hint(hint));
        if scores.len() != items.len() {
            let found = counted(scores.len(), "item");
            let hint = "measure both models on the same file, with the same --limit";
            return wrong(format!("{found}, and the task has {}", items.len()), hint);
        }
        let lacks = |metric: &&Metric| scores.iter().any(|score| !score.metrics.contains_key(metric.name()));
        if let Some(metric) = metrics.iter().find(lacks) {
            return wrong(format!("a line has no `{}`", metric.name()), "measure the retain model again");
        }
        reference.insert(task, scores);
    }
    Ok(reference)
}

fn prompted(task: &Task, rows: &TaskRows, options: &BenchOptions) -> Checked<Work> {
    let mut errors = Vec::new();
    let is_chat = matches!(task.form, Form::Chat { .. } | Form::Whole);
    if is_chat && (rows.examples.is_some() || rows.preamble.is_some()) {
        let what = if rows.examples.is_some() { "examples" } else { "a preamble" };
        errors.push(
            Error::request(format!("{}: nothing is put before the rows of this task, and so not {what}", rows.task))
                .hint("leave its file out"),
        );
    }
    if shows_all(task) && rows.examples.is_none() {
        errors.push(
            Error::request(format!("{}: the rows of its examples are missing", rows.task))
                .hint(format!("name them by --examples {}=FILE (forget_qa_icl, retain_qa_icl)", rows.task)),
        );
    }
    let wanted = if is_chat { 0 } else { options.shots };
    let mut read = |path: &Path| {
        items(task, path).unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        })
    };
    let items = read(&rows.path);
    let others = rows.examples.as_deref().map(&mut read);
    let preamble = rows.preamble.as_deref().map(read_text).transpose().unwrap_or_else(|error| {
        errors.push(error);
        None
    });
    if !errors.is_empty() {
        return Err(errors);
    }
    let preamble = preamble.map(|text| format!("{}\n\n", text.trim_end())).unwrap_or_default();
    let candidates = others.as_deref().unwrap_or(&items);
    let all = shows_all(task).then(|| others.as_deref().map(<[_]>::len).unwrap_or_default());
    let shots = Shots::draw(candidates, wanted, others.is_none(), options.seed, &rows.task);
    let mut prompted = Vec::new();
    for (row, item) in items.iter().enumerate().take(options.limit.unwrap_or(usize::MAX)) {
        let examples = all.map_or_else(|| shots.of(row, item), |all| (0..all).collect());
        if all.is_none() && examples.len() < wanted {
            let (path, found) = (rows.examples.as_ref().unwrap_or(&rows.path).display(), examples.len());
            let error =
                Error::request(format!("{path}: only {} can be examples for row {}", counted(found, "row"), row + 1));
            return Err(vec![error.hint(format!("give more rows, or fewer than {wanted} examples"))]);
        }
        let examples = examples.iter().filter_map(|&r| candidates.get(r)).map(|e| e.example() + "\n\n");
        let before = [preamble.as_str(), &item.head].into_iter().map(str::to_owned).chain(examples).collect();
        prompted.push(PromptedItem { before, item: item.clone() });
    }
    Ok(Work::Items { metrics: task.metrics, form: task.form, items: prompted })
}

/// Whether all rows for examples are put before each question.
fn shows_all(task: &Task) -> bool {
    matches!(task.form, Form::Written(Written { all_examples: true, .. }))
}

/// The items of a file.
fn items(task: &Task, path: &Path) -> Result<Vec<Item>> {
    let item = |row: &eraser_data::Row| match &row.value {
        Value::Object(map) => (task.item)(&Fields(map)),
        // A list of texts, as MUSE publishes them.
        text @ Value::String(_) => (task.item)(&Fields(&Map::from_iter([("text".to_owned(), text.clone())]))),
        _ => Err(Error::request("not an object")),
    };
    let rows = read_rows(path)?;
    let items = rows.iter().map(|row| item(row).map_err(|e| e.context(format!("{}: {}", path.display(), row.place))));
    items.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::TextFile;
    use proptest::prelude::*;
    use std::fs;

    fn plan(options: &BenchOptions) -> std::result::Result<Vec<Job>, String> {
        Plan::new(options, &name::key).map(|plan| plan.jobs).map_err(|errors| {
            errors.iter().map(|e| format!("{e} {}", e.hints().join(" "))).collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn examples_preamble_and_head_stand_before_the_question() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.jsonl");
        let row = |q: &str| {
            format!(
                "{{\"subject\":\"odd_jobs\",\"question\":\"{q}\",\"choices\":[\"w\",\"x\",\"y\",\"z\"],\"answer\":1}}\n"
            )
        };
        fs::write(&path, row("one?") + &row("two?")).unwrap();
        let preamble = dir.path().join("p.txt");
        fs::write(&preamble, "Listen.\n").unwrap();
        let rows = TaskRows { task: "mmlu".into(), path, preamble: Some(preamble), examples: None };
        let options = BenchOptions { tasks: vec![rows], shots: 1, limit: Some(1), ..BenchOptions::default() };
        let jobs = plan(&options).unwrap();
        let Work::Items { items, .. } = &jobs[0].work else { panic!("items") };
        assert_eq!(items.len(), 1);
        assert_eq!(
            format!("{}{}", items[0].before, items[0].item.choices[1].context),
            "Listen.\n\nThe following are multiple choice questions (with answers) about odd jobs.\n\n\
             two?\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\none?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
        );
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, "{\"question\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":0}\n{\"question\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":2}\n").unwrap();
        let task = |name: &str, path: &Path| TaskRows { task: name.into(), path: path.into(), ..TaskRows::default() };
        let options = BenchOptions {
            tasks: vec![task("arc_easi", &path), task("arc_easy", &path), task("piqa", Path::new("absent.csv"))],
            texts: vec![TextFile { name: "a/b".into(), path: "absent.txt".into() }],
            limit: Some(0),
            window: 0,
            ..BenchOptions::default()
        };
        let all = plan(&options).map(|_| ()).unwrap_err();
        for part in
            ["`arc_easy`?", "a.jsonl: line 2: `gold` is 2", "absent.csv", "a/b", "absent.txt", "`limit`", "`window`"]
        {
            assert!(all.contains(part), "{part} not in\n{all}");
        }
        assert!(plan(&BenchOptions::default()).map(|_| ()).unwrap_err().contains("nothing to measure"));
    }

    proptest! {
        #[test]
        fn any_row_is_an_item_or_an_error(key in "[a-z_0-9]{1,12}", text in "\\PC{0,20}", n in -2i64..5) {
            for (name, task) in crate::bench::TASKS {
                for value in [Value::from(text.clone()), n.into(), serde_json::json!([text, text]), Value::Null] {
                    let mut map = serde_json::Map::new();
                    let texts = "question query goal sentence passage sentence1 subject text category prompt gt premise";
                    for column in texts.split(' ') {
                        map.insert(column.into(), text.clone().into());
                    }
                    for column in ["choices", "endings", "mc1_targets", "answerKey", "gold", "label", "answer", &key] {
                        map.insert(column.into(), value.clone());
                    }
                    if let Ok(item) = (task.item)(&Fields(&map)) {
                        let single = task.form != Form::Choices || *name == "lambada_openai";
                        let enough = single || item.choices.len() > 1;
                        prop_assert!(item.right.len() == item.choices.len() && enough, "{}", name);
                        prop_assert!(item.right.contains(&true));
                    }
                }
            }
        }
    }
}
