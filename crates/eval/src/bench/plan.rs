//! From options to prompts: files are read, tasks looked up, examples put before each question. Invariant: a plan is
//! made only if every file is sound, and all that is wrong is reported at once.

use super::item::{Item, Metric};
use super::options::{BenchOptions, TaskRows};
use super::shots::Shots;
use super::{Fields, Task, find};
use crate::name::{self, At, Checked};
use eraser_data::{Share, read_rows, read_text};
use eraser_model::{Error, Result, counted};
use serde_json::Value;
use std::path::Path;

/// Everything to score for each subject, in order.
pub struct Plan {
    options: BenchOptions,
    pub(crate) jobs: Vec<Job>,
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
    Items { metrics: &'static [Metric], items: Vec<PromptedItem> },
    /// A text.
    Text(String),
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
            options.shots == 0 && options.tasks.iter().any(|t| t.examples.is_some()),
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
        if errors.is_empty() { Ok(Self { options: options.clone(), jobs, share: Share::Whole }) } else { Err(errors) }
    }

    /// The options that it was made of.
    pub fn options(&self) -> &BenchOptions {
        &self.options
    }
}

fn prompted(task: &Task, rows: &TaskRows, options: &BenchOptions) -> Checked<Work> {
    let mut errors = Vec::new();
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
    let shots = Shots::draw(candidates, options.shots, others.is_none(), options.seed, &rows.task);
    let mut prompted = Vec::new();
    for (row, item) in items.iter().enumerate().take(options.limit.unwrap_or(usize::MAX)) {
        let examples = shots.of(row, item);
        if examples.len() < options.shots {
            let (path, found) = (rows.examples.as_ref().unwrap_or(&rows.path).display(), examples.len());
            let error =
                Error::request(format!("{path}: only {} can be examples for row {}", counted(found, "row"), row + 1));
            return Err(vec![error.hint(format!("give more rows, or fewer than {} examples", options.shots))]);
        }
        let examples = examples.iter().filter_map(|&r| candidates.get(r)).map(|e| e.example() + "\n\n");
        let before = [preamble.as_str(), &item.head].into_iter().map(str::to_owned).chain(examples).collect();
        prompted.push(PromptedItem { before, item: item.clone() });
    }
    Ok(Work::Items { metrics: task.metrics, items: prompted })
}

/// The items of a file.
fn items(task: &Task, path: &Path) -> Result<Vec<Item>> {
    let item = |row: &eraser_data::Row| match &row.value {
        Value::Object(map) => (task.item)(&Fields(map)),
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
                    for column in ["question", "query", "goal", "sentence", "passage", "sentence1", "subject"] {
                        map.insert(column.into(), text.clone().into());
                    }
                    for column in ["choices", "endings", "mc1_targets", "answerKey", "gold", "label", "answer", &key] {
                        map.insert(column.into(), value.clone());
                    }
                    if let Ok(item) = (task.item)(&Fields(&map)) {
                        prop_assert!(item.right.len() == item.choices.len() && item.choices.len() > 1, "{}", name);
                    }
                }
            }
        }
    }
}
