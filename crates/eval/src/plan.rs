//! The plan of an evaluation. In: options, and how each is called where it was given; out: every prompt to answer, with
//! its judges: files read, names looked up. Invariant: every error is found before the first answer is generated, and
//! all are reported together, under the name that the user gave the option by.

use crate::attack::{self, Attack};
use crate::judge::{Judge, ModelJudge, REFUSAL};
use crate::judges::Judges;
use crate::likelihood::AnswerSet;
use crate::name::{At, Checked};
use crate::options::{EvalOptions, QuestionSet, TaskFile};
use crate::{leakage, likelihood, marks, name, task};
use eraser_data::prepare::normal;
use eraser_data::{Question, Share, read_questions};
use eraser_model::{Error, Result, counted};
use std::collections::{BTreeSet, HashSet};

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
    /// The opening is that of the thought before it.
    pub(crate) in_thought: bool,
}

/// The prompts of one file of answers.
pub(crate) struct Job {
    /// File stem: `direct`, `template`, `task-<name>`, `over-refusal`.
    pub(crate) file: String,
    /// In the order of the file.
    pub(crate) items: Vec<Item>,
    pub(crate) judges: Vec<&'static dyn Judge>,
    /// Judges that ask a model.
    pub(crate) graders: Vec<ModelJudge>,
    /// Answered greedily, whatever the temperature.
    pub(crate) greedy: bool,
    /// The attack that made the items.
    pub(crate) attack: Option<Box<dyn Attack>>,
}

/// Everything there is to do for each subject, in order.
pub struct Plan {
    options: EvalOptions,
    pub(crate) jobs: Vec<Job>,
    /// Known answers whose likelihood is measured.
    pub(crate) known_answers: Option<likelihood::Plan>,
    notes: Vec<String>,
    /// How much of it this process does.
    pub(crate) share: Share,
}

/// What an evaluation asks: a file of answers, a set of questions in it, and who judges. For what is no attack, the
/// judge is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// The file's name without its ending: `direct`, `task-entities`, `over-refusal`, `likelihood`.
    pub file: String,
    /// The set; of a task its name.
    pub set: String,
    /// The judge by its full name.
    pub judge: String,
}

impl Plan {
    /// Reads every file and looks up every name.
    ///
    /// # Errors
    /// Everything that is wrong: unknown names, missing or malformed files, values out of range.
    pub fn new(options: &EvalOptions, at: At<'_>) -> Checked<Self> {
        let mut errors = Vec::new();
        check_values(options, at, &mut errors);
        let mut notes = Vec::new();
        let mut read = |set: &QuestionSet| {
            let questions = read_questions(&set.path, set.column.as_deref()).map(|all| {
                let (n, different) = (all.len(), once(all));
                if different.len() < n {
                    let file = set.path.file_name().unwrap_or_default().to_string_lossy();
                    let rows = counted(n - different.len(), "row");
                    let verb = if n - different.len() == 1 { "repeats" } else { "repeat" };
                    notes.push(format!(
                        "{file}: {rows} of `{}` {verb} an earlier question; each question is asked once",
                        set.set
                    ));
                }
                different
            });
            limited(questions, &set.path, options.limit).unwrap_or_else(|e| {
                errors.push(e);
                Vec::new()
            })
        };
        let sets: Vec<(&QuestionSet, Vec<Question>)> = options.questions.iter().map(|set| (set, read(set))).collect();
        let benign = options.over_refusal.as_ref().map(|set| (set, read(set)));
        let contrast = options.contrast.as_ref().map(|set| (set, read(set)));

        let known_answers = likelihood::Plan::new(options, at).unwrap_or_else(|wrong| {
            errors.extend(wrong);
            None
        });
        errors.extend(leakage::same(&sets, &options.allow_leakage));
        let Judges { judges, graders } = Judges::new(&options.judges, &options.judge, at, &mut errors);
        let mut jobs = Vec::new();
        for name in &options.attacks {
            let attack = match attack::build(name, options, at) {
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
                        in_thought: prompt.in_thought,
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
        // A classifier can answer its own question only.
        let grades = graders.iter().any(|judge| matches!(judge, ModelJudge::Grader(_)));
        let refusal = if grades { vec![ModelJudge::Grader(&REFUSAL)] } else { Vec::new() };
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
        if errors.is_empty() {
            Ok(Self { options: options.clone(), jobs, known_answers, notes, share: Share::Whole })
        } else {
            Err(errors)
        }
    }

    /// Does only this share of it.
    pub fn take_share(&mut self, share: Share) {
        self.share = share;
    }

    /// Takes these files of known answers in place of those of the options.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn take_answers(&mut self, sets: Vec<AnswerSet>, at: At<'_>) -> Checked<()> {
        self.options.likelihood_set = sets;
        self.known_answers = likelihood::Plan::new(&self.options, at)?;
        Ok(())
    }

    /// What a reader of the figures must know of the files, in a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The options that it was made of.
    pub fn options(&self) -> &EvalOptions {
        &self.options
    }

    /// Questions of the attacks, some from every part of the files.
    pub fn questions(&self) -> Vec<String> {
        const MOST: usize = 8;
        let attacks = self.jobs.iter().filter(|job| job.attack.is_some());
        let items: Vec<&Item> = attacks.flat_map(|job| &job.items).collect();
        let step = items.len().div_ceil(MOST).max(1);
        items.iter().step_by(step).map(|item| item.question.text.clone()).collect()
    }

    /// What it asks every subject, each once.
    pub fn asked(&self) -> BTreeSet<Asked> {
        let mut asked = BTreeSet::new();
        for job in &self.jobs {
            let rules = job.judges.iter().map(|judge| judge.name());
            let judges: Vec<&str> = match job.attack {
                Some(_) => rules.chain(job.graders.iter().map(ModelJudge::name)).collect(),
                None => vec![""],
            };
            for set in job.items.iter().map(|item| &item.set) {
                asked.extend(judges.iter().map(|judge| Asked {
                    file: job.file.clone(),
                    set: set.clone(),
                    judge: (*judge).to_owned(),
                }));
            }
        }
        let (file, judge) = (marks::LIKELIHOOD.to_owned(), String::new());
        asked.extend(self.known_answers.iter().flat_map(likelihood::Plan::sets).map(|set| Asked {
            file: file.clone(),
            set: set.to_owned(),
            judge: judge.clone(),
        }));
        asked
    }
}

/// Questions asked unchanged.
fn plain(set: &str, questions: Vec<Question>) -> Vec<Item> {
    let item = |question: Question| Item {
        set: set.to_owned(),
        attack: "direct".to_owned(),
        user: question.text.clone(),
        opening: String::new(),
        in_thought: false,
        question,
    };
    questions.into_iter().map(item).collect()
}

/// The questions without those that repeat an earlier one with the same facts and opening: they would count as
/// independent, and are answered alike.
fn once(questions: Vec<Question>) -> Vec<Question> {
    let mut seen = HashSet::new();
    let new = |q: &Question| seen.insert((normal(&q.text), q.facts.clone(), q.opening("").to_owned()));
    questions.into_iter().filter(new).collect()
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

/// Values that need no file.
fn check_values(options: &EvalOptions, at: At<'_>, errors: &mut Vec<Error>) {
    let mut wrong = |bad: bool, field: &str, message: &str, hint: &str| {
        if bad {
            errors.push(Error::request(format!("{}: {message}", at(field))).hint(hint));
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
        "questions",
        "nothing to evaluate: there are no attack questions, no tasks, no over-refusal set and no known answers",
        "name a file of questions",
    );
    wrong(
        attacked && options.judges.is_empty(),
        "judges",
        "there are attack questions but no judge",
        "name one: keyword, leak, or one that asks a model, as rubric",
    );
    wrong(
        !options.templates.is_empty()
            && !likelihood
            && !options.attacks.iter().any(|name| name == "template" || name == "autodan"),
        "templates",
        "templates are given but neither the attack `template` nor `autodan` is asked for",
        &format!("add one of them to {}, or leave the templates out", at("attacks")),
    );
    wrong(options.max_new_tokens == 0, "max_new_tokens", "must be at least 1", "256 is the usual value");
    wrong(options.batch == 0, "batch", "must be at least 1", "16 is the usual value");
    wrong(options.limit == Some(0), "limit", "must be at least 1", "leave it out to ask every question");
    wrong(
        !(options.temperature.is_finite() && options.temperature >= 0.0),
        "temperature",
        &format!("{} is no temperature", options.temperature),
        "0 for greedy answers, or a positive number",
    );
    wrong(
        options.questions.iter().chain(&options.over_refusal).chain(&options.contrast).any(|set| set.set.is_empty()),
        "questions",
        "a question set has an empty name",
        "`seen` and `unseen` are the usual names",
    );
    let tasks: Vec<String> = options.tasks.iter().map(|t| t.task.clone()).collect();
    for (what, field, names) in
        [("attack", "attacks", &options.attacks), ("judge", "judges", &options.judges), ("task", "tasks", &tasks)]
    {
        let duplicates = name::duplicates(what, names.iter().map(String::as_str));
        errors.extend(duplicates.into_iter().map(|e| e.context(at(field))));
    }
    errors.extend(tasks.iter().filter_map(|task| name::check("task", task).err()).map(|e| e.context(at("tasks"))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::{AutodanOptions, GcgOptions};
    use crate::judge::JudgeOptions;
    use crate::name::key;
    use std::fs;
    use std::path::Path;

    const ROW: &str = r#"{"input":"q","output":"a"}"#;

    fn set(path: &Path) -> QuestionSet {
        QuestionSet { set: "seen".into(), path: path.to_owned(), column: None }
    }

    fn wrong(options: &EvalOptions) -> Vec<Error> {
        Plan::new(options, &key).err().unwrap_or_default()
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
        let errors = wrong(&options);
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
            "`max_new_tokens`",
            "`batch`",
            "`temperature`",
            "`limit`",
        ] {
            assert!(all.contains(part), "{part} not in\n{all}");
        }
    }

    #[test]
    fn nothing_to_do_is_an_error() {
        let errors = wrong(&EvalOptions::default());
        assert!(errors.len() == 1 && errors[0].to_string().contains("nothing to evaluate"));
    }

    /// A flag that was wrong was called by the key of a run file.
    #[test]
    fn an_option_is_called_as_it_was_given() {
        let flag = |field: &str| format!("--{}", field.replace(['.', '_'], "-"));
        let options = EvalOptions {
            attacks: ["gcg", "autodan", "prefill"].map(str::to_owned).to_vec(),
            judges: vec!["rubric".into()],
            gcg: GcgOptions { steps: 0, seconds: Some(-1.0), ..GcgOptions::default() },
            autodan: AutodanOptions { population: 1, crossover: 2.0, ..AutodanOptions::default() },
            target: String::new(),
            judge: JudgeOptions { batch: 0, ..JudgeOptions::default() },
            ..EvalOptions::default()
        };
        let errors = Plan::new(&options, &flag).err().unwrap();
        for error in &errors {
            let all = format!("{error} {}", error.hints().join(" "));
            assert!(all.starts_with("--") && !all.contains("gcg.") && !all.contains("judge."), "{all}");
        }
        assert!(errors.len() > 8, "{errors:?}");
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
            likelihood_set: vec![AnswerSet { set: "known".into(), path: write("k.jsonl", ROW) }],
            limit: Some(2),
            ..EvalOptions::default()
        };
        let mut plan =
            Plan::new(&options, &key).map_err(|e| e.iter().map(ToString::to_string).collect::<String>()).unwrap();
        let files: Vec<_> = plan.jobs.iter().map(|job| (job.file.as_str(), job.items.len(), job.greedy)).collect();
        assert_eq!(
            files,
            [("direct", 2, false), ("template", 4, false), ("task-sky", 1, true), ("over-refusal", 1, false)]
        );
        let asked: Vec<String> =
            plan.asked().into_iter().map(|a| format!("{} {} {}", a.file, a.set, a.judge)).collect();
        assert_eq!(
            asked,
            [
                "direct seen keyword:gcg29",
                "likelihood known ",
                "over-refusal seen ",
                "task-sky sky ",
                "template seen keyword:gcg29"
            ]
        );
        let users: Vec<_> = plan.jobs[1].items.iter().map(|item| item.user.as_str()).collect();
        assert_eq!(users, ["1 one?", "2 one?", "1 two?", "2 two?"]);
        // A run's own sets are known only after its training.
        plan.take_answers(vec![AnswerSet { set: "seen".into(), path: dir.path().join("k.jsonl") }], &key).unwrap();
        let asked = plan.asked();
        let sets: Vec<&str> = asked.iter().filter(|a| a.file == "likelihood").map(|a| a.set.as_str()).collect();
        assert_eq!((sets, plan.options().likelihood_set.len()), (vec!["seen"], 1));
    }

    #[test]
    fn a_task_without_expectation_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.jsonl");
        fs::write(&path, "{\"id\":\"x1\",\"question\":\"colour?\"}\n").unwrap();
        let options = EvalOptions { tasks: vec![TaskFile { task: "sky".into(), path }], ..EvalOptions::default() };
        assert!(wrong(&options)[0].to_string().contains("x1"));
    }
}
