//! `eraser bench`, resolved. In: tasks and files; out: options whose files were read once and found sound. Invariant:
//! every named file belongs to a task that is measured.

use super::basics::{check_out, exists, flag, wrong};
use super::eval::{SubjectPlan, recorded, text};
use super::model::ModelPlan;
use super::served::ServedPlan;
use super::values::NamedPath;
use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use crate::shards::Part;
use eraser_eval::BenchOptions;
use eraser_eval::bench::{Plan, Suite, SuiteFile, TaskRows, TextFile, hub_rows, shows_all_examples, tasks};
use eraser_eval::served::Text;
use eraser_model::hub::fetch_rows;
use eraser_model::{Result, suggest};
use std::path::PathBuf;

/// The set of TOFU that is forgotten where none is named.
const FORGET_SET: &str = "forget10";
/// What a file of rows ends in.
const ENDINGS: [&str; 5] = ["jsonl", "json", "csv", "tsv", "parquet"];

/// What to measure, as flags give it.
#[derive(Clone, Debug, Default)]
pub struct BenchRequest {
    /// Tasks, with or without the file of their items.
    pub tasks: Vec<NamedPath>,
    /// Suites, with or without the directory of their files.
    pub suites: Vec<NamedPath>,
    /// The set of TOFU that is to be forgotten: forget10, ..
    pub forget_set: Option<String>,
    /// Files of texts.
    pub texts: Vec<NamedPath>,
    /// Files that the examples of a task come from.
    pub examples: Vec<NamedPath>,
    /// Files with the text before everything else of a task.
    pub preambles: Vec<NamedPath>,
    /// The other settings.
    pub options: BenchOptions,
}

/// `eraser bench`, resolved.
pub struct BenchPlan {
    /// The model of all subjects that are loaded; of those that are served only the tokenizer is read.
    pub model: ModelPlan,
    /// The user has named that model.
    pub model_given: bool,
    /// Who is measured, of those that are loaded.
    pub subjects: Vec<SubjectPlan>,
    /// Subjects that a server has.
    pub served: Vec<ServedPlan>,
    /// What is measured, every file read.
    pub asked: Plan,
    /// The run directory.
    pub dir: PathBuf,
    /// Removes the scores that the directory holds.
    pub force: bool,
    /// How much of it is done.
    pub part: Part,
}

impl BenchPlan {
    /// Does this part of it only.
    pub fn take(&mut self, part: Part) {
        self.asked.take_share(part.share());
        self.part = part;
    }

    /// The model as the manifest records it.
    pub(crate) fn recorded_model(&self) -> Result<serde_json::Value> {
        recorded(&self.served, self.model_given, &self.model)
    }

    /// What is known here of the model that servers have.
    pub(crate) fn text(&self) -> Result<Option<Text>> {
        text(&self.served, self.model_given, &self.model)
    }

    /// Checks everything but weights. `problems` are those found so far.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn resolve(
        (model, model_given): (ModelPlan, bool),
        (subjects, served): (Vec<SubjectPlan>, Vec<ServedPlan>),
        request: BenchRequest,
        (dir, force, part): (PathBuf, bool, Part),
        mut problems: Problems,
    ) -> Outcome<Self> {
        check_out(&dir, "--out", &mut problems);
        if !served.is_empty() && !model_given {
            problems.push(
                wrong("--model", "benchmarks need the tokenizer of the model that is served")
                    .hint("name its directory or .gguf file; weights are not read"),
            );
        }
        let named = request.tasks.len() + request.suites.len() + request.texts.len();
        let options = options(request, &mut problems);
        // Where all that was named is wrong, that is what is wrong, not that there is nothing to measure.
        let left = options.tasks.len() + options.texts.len();
        let asked = if named > 0 && left == 0 { None } else { Some(Plan::new(&options, &flag)) };
        let asked = asked.and_then(|asked| asked.map_err(|errors| problems.extend(errors.into())).ok());
        let asked = asked.map(|mut asked| {
            asked.take_share(part.share());
            asked
        });
        let here = asked.as_ref().map(Plan::need_weights).filter(|tasks| !served.is_empty() && !tasks.is_empty());
        if let Some(tasks) = here {
            let error = wrong("--subject", format!("a server cannot be asked {}", tasks.join(", ")));
            problems.push(error.hint("measure them on a model that is loaded here, by --model without --subject"));
        }
        problems.finish(asked.map(|asked| Self { model, model_given, subjects, served, asked, dir, force, part }))
    }
}

/// The rows of a task, from the hub or its cache; with examples, those of the split that is meant for them. `forget` is
/// the set to be forgotten, of a task that has several.
fn from_hub(task: &str, shots: usize, forget: &str) -> Result<TaskRows> {
    let rows = hub_rows(task)?;
    let fetch = |split: &str| fetch_rows(rows.dataset, &SuiteFile::on_hub(&rows.file(split), forget));
    let shown = shots > 0 || shows_all_examples(task);
    let examples = rows.examples.filter(|_| shown).map(fetch).transpose()?;
    Ok(TaskRows { task: task.to_owned(), path: fetch(rows.split)?, examples, preamble: None })
}

/// The tasks of a suite: from the files of a directory, or from the hub.
fn of_suite(asked: &NamedPath, shots: usize, forget: &str, problems: &mut Problems) -> Vec<TaskRows> {
    let (name, dir) = match &asked.name {
        Some(name) => (name.clone(), Some(asked.path.as_path())),
        None => (asked.path.to_string_lossy().into_owned(), None),
    };
    let Some(suite) = problems.ok(Suite::find(&name).map_err(|e| e.context("--suite"))) else { return Vec::new() };
    let Some(dir) = dir else {
        let fetched = |file: &SuiteFile| from_hub(file.task, shots, forget).map_err(|e| e.context("--suite"));
        return suite.files.iter().filter_map(|file| problems.ok(fetched(file))).collect();
    };
    if !dir.is_dir() {
        let error = wrong("--suite", format!("{}: no such directory", dir.display()));
        problems.push(error.hint("name the directory that holds the files of the suite, as tofu=DIR"));
        return Vec::new();
    }
    let found = |names: &[String]| {
        let files = names.iter().flat_map(|name| ENDINGS.map(|ending| dir.join(format!("{name}.{ending}"))));
        files.into_iter().find(|file| file.is_file())
    };
    let mut tasks = Vec::new();
    for file in suite.files {
        let names = file.names(forget);
        let examples: Vec<String> = file.examples().iter().map(|name| (*name).to_owned()).collect();
        match found(&names) {
            Some(path) => {
                tasks.push(TaskRows { task: file.task.into(), path, examples: found(&examples), preamble: None });
            }
            None if file.optional => {}
            None => {
                let error = wrong("--suite", format!("{}: no file {}", dir.display(), names.join(" or ")));
                problems.push(error.hint(format!("it ends in .{}", ENDINGS.join(", ."))));
            }
        }
    }
    if tasks.is_empty() && suite.files.iter().all(|file| file.optional) {
        let names: Vec<String> = suite.files.iter().flat_map(|file| file.names(forget).into_iter().take(1)).collect();
        let error = wrong("--suite", format!("{}: none of the files of {name}", dir.display()));
        problems.push(error.hint(format!("they are {}, each ending in .{}", names.join(", "), ENDINGS.join(", ."))));
    }
    tasks
}

fn options(request: BenchRequest, problems: &mut Problems) -> BenchOptions {
    let BenchRequest { tasks: asked, suites, forget_set, texts, examples, preambles, mut options } = request;
    let forget = forget_set.as_deref().unwrap_or(FORGET_SET);
    let assets = Assets::InCache;
    let located = |flag: &str, path: &PathBuf, problems: &mut Problems| {
        let found = assets.locate(path).and_then(|path| exists(&path).map(|()| path));
        problems.ok(found.map_err(|e| e.context(flag)))
    };
    for NamedPath { name, path } in &asked {
        if let Some(task) = name.clone() {
            let found = located("--tasks", path, problems);
            options.tasks.extend(found.map(|path| TaskRows { task, path, ..TaskRows::default() }));
        } else if let Some(task) = tasks().find(|task| path.as_os_str() == *task) {
            options.tasks.extend(problems.ok(from_hub(task, options.shots, forget).map_err(|e| e.context("--tasks"))));
        } else if !path.exists() {
            let text = path.to_string_lossy();
            let error = wrong("--tasks", format!("there is no task `{text}`"));
            problems.push(suggest(error, &text, &tasks().collect::<Vec<_>>()));
        } else {
            let error = wrong("--tasks", format!("{}: of which task are these items?", path.display()));
            problems.push(
                error
                    .hint("write it as TASK=FILE, for example arc_easy=test.jsonl")
                    .hint("the name of a task alone takes its items from the Hugging Face hub"),
            );
        }
    }
    for suite in &suites {
        options.tasks.extend(of_suite(suite, options.shots, forget, problems));
    }
    // Fetched tasks have the set in their names as well.
    let names_set =
        |suite: &NamedPath| suite.name.as_deref().map_or(suite.path.as_os_str() == "tofu", |name| name == "tofu");
    if forget_set.is_some() && !suites.iter().any(names_set) {
        problems.push(
            wrong("--forget-set", "no suite is measured that has one").hint("add --suite tofu=DIR, or leave it out"),
        );
    } else if !forget.strip_prefix("forget").is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit())) {
        let error = wrong("--forget-set", format!("`{forget}` is no set of TOFU"));
        problems.push(error.hint("forget01, forget05 and forget10 are its sets"));
    }
    if let Some(dir) = &options.retain_log
        && !dir.is_dir()
    {
        let error = wrong("--retain-log", format!("{}: no such directory", dir.display()));
        problems.push(error.hint("name the --out of `eraser bench` on the retain model, or its bench/SUBJECT"));
        options.retain_log = None;
    }
    for (flag, files) in [("--examples", &examples), ("--preamble", &preambles)] {
        for NamedPath { name, path } in files {
            let path = located(flag, path, problems);
            let rows = options.tasks.iter_mut().find(|rows| Some(&rows.task) == name.as_ref());
            let of_asked = asked.iter().any(|task| {
                name.is_some() && (task.name == *name || task.path.as_os_str() == name.as_deref().unwrap_or_default())
            });
            match (rows, path) {
                (Some(rows), Some(path)) if flag == "--examples" => rows.examples = Some(path),
                (Some(rows), Some(path)) => rows.preamble = Some(path),
                // What is wrong with that task or file was said.
                (_, None) => {}
                (None, _) if of_asked => {}
                (None, Some(path)) => {
                    let error = wrong(flag, format!("{} is for no task that is measured", path.display()));
                    problems.push(error.hint("write it as TASK=FILE, with a TASK that --tasks names"));
                }
            }
        }
    }
    for NamedPath { name, path } in &texts {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let name = name.clone().or(stem).unwrap_or_default();
        options.texts.extend(located("--text", path, problems).map(|path| TextFile { name, path }));
    }
    options
}
