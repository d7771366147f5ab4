//! What to prepare, resolved. In: the table `[prepare]` of a run file, or flags; out: settings in range, and sources that
//! exist. Invariant: an option that a source of answers needs is there.

use super::eval::{Asked, check_name};
use super::model::Home;
use super::run::{path_value, source_table};
use super::section::Section;
use super::source::{ROW_KEYS, Source, check_path};
use super::values::Named;
use super::{ModelPlan, wrong};
use crate::errors::{Outcome, Problems};
use crate::options::prepare::PrepareArgs;
use eraser_data::prepare::{Answers, PrepareOptions};
use eraser_model::{Error, Result};
use std::path::{Path, PathBuf};

/// How the three sets are made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Preparation {
    pub(crate) questions: Source,
    pub(crate) answers_file: Option<Source>,
    pub(crate) options: PrepareOptions,
}

impl Preparation {
    /// From the table `[prepare]`.
    pub(crate) fn from_section(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let special = ["questions", "answers_file", "answers_model"];
        let mut options = section.settings(&PrepareOptions::default(), &special, |_, _| None, problems);
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
        check(
            &options,
            section.get("answers_file").is_some(),
            &|key| format!("{}: `{key}`", section.place(key)),
            problems,
        );
        Some(Self { questions: questions?, answers_file, options })
    }

    /// From flags.
    fn from_args(args: &PrepareArgs, problems: &mut Problems) -> Self {
        let options = args.options();
        let (q, a) = (&args.questions, &args.answers);
        for (flag, path) in [("--questions", Some(&q.questions)), ("--answers-file", a.answers_file.as_ref())] {
            if let Some(Err(e)) = path.map(|path| check_path(path)) {
                problems.push(e.context(flag));
            }
        }
        let flag = |key: &str| format!("--{}", key.replace('_', "-"));
        check(&options, a.answers_file.is_some(), &flag, problems);
        let questions = Source { input: q.column.clone(), take: q.take, ..Source::file(&q.questions) };
        let answers_file = a.answers_file.as_deref().map(|path| Source {
            input: a.answers_input.clone(),
            output: a.answers_output.clone(),
            ..Source::file(path)
        });
        Self { questions, answers_file, options }
    }

    /// As the table `[prepare]` of a run file.
    pub(super) fn to_toml(&self) -> Result<toml::Table> {
        let broken = |e: toml::ser::Error| Error::failed(format!("cannot write plan.toml: {e}"));
        let mut table = toml::Table::try_from(&self.options).map_err(broken)?;
        if let Some(spec) = self.options.answers_model.as_deref().filter(|spec| Path::new(spec).exists()) {
            table.insert("answers_model".into(), path_value(Path::new(spec))?);
        }
        table.insert("questions".into(), source_table(&self.questions, "column")?.into());
        if let Some(source) = &self.answers_file {
            table.insert("answers_file".into(), source_table(source, "input")?.into());
        }
        Ok(table)
    }
}

/// Notes what is wrong with the settings; `at` names a key.
fn check(o: &PrepareOptions, has_file: bool, at: &dyn Fn(&str) -> String, problems: &mut Problems) {
    let mut need = |key: &str, good: bool, what: &str| {
        if !good {
            problems.push(wrong(&at(key), what));
        }
    };
    for (key, n) in [
        ("max_entities", o.max_entities),
        ("max_new_tokens", o.max_new_tokens),
        ("harm_max_new_tokens", o.harm_max_new_tokens),
        ("batch", o.batch),
        ("endpoint_attempts", o.endpoint_attempts),
    ] {
        need(key, n > 0, "must be at least 1");
    }
    need("endpoint_concurrency", (1..=256).contains(&o.endpoint_concurrency), "must be from 1 to 256");
    need("forms", o.forms.is_none_or(|n| (1..=10).contains(&n)), "must be from 1 to 10");
    need("temperature", o.temperature.is_finite() && o.temperature >= 0.0, "must be 0 (greedy) or a positive number");
    need("top_p", o.top_p > 0.0 && o.top_p <= 1.0, "must be above 0 and at most 1");
    let positive = |x: f64| x.is_finite() && x > 0.0;
    need("repetition_penalty", positive(o.repetition_penalty), "must be a positive number");
    need("endpoint_timeout", positive(o.endpoint_timeout) && o.endpoint_timeout <= 86_400.0, "must be from 0 to 86400");
    need("endpoint_backoff", (0.0..=3600.0).contains(&o.endpoint_backoff), "must be from 0 to 3600");
    need("answers_file", has_file || o.answers != Answers::File, "must name the file that holds the harmful answers");
    if o.needs_endpoint() {
        need("endpoint", o.endpoint.is_some(), "must give the base URL that is to be asked");
        need("endpoint_model", o.endpoint_model.is_some(), "must name the model that is to be asked for");
    }
    if let Some(Err(e)) = o.answers_model.as_deref().map(ModelPlan::check_spec) {
        problems.push(e.context(at("answers_model")));
    }
}

/// `eraser prepare`, resolved.
pub(crate) struct PreparePlan {
    pub(crate) model: ModelPlan,
    pub(crate) home: Home,
    pub(crate) preparation: Preparation,
    pub(crate) evaluation: Vec<Asked>,
    pub(crate) dir: PathBuf,
    pub(crate) force: bool,
}

impl PreparePlan {
    /// Checks everything but weights and the content of files.
    pub(crate) fn resolve(args: &PrepareArgs) -> Outcome<Self> {
        let mut problems = Problems::default();
        let model = ModelPlan::from_args(&args.model, &mut problems);
        let preparation = Preparation::from_args(args, &mut problems);
        let mut evaluation = Vec::new();
        for Named { name, path } in &args.questions.eval_questions {
            let name = name.clone().unwrap_or_else(|| "unseen".to_owned());
            if let Err(e) = check_name(&name) {
                problems.push(wrong("--eval-questions", e));
            }
            if let Err(e) = check_path(path) {
                problems.push(e.context("--eval-questions"));
            }
            evaluation.push(Asked { name, source: Source::file(path) });
        }
        let dir = args.questions.out.clone();
        if dir.exists() && !dir.is_dir() {
            problems.push(wrong("--out", format!("{} is not a directory", dir.display())));
        }
        let force = args.questions.force;
        problems.finish(Some(Self { model, home: Home::Cache, preparation, evaluation, dir, force }))
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
    fn the_defaults_need_a_file_only() {
        let mut problems = Problems::default();
        check(&PrepareOptions::default(), false, &ToOwned::to_owned, &mut problems);
        assert_eq!(problems.messages(), ["answers_file: must name the file that holds the harmful answers"]);
    }
}
