//! What to measure, resolved. In: the table `[eval]` of a run file, or flags; out: `EvalOptions` whose files exist.
//! Invariant: a file of which only some rows are meant is written into the run directory, so that the evaluation reads
//! whole files only.

use super::answers::{self, AnswerFile};
use super::basics::{UTILITY, check_name, wrong};
use super::model::ModelPlan;
use super::section::Section;
use super::served::{self, ServedPlan};
use super::source::{ROW_KEYS, Source, check_path, question_row};
use super::table::{self, path_value, source_table};
use super::values::NamedPath;
use crate::builtin::Assets;
use crate::failure::Problems;
use eraser_data::files::write_jsonl;
use eraser_data::{columns, find_column};
use eraser_eval::bench::tasks;
use eraser_eval::{EvalOptions, QuestionSet, TaskFile};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result, counted};
use std::path::Path;

/// The keys of `[eval]` that are lists of files.
pub(super) const FILE_KEYS: [&str; 6] = ["questions", UTILITY, "tasks", "over_refusal", "contrast", answers::KEY];

/// Those of them that are files of questions, with the key of the name of each file.
pub(super) const ASKED_FILES: [(&str, &str); 5] =
    [("questions", "set"), (UTILITY, "task"), ("tasks", "task"), ("over_refusal", "set"), ("contrast", "set")];

/// A file of questions.
#[derive(Clone, Debug, PartialEq)]
pub struct QuestionFile {
    /// The name of its set or task.
    pub name: String,
    /// The file and which of its rows are asked.
    pub source: Source,
}

impl QuestionFile {
    /// From the flag `at`: a file, or a choice of its rows, with the name before `=`, or else `default`, or else the
    /// file's own.
    pub fn named(
        file: &NamedPath,
        default: Option<&str>,
        column: Option<&str>,
        at: &str,
        problems: &mut Problems,
    ) -> Self {
        let source = Source::flags(&file.path, Source::default(), at, problems);
        let stem = source.path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let name = file.name.clone().or(default.map(ToOwned::to_owned)).or(stem).unwrap_or_default();
        if source.output.is_some() {
            let error = wrong(at, "questions have no `output`");
            problems.push(error.hint("`column` names the column of the question"));
        }
        let input = source.input.clone().or(column.map(ToOwned::to_owned));
        Self { name, source: Source { input, ..source } }
    }
}

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Measures {
    /// Everything but the files of questions, which are the other fields.
    pub options: EvalOptions,
    /// Questions to attack with.
    pub questions: Vec<QuestionFile>,
    /// Questions with expected answers.
    pub tasks: Vec<QuestionFile>,
    /// Benign questions that must not be refused.
    pub over_refusal: Option<QuestionFile>,
    /// Questions that look like those and must be refused.
    pub contrast: Option<QuestionFile>,
    /// Questions with answers, of which it is measured how likely they are.
    pub answers: Vec<AnswerFile>,
    /// Subjects that a server has.
    pub served: Vec<ServedPlan>,
}

impl Measures {
    /// From the table `[eval]`.
    pub(crate) fn from_section(section: &Section<'_>, problems: &mut Problems) -> Self {
        let known: Vec<&str> = FILE_KEYS.into_iter().chain([served::KEY]).collect();
        let options = section.settings(&EvalOptions::default(), &known, |_, _| None, problems);
        let mut measures = Self {
            options,
            questions: Vec::new(),
            tasks: Vec::new(),
            over_refusal: None,
            contrast: None,
            answers: Vec::new(),
            served: ServedPlan::from_section(section, problems),
        };
        measures.answers = AnswerFile::from_section(section, problems);
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
            Some(QuestionFile { name, source: source? })
        };
        let [questions, _, tasks, over_refusal, contrast] = ASKED_FILES;
        for table in section.sections(questions.0, problems) {
            measures.questions.extend(asked(&table, questions.1, problems));
        }
        let utility = if section.get(UTILITY).is_some() { UTILITY } else { "tasks" };
        if utility == UTILITY && section.get("tasks").is_some() {
            problems.push(
                section.wrong("tasks", "this is the older name of `utility`, which is there too").hint("leave one out"),
            );
        }
        for table in section.sections(utility, problems) {
            measures.tasks.extend(asked(&table, tasks.1, problems));
        }
        if section.get(over_refusal.0).is_some() {
            measures.over_refusal = asked(&section.section(over_refusal.0, problems), over_refusal.1, problems);
        }
        if section.get(contrast.0).is_some() {
            measures.contrast = asked(&section.section(contrast.0, problems), contrast.1, problems);
        }
        if measures.options.judge.model.is_some() {
            measures.options.judge.model = ModelPlan::spec(&section.section("judge", problems), "model", problems);
        }
        if measures.options.judge.tokenizer.is_some() {
            let judge = section.section("judge", problems);
            measures.options.judge.tokenizer = ModelPlan::spec(&judge, "tokenizer", problems);
        }
        if let Some(path) = measures.options.judge.prompt.take() {
            let judge = section.section("judge", problems);
            measures.options.judge.prompt = problems.ok(judge.resolve("prompt", &path.display().to_string()));
        }
        let given = |key: &str| section.get(key).is_some();
        measures.check(&|field| format!("{}: `{field}`", section.place(field)), &given, problems);
        measures
    }

    /// Notes what is wrong with measures that flags gave. `at` names the option of a key, for errors.
    #[must_use]
    pub fn checked(self, at: &dyn Fn(&str) -> String, problems: &mut Problems) -> Self {
        for path in &self.options.templates {
            if let Err(e) = check_path(path) {
                problems.push(e.context(at("templates")));
            }
        }
        let named = |key: &'static str, files: &[QuestionFile]| -> Vec<(&'static str, QuestionFile)> {
            files.iter().map(|file| (key, file.clone())).collect()
        };
        let all = [
            named("questions", &self.questions),
            named("tasks", &self.tasks),
            named("over_refusal", self.over_refusal.as_slice()),
            named("contrast", self.contrast.as_slice()),
        ];
        for (key, file) in all.into_iter().flatten() {
            if let Err(e) = check_name(&file.name) {
                problems.push(wrong(&at(key), e).hint("give it a name as NAME=FILE"));
            }
            if let Err(e) = check_path(&file.source.path) {
                let e = e.context(at(key));
                let benchmark = tasks().find(|task| key == "tasks" && file.source.path.as_os_str() == *task);
                problems.push(match benchmark {
                    Some(task) => e
                        .hint(format!("to score the benchmark {task}: eraser bench --tasks {task}"))
                        .hint(format!("here a file of questions with answers is expected, as {task}=FILE")),
                    None => e,
                });
            }
        }
        self.check(at, &|_| false, problems);
        self
    }

    /// Every file of questions.
    pub(crate) fn files(&self) -> impl Iterator<Item = &QuestionFile> {
        self.questions.iter().chain(&self.tasks).chain(&self.over_refusal).chain(&self.contrast)
    }

    /// `given` fields that are empty nevertheless could not be read, which was said already.
    fn check(&self, at: &dyn Fn(&str) -> String, given: &dyn Fn(&str) -> bool, problems: &mut Problems) {
        let o = &self.options;
        let empty = self.questions.is_empty()
            && self.tasks.is_empty()
            && self.over_refusal.is_none()
            && self.contrast.is_none()
            && self.answers.is_empty()
            && !o.likelihood;
        if empty && !FILE_KEYS.iter().any(|key| given(key)) {
            problems
                .push(wrong(&at("questions"), "nothing to measure").hint(
                    "give questions to attack with, tasks, questions that must not be refused, or known answers",
                ));
        }
        let wanting = o.attacks.iter().find(|a| ["template", "autodan"].contains(&a.as_str()));
        if let Some(attack) = wanting.filter(|_| o.templates.is_empty() && !given("templates")) {
            problems.push(
                wrong(&at("templates"), format!("the attack `{attack}` needs template files"))
                    .hint("name files or directories of them; builtin/templates/seen has some"),
            );
        }
        served::check_measures(&self.served, o, !self.answers.is_empty(), at, problems);
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

    /// As the table `[eval]` of a run file.
    pub(super) fn to_toml(&self) -> Result<toml::Table> {
        let mut table = table::table(&self.options)?;
        let templates = self.options.templates.iter().map(|p| path_value(p)).collect::<Result<Vec<_>>>()?;
        table.insert("templates".into(), templates.into());
        let asked = |file: &QuestionFile, key: &str| {
            let mut table = source_table(&file.source, "column")?;
            table.insert(key.into(), file.name.clone().into());
            Ok::<_, Error>(toml::Value::Table(table))
        };
        let list = |all: &[QuestionFile], key: &str| all.iter().map(|f| asked(f, key)).collect::<Result<Vec<_>>>();
        table.insert("questions".into(), list(&self.questions, "set")?.into());
        table.insert("tasks".into(), list(&self.tasks, "task")?.into());
        let answers = self.answers.iter().map(AnswerFile::to_toml).collect::<Result<Vec<_>>>()?;
        table.insert(answers::KEY.into(), answers.into());
        if !self.served.is_empty() {
            let served = self.served.iter().map(ServedPlan::to_toml).collect::<Result<Vec<_>>>()?;
            table.insert(served::KEY.into(), served.into());
        }
        if let Some(over_refusal) = &self.over_refusal {
            table.insert("over_refusal".into(), asked(over_refusal, "set")?);
        }
        if let Some(contrast) = &self.contrast {
            table.insert("contrast".into(), asked(contrast, "set")?);
        }
        Ok(table)
    }

    /// As the manifest records it: with [`READ`], the columns that each file of questions was read from.
    pub(crate) fn recorded(&self, assets: &Assets) -> Result<serde_json::Value> {
        let mut all = table::json(&self.to_toml()?)?;
        let files = self.questions.iter().chain(&self.tasks).chain(&self.over_refusal).chain(&self.contrast);
        for (file, entry) in files.zip(entries(&mut all)) {
            entry[READ] = columns(&file.source.questions(assets)?).into();
        }
        Ok(all)
    }

    /// The options as the evaluation takes them; selected rows are written to `dir/data`.
    pub(crate) fn options(&self, dir: &Path, assets: &Assets) -> Result<EvalOptions> {
        let mut options = self.options.clone();
        for path in &mut options.templates {
            *path = assets.locate(path)?;
        }
        let set = |asked: &QuestionFile, kind: &str| {
            let source = &asked.source;
            // Read here too where the file is used as it is: what cannot be asked as it is meant is refused here.
            let questions = source.questions(assets)?;
            if source.whole() {
                return Ok((assets.locate(&source.path)?, source.input.clone()));
            }
            let data = dir.join("data");
            std::fs::create_dir_all(&data).writing(&data)?;
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
            let unsafe_rows = asked.source.questions(assets)?.iter().filter(|q| says_unsafe(&q.extra)).count();
            if unsafe_rows > 0 {
                let file = asked.source.path.display();
                let what = format!("{file}: {} labelled unsafe: a model may refuse them", counted(unsafe_rows, "row"));
                return Err(Error::request(what).hint(
                    "choose the others: --over-refusal \"FILE?where=label:safe\", or where = { label = \"safe\" } in a run file",
                ));
            }
            let (path, column) = set(asked, "over-refusal")?;
            options.over_refusal = Some(QuestionSet { set: asked.name.clone(), path, column });
        }
        if let Some(asked) = &self.contrast {
            let (path, column) = set(asked, "contrast")?;
            options.contrast = Some(QuestionSet { set: asked.name.clone(), path, column });
        }
        for file in &self.answers {
            options.likelihood_set.push(file.set(dir, assets)?);
        }
        Ok(options)
    }
}

/// Whether a row says of itself that it is unsafe, by a label or by its kind, as those of `XSTest`, `WildGuard`,
/// `BeaverTails` and `ToxicChat` do.
fn says_unsafe(row: &serde_json::Map<String, serde_json::Value>) -> bool {
    let value = |name: &str| {
        let key = find_column(row, name).ok().flatten()?;
        Some(row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned).trim().to_ascii_lowercase())
    };
    let is = |names: &[&str], said: &[&str]| {
        names.iter().any(|name| value(name).is_some_and(|value| said.contains(&value.as_str())))
    };
    is(&["label", "prompt_label", "safety", "prompt_harm_label"], &["unsafe", "harmful", "toxic"])
        || is(&["is_safe", "safe"], &["false", "0", "no"])
        || is(&["unsafe", "is_unsafe", "harmful", "is_harmful", "toxicity"], &["true", "1", "yes"])
        || value("type").is_some_and(|kind| kind.starts_with("contrast_"))
}

/// Of a file of questions in a record: the columns that it was read from. It is no key of a run file.
const READ: &str = "read";

/// The entries of the files of questions in `eval`: those of `questions`, of `tasks`, then the two single ones.
fn entries(eval: &mut serde_json::Value) -> impl Iterator<Item = &mut serde_json::Value> {
    const KEYS: [&str; 4] = ["questions", "tasks", "over_refusal", "contrast"];
    let mut found: [&mut [serde_json::Value]; 4] = Default::default();
    for (key, value) in eval.as_object_mut().into_iter().flatten() {
        let Some(place) = KEYS.iter().position(|known| known == key) else { continue };
        found[place] = match value {
            serde_json::Value::Array(list) => list,
            one => std::slice::from_mut(one),
        };
    }
    found.into_iter().flatten()
}

/// What [`Measures::recorded`] gave, as the table `[eval]` of a run file, without the subjects that a server had.
pub(super) fn of_record(recorded: &serde_json::Value) -> serde_json::Value {
    let mut eval = recorded.clone();
    if let Some(eval) = eval.as_object_mut() {
        eval.remove(served::KEY);
    }
    for entry in entries(&mut eval).filter_map(serde_json::Value::as_object_mut) {
        entry.remove(READ);
    }
    eval
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_that_they_are_unsafe_in_the_words_of_several_sets() {
        let says = |row: serde_json::Value| says_unsafe(row.as_object().unwrap_or(&serde_json::Map::new()));
        let no: [(&str, serde_json::Value); 7] = [
            ("label", "safe".into()),
            ("label", 1.into()),
            ("type", "homonyms".into()),
            ("prompt_harm_label", "unharmful".into()),
            ("is_safe", true.into()),
            ("toxicity", 0.into()),
            ("category", "unsafe words".into()),
        ];
        let yes: [(&str, serde_json::Value); 7] = [
            ("label", "unsafe".into()),
            ("Label ", " Unsafe".into()),
            ("type", "contrast_homonyms".into()),
            ("prompt_harm_label", "harmful".into()),
            ("is_safe", false.into()),
            ("toxicity", 1.into()),
            ("harmful", "True".into()),
        ];
        for (column, value) in yes {
            assert!(says(serde_json::json!({ column: value })), "{column}");
        }
        for (column, value) in no {
            assert!(!says(serde_json::json!({ column: value })), "{column}");
        }
    }
}
