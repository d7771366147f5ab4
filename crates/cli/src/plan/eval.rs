//! What to measure, resolved. In: the table `[eval]` of a run file, or flags; out: `EvalOptions` whose files exist.
//! Invariant: a file of which only some rows are meant is written into the run directory, so that the evaluation reads
//! whole files only.

use super::model::Home;
use super::section::Section;
use super::source::{ROW_KEYS, Source, check_path, question_row};
use super::values::Named;
use super::{ModelPlan, wrong};
use crate::errors::{Outcome, Problems};
use crate::options::eval::{EvalArgs, SubjectArgs};
use eraser_data::files::write_jsonl;
use eraser_eval::{EvalOptions, QuestionSet, TaskFile};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use std::path::{Path, PathBuf};

/// The keys of `[eval]` that are lists of files.
const FILE_KEYS: [&str; 4] = ["questions", "tasks", "over_refusal", "contrast"];

/// Questions, with the name of their set or task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) source: Source,
}

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measures {
    /// Everything but the files of questions, which stand below.
    pub(crate) options: EvalOptions,
    pub(crate) questions: Vec<Asked>,
    pub(crate) tasks: Vec<Asked>,
    pub(crate) over_refusal: Option<Asked>,
    pub(crate) contrast: Option<Asked>,
}

impl Measures {
    /// From the table `[eval]`.
    pub(crate) fn from_section(section: &Section<'_>, problems: &mut Problems) -> Self {
        let options = section.settings(&EvalOptions::default(), &FILE_KEYS, |_, _| None, problems);
        let mut measures =
            Self { options, questions: Vec::new(), tasks: Vec::new(), over_refusal: None, contrast: None };
        let templates = std::mem::take(&mut measures.options.templates);
        for path in templates {
            if let Some(path) = problems.ok(section.resolve("templates", &path.display().to_string())) {
                if let Err(e) = check_path(&path) {
                    problems.push(e.context(section.place("templates")));
                }
                measures.options.templates.push(path);
            }
        }
        let asked = |table: &Section<'_>, key: &str, problems: &mut Problems| {
            let known: Vec<&str> = [key].into_iter().chain(ROW_KEYS).collect();
            table.know(&known, problems);
            if table.get(key).is_none() {
                problems.push(table.missing(key));
            }
            let source = Source::rows(table, problems);
            let name: String = table.value(key, problems)?;
            check_name(&name).map_err(|e| problems.push(table.wrong(key, e))).ok()?;
            Some(Asked { name, source: source? })
        };
        for table in section.sections("questions", problems) {
            measures.questions.extend(asked(&table, "set", problems));
        }
        for table in section.sections("tasks", problems) {
            measures.tasks.extend(asked(&table, "task", problems));
        }
        if section.get("over_refusal").is_some() {
            measures.over_refusal = asked(&section.section("over_refusal", problems), "set", problems);
        }
        if section.get("contrast").is_some() {
            measures.contrast = asked(&section.section("contrast", problems), "set", problems);
        }
        if measures.options.judge.model.is_some() {
            measures.options.judge.model = ModelPlan::spec(&section.section("judge", problems), "model", problems);
        }
        let given = |key: &str| section.get(key).is_some();
        measures.check(&|field| format!("{}: `{field}`", section.place(field)), &given, problems);
        measures
    }

    /// From flags.
    pub(crate) fn from_args(args: &EvalArgs, problems: &mut Problems) -> Self {
        let EvalArgs { measures: m, sampling: s, .. } = args;
        let mut options = EvalOptions {
            attacks: m.attacks.clone(),
            templates: m.templates.clone(),
            judges: m.judges.clone(),
            limit: m.limit,
            ..EvalOptions::default()
        };
        if let Some(target) = &m.target {
            options.target.clone_from(target);
        }
        options.judge.model.clone_from(&m.judge_model);
        options.judge.endpoint.clone_from(&m.judge_endpoint);
        options.judge.endpoint_model.clone_from(&m.judge_endpoint_model);
        options.judge.endpoint_key_env.clone_from(&m.judge_key_env);
        let gcg = &mut options.gcg;
        gcg.steps = m.gcg_steps.unwrap_or(gcg.steps);
        gcg.candidates = m.gcg_candidates.unwrap_or(gcg.candidates);
        gcg.suffix = m.gcg_suffix.unwrap_or(gcg.suffix);
        gcg.seconds = m.gcg_seconds.or(gcg.seconds);
        let autodan = &mut options.autodan;
        autodan.generations = m.autodan_generations.unwrap_or(autodan.generations);
        autodan.population = m.autodan_population.unwrap_or(autodan.population);
        autodan.seconds = m.autodan_seconds.or(autodan.seconds);
        options.max_new_tokens = s.max_new_tokens.unwrap_or(options.max_new_tokens);
        options.batch = s.batch.unwrap_or(options.batch);
        options.temperature = s.temperature.unwrap_or(options.temperature);
        options.seed = s.seed.unwrap_or(options.seed);
        for path in &options.templates {
            if let Err(e) = check_path(path) {
                problems.push(e.context("--template"));
            }
        }
        let mut asked = |flag: &str, named: &Named, default: Option<&str>, column: bool| {
            let stem = named.path.file_stem().map(|s| s.to_string_lossy().into_owned());
            let name = named.name.clone().or(default.map(ToOwned::to_owned)).or(stem).unwrap_or_default();
            if let Err(e) = check_name(&name) {
                problems.push(wrong(flag, e).hint("give it a name as NAME=FILE"));
            }
            if let Err(e) = check_path(&named.path) {
                problems.push(e.context(flag));
            }
            let input = if column { m.column.clone() } else { None };
            Asked { name, source: Source { input, ..Source::file(&named.path) } }
        };
        let questions = m.questions.iter().map(|q| asked("--questions", q, Some("seen"), true)).collect();
        let tasks = m.task.iter().map(|t| asked("--task", t, None, false)).collect();
        let over_refusal = m.over_refusal.as_ref().map(|o| asked("--over-refusal", o, None, true));
        let contrast = m.contrast.as_ref().map(|o| asked("--contrast", o, None, true));
        let measures = Self { options, questions, tasks, over_refusal, contrast };
        let flag = |field: &str| match field {
            "templates" => "--template".to_owned(),
            field => format!("--{}", field.replace('_', "-")),
        };
        measures.check(&flag, &|_| false, problems);
        measures
    }

    /// Every file of questions, with the name of its set or task.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &Asked> {
        self.questions.iter().chain(&self.tasks).chain(&self.over_refusal).chain(&self.contrast)
    }

    /// `given` fields that are empty nevertheless could not be read, which was said already.
    fn check(&self, at: &dyn Fn(&str) -> String, given: &dyn Fn(&str) -> bool, problems: &mut Problems) {
        let o = &self.options;
        let empty = self.questions.is_empty()
            && self.tasks.is_empty()
            && self.over_refusal.is_none()
            && self.contrast.is_none();
        if empty && !FILE_KEYS.iter().any(|key| given(key)) {
            problems.push(
                wrong(&at("questions"), "nothing to measure")
                    .hint("give questions to attack with, tasks, or questions that must not be refused"),
            );
        }
        let wanting = o.attacks.iter().find(|a| ["template", "autodan"].contains(&a.as_str()));
        if let Some(attack) = wanting.filter(|_| o.templates.is_empty() && !given("templates")) {
            problems.push(wrong(&at("templates"), format!("the attack `{attack}` needs template files")));
        }
        if o.max_new_tokens == 0 {
            problems.push(wrong(&at("max_new_tokens"), "must be at least 1"));
        }
        if o.batch == 0 {
            problems.push(wrong(&at("batch"), "must be at least 1"));
        }
        if o.limit == Some(0) {
            problems.push(wrong(&at("limit"), "must be at least 1"));
        }
        if !(o.temperature.is_finite() && o.temperature >= 0.0) {
            problems.push(wrong(&at("temperature"), "must be 0 (greedy) or a positive number"));
        }
    }

    /// The options as the evaluation takes them; selected rows are written to `dir/data`.
    pub(crate) fn options(&self, dir: &Path, home: &Home) -> Result<EvalOptions> {
        let mut options = self.options.clone();
        for path in &mut options.templates {
            *path = home.locate(path)?;
        }
        let set = |asked: &Asked, kind: &str| {
            let source = &asked.source;
            if source.whole() {
                return Ok((home.locate(&source.path)?, source.input.clone()));
            }
            let questions = source.questions(home)?;
            let data = dir.join("data");
            std::fs::create_dir_all(&data).at(&data)?;
            let path = data.join(format!("{kind}-{}.jsonl", asked.name));
            write_jsonl(&path, questions.iter().map(question_row))?;
            Ok::<_, Error>((path, None))
        };
        for asked in &self.questions {
            let (path, column) = set(asked, "questions")?;
            options.questions.push(QuestionSet { set: asked.name.clone(), path, column });
        }
        for asked in &self.tasks {
            let (path, _) = set(asked, "task")?;
            options.tasks.push(TaskFile { task: asked.name.clone(), path });
        }
        if let Some(asked) = &self.over_refusal {
            let (path, column) = set(asked, "over-refusal")?;
            options.over_refusal = Some(QuestionSet { set: asked.name.clone(), path, column });
        }
        if let Some(asked) = &self.contrast {
            let (path, column) = set(asked, "contrast")?;
            options.contrast = Some(QuestionSet { set: asked.name.clone(), path, column });
        }
        Ok(options)
    }
}

/// Names become file names and table rows.
pub(crate) fn check_name(name: &str) -> std::result::Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("`{name}` cannot be a name: use letters, digits and - _ + . (at most 64)"));
    }
    Ok(())
}

/// A model with or without an adapter.
pub(crate) struct SubjectPlan {
    pub(crate) name: String,
    pub(crate) adapter: Option<PathBuf>,
}

/// Who is measured: the base unless it is left out, then each adapter.
pub(super) fn subjects(args: &SubjectArgs, problems: &mut Problems) -> Vec<SubjectPlan> {
    let mut subjects = Vec::new();
    if !args.no_base {
        subjects.push(SubjectPlan { name: "base".to_owned(), adapter: None });
    }
    for Named { name, path } in &args.adapter {
        let stem = path.file_name().map(|s| s.to_string_lossy().into_owned());
        let name = name.clone().or(stem).unwrap_or_else(|| "adapter".to_owned());
        if let Err(e) = super::exists(path) {
            problems.push(e.context("--adapter"));
        }
        if let Err(e) = check_name(&name) {
            problems.push(wrong("--adapter", e).hint("give it a name as NAME=DIR"));
        }
        if name == "base" || subjects.iter().any(|s: &SubjectPlan| s.name == name) {
            let error = wrong("--adapter", format!("two subjects are called `{name}`"));
            problems.push(error.hint("give them names as NAME=DIR"));
        }
        subjects.push(SubjectPlan { name, adapter: Some(path.clone()) });
    }
    subjects
}

/// `eraser eval`, resolved.
pub(crate) struct EvalPlan {
    pub(crate) model: ModelPlan,
    pub(crate) home: Home,
    pub(crate) subjects: Vec<SubjectPlan>,
    pub(crate) options: EvalOptions,
    pub(crate) dir: PathBuf,
    pub(crate) force: bool,
}

impl EvalPlan {
    /// Checks everything but weights.
    pub(crate) fn resolve(args: &EvalArgs) -> Outcome<Self> {
        let mut problems = Problems::default();
        let model = ModelPlan::from_args(&args.model, &mut problems);
        let measures = Measures::from_args(args, &mut problems);
        let subjects = subjects(&args.subjects, &mut problems);
        let (dir, force, home) = (args.subjects.out.clone(), args.subjects.force, Home::Cache);
        let options = problems.finish(Some(measures))?.options(&dir, &home)?;
        match options.check() {
            wrong if wrong.is_empty() => Ok(Self { model, home, subjects, options, dir, force }),
            wrong => Err(wrong.into()),
        }
    }
}
