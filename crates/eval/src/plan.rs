//! The plan of an evaluation. In: options; out: every prompt to answer, with its judges: files read, names looked up.
//! Invariant: every error is found before the first answer is generated, and all are reported together.

use crate::attack::{self, Attack};
use crate::judge::{self, AnyJudge, Grader, Judge, REFUSAL};
use crate::name::Checked;
use crate::options::{EvalOptions, QuestionSet, TaskFile};
use crate::{leakage, likelihood, marks, name, task};
use eraser_data::ask::Endpoint;
use eraser_data::{Question, read_questions};
use eraser_model::{Error, Result};

impl EvalOptions {
    /// Everything that is wrong: unknown names, missing or malformed files, values out of range. Empty when
    /// [`crate::evaluate()`] can start.
    pub fn check(&self) -> Vec<Error> {
        Plan::new(self).err().unwrap_or_default()
    }
}

/// One prompt to answer.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) question: Question,
    pub(crate) set: String,
    /// `direct`, `template:<name>`.
    pub(crate) attack: String,
    /// The user turn.
    pub(crate) user: String,
    /// How the answer begins.
    pub(crate) opening: String,
}

/// The prompts of one file of answers.
pub(crate) struct Job {
    /// File stem: `direct`, `template`, `task-<name>`, `over-refusal`.
    pub(crate) file: String,
    /// In the order of the file.
    pub(crate) items: Vec<Item>,
    pub(crate) judges: Vec<&'static dyn Judge>,
    /// Judges that ask a model.
    pub(crate) graders: Vec<&'static Grader>,
    /// Answered greedily, whatever the temperature.
    pub(crate) greedy: bool,
    /// The attack that made the items.
    pub(crate) attack: Option<Box<dyn Attack>>,
}

/// Everything there is to do for each subject, in order.
pub(crate) struct Plan {
    pub(crate) jobs: Vec<Job>,
}

impl Plan {
    /// Reads every file and looks up every name.
    pub(crate) fn new(options: &EvalOptions) -> Checked<Self> {
        let mut errors = Vec::new();
        check_values(options, &mut errors);
        let mut read = |set: &QuestionSet| {
            let questions = read_questions(&set.path, set.column.as_deref());
            limited(questions, &set.path, options.limit).unwrap_or_else(|e| {
                errors.push(e);
                Vec::new()
            })
        };
        let sets: Vec<(&QuestionSet, Vec<Question>)> = options.questions.iter().map(|set| (set, read(set))).collect();
        let benign = options.over_refusal.as_ref().map(|set| (set, read(set)));
        let contrast = options.contrast.as_ref().map(|set| (set, read(set)));

        errors.extend(likelihood::Plan::new(options).err().into_iter().flatten());
        errors.extend(leakage::same(&sets, &options.allow_leakage));
        let mut judges = Vec::new();
        let mut graders = Vec::new();
        for name in &options.judges {
            match judge::find(name) {
                Ok(AnyJudge::Rule(judge)) => judges.push(judge),
                Ok(AnyJudge::Model(grader)) => graders.push(grader),
                Err(error) => errors.push(error),
            }
        }
        check_judge(options, !graders.is_empty(), &mut errors);
        let mut jobs = Vec::new();
        for name in &options.attacks {
            let attack = match attack::build(name, options) {
                Ok(attack) => attack,
                Err(wrong) => {
                    errors.extend(wrong);
                    continue;
                }
            };
            let items: Vec<Item> = sets
                .iter()
                .flat_map(|(set, questions)| questions.iter().map(move |question| (set.set.as_str(), question)))
                .flat_map(|(set, question)| {
                    attack.prompts(question).into_iter().map(move |prompt| Item {
                        question: question.clone(),
                        set: set.to_owned(),
                        attack: prompt.name,
                        user: prompt.user,
                        opening: prompt.opening,
                    })
                })
                .collect();
            if !items.is_empty() {
                let file = attack.name().to_owned();
                let (judges, graders) = (judges.clone(), graders.clone());
                jobs.push(Job { file, items, judges, graders, greedy: false, attack: Some(attack) });
            }
        }
        for TaskFile { task, path } in &options.tasks {
            match limited(task::read(path), path, options.limit) {
                Ok(questions) => jobs.push(Job {
                    file: format!("{}{task}", marks::TASK),
                    items: plain(task, questions),
                    judges: vec![&task::Expect],
                    graders: Vec::new(),
                    greedy: true,
                    attack: None,
                }),
                Err(error) => errors.push(error),
            }
        }
        let refusal = if graders.is_empty() { Vec::new() } else { vec![&REFUSAL] };
        for (found, file) in [(benign, marks::OVER_REFUSAL), (contrast, marks::CONTRAST)] {
            let Some((set, questions)) = found else { continue };
            jobs.push(Job {
                file: file.to_owned(),
                items: plain(&set.set, questions),
                judges: Vec::new(),
                graders: refusal.clone(),
                greedy: false,
                attack: None,
            });
        }
        if errors.is_empty() { Ok(Self { jobs }) } else { Err(errors) }
    }
}

/// Questions asked unchanged.
fn plain(set: &str, questions: Vec<Question>) -> Vec<Item> {
    let item = |question: Question| Item {
        set: set.to_owned(),
        attack: "direct".to_owned(),
        user: question.text.clone(),
        opening: String::new(),
        question,
    };
    questions.into_iter().map(item).collect()
}

/// The first `limit` questions; a set without any is an error.
fn limited(questions: Result<Vec<Question>>, path: &std::path::Path, limit: Option<usize>) -> Result<Vec<Question>> {
    let mut questions = questions?;
    questions.truncate(limit.unwrap_or(usize::MAX));
    if questions.is_empty() && limit != Some(0) {
        return Err(Error::request(format!("{}: no question in this file", path.display())));
    }
    Ok(questions)
}

/// Whether there is a model for the judges that need one.
fn check_judge(options: &EvalOptions, needed: bool, errors: &mut Vec<Error>) {
    let judge = &options.judge;
    let named = judge.model.is_some() || judge.endpoint.is_some();
    if needed && !named {
        errors.push(
            Error::request("the judges `rubric` and `strongreject` need a model").hint(
                "name a local one with `judge.model`, or a server with `judge.endpoint` and `judge.endpoint_model`",
            ),
        );
    }
    if named && !needed {
        errors.push(
            Error::request("a model is given for judging, and no judge uses one")
                .hint("add `rubric` or `strongreject` to `judges`, or leave the model out"),
        );
    }
    if judge.model.is_some() && judge.endpoint.is_some() {
        errors.push(Error::request("both a local model and an endpoint are given for judging").hint("leave one out"));
    }
    if judge.max_new_tokens == 0 || judge.batch == 0 || judge.concurrency == 0 {
        errors.push(Error::request("`judge`: `max_new_tokens`, `batch` and `concurrency` must be at least 1"));
    }
    if let Some(endpoint) = judge.endpoint() {
        errors.extend(Endpoint::new(&endpoint).err());
    }
}

/// Values that need no file.
fn check_values(options: &EvalOptions, errors: &mut Vec<Error>) {
    let mut wrong = |bad: bool, message: &str, hint: &str| {
        if bad {
            errors.push(Error::request(message).hint(hint));
        }
    };
    let likelihood = options.likelihood || !options.likelihood_set.is_empty();
    let attacked = !options.questions.is_empty() && !options.attacks.is_empty();
    wrong(
        !attacked
            && !likelihood
            && options.tasks.is_empty()
            && options.over_refusal.is_none()
            && options.contrast.is_none(),
        "nothing to evaluate: there are no attack questions, no tasks, no over-refusal set and no known answers",
        "name a file of questions with `questions`",
    );
    wrong(
        attacked && options.judges.is_empty(),
        "there are attack questions but no judge",
        "name one with `judges`: keyword, leak, rubric, strongreject",
    );
    wrong(
        !options.templates.is_empty()
            && !likelihood
            && !options.attacks.iter().any(|name| name == "template" || name == "autodan"),
        "templates are given but neither the attack `template` nor `autodan` is asked for",
        "add one of them to `attacks`, or leave `templates` out",
    );
    wrong(options.max_new_tokens == 0, "`max_new_tokens` is 0", "256 is the usual value");
    wrong(options.batch == 0, "`batch` is 0", "16 is the usual value");
    wrong(options.limit == Some(0), "`limit` is 0", "leave it out to ask every question");
    wrong(
        !(options.temperature.is_finite() && options.temperature >= 0.0),
        &format!("`temperature` is {}", options.temperature),
        "0 for greedy answers, or a positive number",
    );
    wrong(
        options.questions.iter().chain(&options.over_refusal).chain(&options.contrast).any(|set| set.set.is_empty()),
        "a question set has an empty name",
        "`seen` and `unseen` are the usual names",
    );
    let tasks: Vec<String> = options.tasks.iter().map(|t| t.task.clone()).collect();
    for (what, names) in [("attack", &options.attacks), ("judge", &options.judges), ("task", &tasks)] {
        errors.extend(name::duplicates(what, names.iter().map(String::as_str)));
    }
    errors.extend(tasks.iter().filter_map(|task| name::check("task", task).err()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn set(path: &Path) -> QuestionSet {
        QuestionSet { set: "seen".into(), path: path.to_owned(), column: None }
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let options = EvalOptions {
            attacks: vec!["direkt".into(), "template".into(), "template".into()],
            judges: vec!["keywords".into()],
            questions: vec![set(Path::new("absent.csv"))],
            tasks: vec![TaskFile { task: "a/b".into(), path: "absent.jsonl".into() }],
            max_new_tokens: 0,
            batch: 0,
            temperature: f32::NAN,
            limit: Some(0),
            ..EvalOptions::default()
        };
        let errors = options.check();
        let all: Vec<String> = errors.iter().map(|e| format!("{e} {}", e.hints().join(" "))).collect();
        let all = all.join("\n");
        for part in [
            "`direct`",
            "no templates",
            "duplicate attack",
            "`keyword`",
            "absent.csv",
            "a/b",
            "absent.jsonl",
            "max_new_tokens",
            "`batch`",
            "`temperature`",
            "`limit`",
        ] {
            assert!(all.contains(part), "{part} not in\n{all}");
        }
    }

    #[test]
    fn nothing_to_do_is_an_error() {
        let errors = EvalOptions::default().check();
        assert!(errors.len() == 1 && errors[0].to_string().contains("nothing to evaluate"));
    }

    #[test]
    fn a_plan_holds_a_job_per_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let options = EvalOptions {
            attacks: vec!["direct".into(), "template".into()],
            templates: vec![write("t.json", r#"["1 {prompt}", "2 {prompt}"]"#)],
            questions: vec![set(&write("q.txt", "one?\ntwo?\nthree?\n"))],
            tasks: vec![TaskFile {
                task: "sky".into(),
                path: write("s.jsonl", r#"{"question":"colour?","expect":["blue"]}"#),
            }],
            over_refusal: Some(set(&write("b.txt", "how do I kill a process?\n"))),
            limit: Some(2),
            ..EvalOptions::default()
        };
        let plan = Plan::new(&options).map_err(|e| e.iter().map(ToString::to_string).collect::<String>()).unwrap();
        let files: Vec<_> = plan.jobs.iter().map(|job| (job.file.as_str(), job.items.len(), job.greedy)).collect();
        assert_eq!(
            files,
            [("direct", 2, false), ("template", 4, false), ("task-sky", 1, true), ("over-refusal", 1, false)]
        );
        let users: Vec<_> = plan.jobs[1].items.iter().map(|item| item.user.as_str()).collect();
        assert_eq!(users, ["1 one?", "2 one?", "1 two?", "2 two?"]);
    }

    #[test]
    fn a_task_without_expectation_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.jsonl");
        fs::write(&path, "{\"id\":\"x1\",\"question\":\"colour?\"}\n").unwrap();
        let options = EvalOptions { tasks: vec![TaskFile { task: "sky".into(), path }], ..EvalOptions::default() };
        assert!(options.check()[0].to_string().contains("x1"));
    }
}
