//! `eraser bench`, resolved. In: flags; out: options whose files were read once and found sound. Invariant: every named
//! file belongs to a task that is measured.

use super::eval::{SubjectPlan, subjects};
use super::values::Named;
use super::{Home, ModelPlan, wrong};
use crate::errors::{Outcome, Problems};
use crate::options::bench::BenchArgs;
use eraser_eval::BenchOptions;
use eraser_eval::bench::{Bos, TaskRows, TextFile, hub_rows, tasks};
use eraser_model::Result;
use eraser_model::hub::fetch_rows;
use std::path::PathBuf;

/// What to do.
pub(crate) struct BenchPlan {
    pub(crate) model: ModelPlan,
    pub(crate) subjects: Vec<SubjectPlan>,
    pub(crate) options: BenchOptions,
    pub(crate) dir: PathBuf,
    pub(crate) force: bool,
}

impl BenchPlan {
    /// Checks everything but weights.
    pub(crate) fn resolve(args: &BenchArgs) -> Outcome<Self> {
        let mut problems = Problems::default();
        let model = ModelPlan::from_args(&args.model, &mut problems);
        let subjects = subjects(&args.subjects, &mut problems);
        let options = options(args, &mut problems);
        for error in options.check() {
            problems.push(error);
        }
        let (dir, force) = (args.subjects.out.clone(), args.subjects.force);
        problems.finish(Some(Self { model, subjects, options, dir, force }))
    }
}

/// The rows of a task, from the hub or its cache; with examples, those of the split that is meant for them.
fn from_hub(task: &str, shots: usize) -> Result<TaskRows> {
    let rows = hub_rows(task)?;
    let fetch = |split: &str| fetch_rows(rows.dataset, &rows.file(split));
    let examples = rows.examples.filter(|_| shots > 0).map(fetch).transpose()?;
    Ok(TaskRows { task: task.to_owned(), path: fetch(rows.split)?, examples, preamble: None })
}

fn options(args: &BenchArgs, problems: &mut Problems) -> BenchOptions {
    let defaults = BenchOptions::default();
    let mut options = BenchOptions {
        shots: args.shots,
        limit: args.limit,
        seed: args.seed.unwrap_or(defaults.seed),
        window: args.window.unwrap_or(defaults.window),
        bos: match args.bos.as_str() {
            "on" => Bos::On,
            "off" => Bos::Off,
            _ => Bos::Auto,
        },
        ..defaults
    };
    let home = Home::Cache;
    let located = |flag: &str, path: &PathBuf, problems: &mut Problems| {
        problems.ok(home.locate(path).map_err(|e| e.context(flag))).unwrap_or_else(|| path.clone())
    };
    for Named { name, path } in &args.task {
        if let Some(task) = name.clone() {
            options.tasks.push(TaskRows { task, path: located("--task", path, problems), ..TaskRows::default() });
        } else if let Some(task) = tasks().find(|task| path.as_os_str() == *task) {
            options.tasks.extend(problems.ok(from_hub(task, args.shots).map_err(|e| e.context("--task"))));
        } else {
            let error = wrong("--task", format!("{}: of which task are these items?", path.display()));
            problems.push(
                error
                    .hint("write it as TASK=FILE, for example arc_easy=test.jsonl")
                    .hint("the name of a task alone takes its items from the Hugging Face hub"),
            );
        }
    }
    for (flag, files) in [("--examples", &args.examples), ("--preamble", &args.preamble)] {
        for Named { name, path } in files {
            let path = located(flag, path, problems);
            let rows = options.tasks.iter_mut().find(|rows| Some(&rows.task) == name.as_ref());
            match rows {
                Some(rows) if flag == "--examples" => rows.examples = Some(path),
                Some(rows) => rows.preamble = Some(path),
                None => {
                    let error = wrong(flag, format!("{} is for no task that is measured", path.display()));
                    problems.push(error.hint("write it as TASK=FILE, with a TASK that --task names"));
                }
            }
        }
    }
    for Named { name, path } in &args.text {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let name = name.clone().or(stem).unwrap_or_default();
        options.texts.push(TextFile { name, path: located("--text", path, problems) });
    }
    options
}
