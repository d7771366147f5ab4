//! What to prepare, resolved. In: the table `[prepare]` of a run file, or flags; out: settings in range, and sources
//! that exist. Invariant: an option that a source of answers needs is there.

use super::basics::{check_name, check_out, wrong};
use super::measures::QuestionFile;
use super::model::ModelPlan;
use super::section::Section;
use super::source::{ROW_KEYS, Source, check_path};
use super::table::{self, path_value, source_table};
use crate::failure::Problems;
use crate::shards::Part;
use eraser_data::WrongValue;
use eraser_data::prepare::{Answers, PrepareOptions};
use eraser_model::Result;
use std::path::{Path, PathBuf};

/// The keys of `[prepare]` that name files and models.
pub(super) const SOURCE_KEYS: [&str; 5] =
    ["questions", "answers_file", "answers_model", "retain_questions", "retain_text"];

/// How the three sets are made, and a retain set where one is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparation {
    /// The harmful questions.
    pub questions: Source,
    /// The file of their answers, for answers from a file.
    pub answers_file: Option<Source>,
    /// Benign requests, which the retain set holds with the model's own answers.
    pub retain_questions: Option<Source>,
    /// Running texts, which the retain set holds as they are.
    pub retain_text: Option<Source>,
    /// The settings.
    pub options: PrepareOptions,
}

impl Preparation {
    /// From the table `[prepare]`.
    pub(crate) fn from_section(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let mut options = section.settings(&PrepareOptions::default(), &SOURCE_KEYS, |_, _| None, problems);
        options.answers_model = ModelPlan::spec(section, "answers_model", problems);
        let questions = if section.get("questions").is_some() {
            let table = section.section("questions", problems);
            table.know(&ROW_KEYS, problems);
            Source::rows(&table, problems)
        } else {
            problems.push(
                section.missing("questions").hint("for example questions = { path = \"FILE\", column = \"goal\" }"),
            );
            None
        };
        let answers_file = Source::set(section, "answers_file", problems);
        let [retain_questions, retain_text] =
            ["retain_questions", "retain_text"].map(|key| Source::questions_of(section, key, problems));
        check(
            &options,
            section.get("answers_file").is_some(),
            &|key| format!("{}: `{key}`", section.place(key)),
            problems,
        );
        Some(Self { questions: questions?, answers_file, retain_questions, retain_text, options })
    }

    /// Notes what is wrong with one that is made of flags. `at` names the option of a key, for errors.
    #[must_use]
    pub fn checked(self, at: &dyn Fn(&str) -> String, problems: &mut Problems) -> Self {
        let Self { questions, answers_file, retain_questions, retain_text, options } = &self;
        for (key, source) in [
            ("questions", Some(questions)),
            ("answers_file", answers_file.as_ref()),
            ("retain_questions", retain_questions.as_ref()),
            ("retain_text", retain_text.as_ref()),
        ] {
            if let Some(Err(e)) = source.map(|source| check_path(&source.path)) {
                problems.push(e.context(at(key)));
            }
        }
        if answers_file.as_ref().is_some_and(|source| source.input.is_some() != source.output.is_some()) {
            problems.push(wrong(
                &at("answers_file"),
                "the columns of question and answer are named together or not at all",
            ));
        }
        check(options, answers_file.is_some(), at, problems);
        self
    }

    /// Whether a retain set is made.
    pub(crate) fn retains(&self) -> bool {
        self.retain_questions.is_some() || self.retain_text.is_some()
    }

    /// As the table `[prepare]` of a run file.
    pub(super) fn to_toml(&self) -> Result<toml::Table> {
        let mut table = table::table(&self.options)?;
        if let Some(spec) = self.options.answers_model.as_deref().filter(|spec| Path::new(spec).exists()) {
            table.insert("answers_model".into(), path_value(Path::new(spec))?);
        }
        table.insert("questions".into(), source_table(&self.questions, "column")?.into());
        if let Some(source) = &self.answers_file {
            table.insert("answers_file".into(), source_table(source, "input")?.into());
        }
        for (key, source) in [("retain_questions", &self.retain_questions), ("retain_text", &self.retain_text)] {
            if let Some(source) = source {
                table.insert(key.into(), source_table(source, "column")?.into());
            }
        }
        Ok(table)
    }

    /// As the manifest records it.
    pub(crate) fn to_json(&self) -> Result<serde_json::Value> {
        table::json(&self.to_toml()?)
    }
}

/// Notes what is wrong with the settings; `at` names a key.
fn check(o: &PrepareOptions, has_file: bool, at: &dyn Fn(&str) -> String, problems: &mut Problems) {
    for WrongValue { field, what } in o.check() {
        problems.push(wrong(&at(field), what));
    }
    if !has_file && o.answers == Answers::File {
        problems.push(wrong(&at("answers_file"), "must name the file that holds the harmful answers"));
    }
    if let Some(Err(e)) = o.answers_model.as_deref().map(ModelPlan::check_spec) {
        problems.push(e.context(at("answers_model")));
    }
}

/// `eraser prepare`, resolved.
#[derive(Clone, Debug)]
pub struct PreparePlan {
    /// The model that is to be hardened.
    pub model: ModelPlan,
    /// What is made.
    pub preparation: Preparation,
    /// Questions of the evaluation, which must not be trained on.
    pub evaluation: Vec<QuestionFile>,
    /// The run directory.
    pub dir: PathBuf,
    /// Removes what an earlier preparation left.
    pub force: bool,
    /// How much of it is done.
    pub part: Part,
}

impl PreparePlan {
    /// Notes what is wrong with the files of the evaluation and the directory.
    pub fn check(&self, problems: &mut Problems) {
        for QuestionFile { name, source } in &self.evaluation {
            if let Err(e) = check_name(name) {
                problems.push(wrong("--eval-questions", e));
            }
            if let Err(e) = check_path(&source.path) {
                problems.push(e.context("--eval-questions"));
            }
        }
        check_out(&self.dir, "--out", problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_named() {
        let options = PrepareOptions {
            answers: Answers::Endpoint,
            answers_model: Some("./none".into()),
            forms: Some(11),
            top_p: f64::NAN,
            batch: 0,
            endpoint_backoff: -1.0,
            ..PrepareOptions::default()
        };
        let mut problems = Problems::default();
        check(&options, false, &ToOwned::to_owned, &mut problems);
        let messages = problems.messages();
        let starts = ["batch", "forms", "top_p", "endpoint_backoff", "endpoint:", "endpoint_model", "answers_model"];
        for (start, message) in starts.iter().zip(&messages) {
            assert!(message.starts_with(start), "{messages:?}");
        }
        assert_eq!(messages.len(), starts.len(), "{messages:?}");
    }

    #[test]
    fn one_retain_set_only() {
        let root = "[model]\npath = \"builtin\"\n[data]\nretain_set = \"builtin/sets/retain.jsonl\"\n[prepare]\n\
                    answers = \"random\"\nquestions = { path = \"builtin/requests/benign.csv\" }\n\
                    retain_questions = { path = \"builtin/requests/benign.csv\", take = \"0-9\" }\n\
                    [eval]\nquestions = [{ set = \"seen\", path = \"builtin/requests/benign.csv\" }]\n";
        let overrides = crate::plan::Overrides::default();
        let parse = |text: &str| crate::plan::RunPlan::parse(Path::new("run.toml"), text, &overrides);
        let error = format!("{:?}", parse(root).unwrap_err());
        assert!(error.contains("[data] names a retain set, and [prepare] makes one"), "{error}");
        let plan = parse(&root.replace("retain_set = \"builtin/sets/retain.jsonl\"\n", "")).unwrap();
        let prepare = plan.prepare.unwrap().to_json().unwrap();
        assert!(plan.variants[0].retain && prepare["retain_questions"]["take"] == "0-9", "{prepare}");
    }

    #[test]
    fn the_defaults_need_a_file_only() {
        let mut problems = Problems::default();
        check(&PrepareOptions::default(), false, &ToOwned::to_owned, &mut problems);
        assert_eq!(problems.messages(), ["answers_file: must name the file that holds the harmful answers"]);
    }
}
