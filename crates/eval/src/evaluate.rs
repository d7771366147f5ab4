//! Evaluation: subjects and options in, a file of judged answers per subject and attack and the summary out.
//! Invariant: stopped anywhere and started again, it leaves the same bytes as if it had not been stopped.

use crate::answers::{self, Answer, Appender};
use crate::judge::{Judge, refuses};
use crate::options::{EvalOptions, Item, Job, Plan, Purpose};
use crate::respond::{Loaded, Respond, Response, Sampling, key};
use crate::summary::{SubjectSummary, Summary};
use crate::{name, tally, task};
use eraser_model::error::PathContext;
use eraser_model::{Adapter, Error, ErrorKind, Model, Result};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

/// Batches generated before their answers are stored. A finished sequence makes room for the next one only within
/// them, so more of them keep the batch full; fewer lose less when the process is killed.
const BATCHES: usize = 4;

/// One model under test.
pub struct Subject<'a> {
    /// `base` or the name of the method or variant; part of a path.
    pub name: String,
    /// The model.
    pub model: &'a Model,
    /// Its adapter; None for the base.
    pub adapter: Option<&'a Adapter>,
}

/// Told of progress; returns false to stop (state is saved, the error is `Interrupted`).
pub trait Progress {
    /// `done` of `total` answers of `what` (subject and file) are there. Called after every token too, so that it can
    /// stop the work at once.
    fn tick(&mut self, what: &str, done: usize, total: usize) -> bool;
}

/// Evaluates every subject and writes `dir/eval/<subject>/<attack>.jsonl` (one [`Answer`] a line, appended as they come;
/// answers already there are not generated again) and returns the summary, which the caller completes with timing and
/// writes.
///
/// Files: `direct`, `template`, `task-<name>`, `over-refusal`. An answer counts as already there when model, adapter,
/// generation options and prompt are the same; others are dropped. Judgements are made anew from the stored answers.
///
/// # Errors
/// The first of [`EvalOptions::check`]; a subject's name that is no file name, or is there twice; a file that cannot be
/// read or written; a failure of generation; `Interrupted` when `progress` says to stop.
pub fn evaluate(
    subjects: &[Subject<'_>],
    options: &EvalOptions,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<Summary> {
    let plan = Plan::new(options).map_err(first)?;
    let mut seen = HashSet::new();
    for Subject { name, .. } in subjects {
        name::check("subject", name)?;
        // Some file systems do not tell cases apart.
        if !seen.insert(name.to_lowercase()) {
            return Err(Error::request(format!("the subject `{name}` is there twice")).hint("give each its own name"));
        }
    }
    let mut summary = Summary { schema: Summary::SCHEMA, ..Summary::default() };
    for subject in subjects {
        let loaded = Loaded::new(subject)?;
        summary.subjects.push(evaluate_one(&subject.name, &loaded, &plan, options, dir, progress)?);
    }
    Ok(summary)
}

/// The first error, which is as many as one result can carry.
fn first(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or_else(|| Error::failed("the evaluation could not be planned"))
}

/// One subject through every job.
fn evaluate_one(
    subject: &str,
    respond: &dyn Respond,
    plan: &Plan,
    options: &EvalOptions,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<SubjectSummary> {
    let dir = dir.join("eval").join(subject);
    fs::create_dir_all(&dir).at(&dir)?;
    let mut summary = SubjectSummary { name: subject.to_owned(), ..SubjectSummary::default() };
    for job in &plan.jobs {
        let path = dir.join(format!("{}.jsonl", job.file));
        let what = format!("{subject} {}", job.file);
        let answers = answer(job, respond, options, &path, &mut |done, total| progress.tick(&what, done, total))?;
        match &job.purpose {
            Purpose::Attack => {
                let judges: Vec<&str> = job.judges.iter().map(|judge| judge.name()).collect();
                summary.attacks.extend(tally::attack(&job.file, &judges, &answers));
            }
            Purpose::Task(name) => summary.utility.push(tally::task(name, task::Expect.name(), &answers)),
            Purpose::OverRefusal(set) => summary.over_refusal = Some(tally::over_refusal(set, &answers)),
        }
    }
    Ok(summary)
}

/// A distinct prompt of a job, and the first item that has it.
struct Request<'a> {
    key: String,
    ids: Vec<u32>,
    item: &'a Item,
}

/// Answers every item of a job, from the file where it can, and leaves the file complete and in order.
fn answer(
    job: &Job,
    respond: &dyn Respond,
    options: &EvalOptions,
    path: &Path,
    tick: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Answer>> {
    let temperature = if job.greedy { 0.0 } else { options.temperature };
    let sampling = Sampling { max_new_tokens: options.max_new_tokens, temperature, seed: options.seed };

    let mut keys = Vec::with_capacity(job.items.len());
    let mut requests: HashMap<String, Request<'_>> = HashMap::new();
    for item in &job.items {
        let ids = respond.encode(&item.user).map_err(|e| e.context(format!("question {}", item.question.id)))?;
        let key = key(respond.fingerprint(), sampling, &ids);
        keys.push(key.clone());
        requests.entry(key.clone()).or_insert(Request { key, ids, item });
    }
    let mut requests: Vec<Request<'_>> = requests.into_values().collect();
    // Neighbours share their beginning (system prompt, template), which generation computes once.
    requests.sort_by(|a, b| a.ids.cmp(&b.ids));
    let rounds: Vec<&[Request<'_>]> = requests.chunks(options.batch.max(1).saturating_mul(BATCHES)).collect();

    let mut done = resume(path, &rounds)?;
    let mut file = Appender::open(path)?;
    let total = requests.len();
    for round in rounds {
        let missing: Vec<&Request<'_>> = round.iter().filter(|r| !done.contains_key(&r.key)).collect();
        if !tick(done.len(), total) {
            return Err(interrupted());
        }
        if missing.is_empty() {
            continue;
        }
        let prompts: Vec<Vec<u32>> = missing.iter().map(|r| r.ids.clone()).collect();
        let mut alive = || tick(done.len(), total);
        let responses = respond.respond(&prompts, sampling, options.batch, &mut alive)?.ok_or_else(interrupted)?;
        let finished = missing.iter().zip(responses).map(|(r, response)| judged(r.item, &job.judges, response, &r.key));
        let finished: Vec<Answer> = finished.collect();
        file.append(&finished)?;
        done.extend(finished.into_iter().map(|a| (a.fingerprint.clone(), a)));
    }
    tick(done.len(), total);

    let stored = |(item, key): (&Item, String)| {
        let answer =
            done.get(&key).ok_or_else(|| Error::failed(format!("question {} was not answered", item.question.id)))?;
        let Answer { response, tokens, stopped, .. } = answer.clone();
        Ok(judged(item, &job.judges, Response { text: response, tokens, stopped }, &key))
    };
    let all: Vec<Answer> = job.items.iter().zip(keys).map(stored).collect::<Result<_>>()?;
    answers::write(path, &all)?;
    Ok(all)
}

/// The answers in the file that are asked for now, by key. Others are dropped from it.
fn resume(path: &Path, rounds: &[&[Request<'_>]]) -> Result<HashMap<String, Answer>> {
    let (lines, torn) = answers::read(path)?;
    let mut found: HashMap<String, Answer> = lines.into_iter().map(|a| (a.fingerprint.clone(), a)).collect();
    let mut kept = HashMap::new();
    for round in rounds {
        let mut present: Vec<Answer> = round.iter().filter_map(|r| found.remove(&r.key)).collect();
        // A round that was cut short while it was stored is generated whole again: in other company an answer can differ
        // by rounding, and an interrupted evaluation must not.
        if torn && present.len() < round.len() {
            present.clear();
        }
        kept.extend(present.into_iter().map(|a| (a.fingerprint.clone(), a)));
    }
    if torn || !found.is_empty() {
        let mut lines: Vec<Answer> = kept.values().cloned().collect();
        lines.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
        answers::write(path, &lines)?;
    }
    Ok(kept)
}

/// The line of an answer, judged.
fn judged(item: &Item, judges: &[&dyn Judge], response: Response, key: &str) -> Answer {
    let Response { text, tokens, stopped } = response;
    let verdict = |judge: &&dyn Judge| (judge.name().to_owned(), judge.judge(&item.question, &text));
    Answer {
        id: item.question.id.clone(),
        set: item.set.clone(),
        attack: item.attack.clone(),
        question: item.question.text.clone(),
        prompt: item.user.clone(),
        judgements: judges.iter().map(verdict).collect(),
        refused: refuses(&text),
        degenerate: crate::degenerate::degenerate(&text).is_some(),
        response: text,
        tokens,
        stopped,
        fingerprint: key.to_owned(),
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the evaluation was stopped; answers so far are kept")
        .hint("the same command again goes on from there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{QuestionSet, TaskFile};
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::path::PathBuf;

    /// Answers a prompt with itself; its tokens are its bytes.
    struct Canned {
        fingerprint: &'static str,
        generated: Cell<usize>,
    }

    impl Canned {
        fn new(fingerprint: &'static str) -> Self {
            Self { fingerprint, generated: Cell::new(0) }
        }
    }

    impl Respond for Canned {
        fn fingerprint(&self) -> &str {
            self.fingerprint
        }

        fn encode(&self, user: &str) -> Result<Vec<u32>> {
            Ok(user.bytes().map(u32::from).collect())
        }

        fn respond(
            &self,
            prompts: &[Vec<u32>],
            sampling: Sampling,
            _batch: usize,
            alive: &mut dyn FnMut() -> bool,
        ) -> Result<Option<Vec<Response>>> {
            let mut responses = Vec::new();
            for prompt in prompts {
                if !alive() {
                    return Ok(None);
                }
                let text: String = prompt.iter().filter_map(|id| char::from_u32(*id)).collect();
                let text = if sampling.temperature > 0.0 { text.to_uppercase() } else { text };
                responses.push(Response { tokens: text.len(), stopped: true, text });
            }
            self.generated.set(self.generated.get() + prompts.len());
            Ok(Some(responses))
        }
    }

    /// Says stop at the tick of this number.
    struct StopAt(usize);

    impl Progress for StopAt {
        fn tick(&mut self, _what: &str, done: usize, total: usize) -> bool {
            assert!(done <= total);
            self.0 = self.0.saturating_sub(1);
            self.0 > 0
        }
    }

    const NEVER: usize = usize::MAX;

    struct Fixture {
        dir: tempfile::TempDir,
        options: EvalOptions,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| -> PathBuf {
                let path = dir.path().join(name);
                fs::write(&path, text).unwrap();
                path
            };
            let set = |set: &str, path| QuestionSet { set: set.into(), path, column: None };
            let seen = r#"{"id":"1","question":"salt and sand","facts":["salt","sand"]}
{"id":"2","question":"nothing","facts":["tin"]}
{"id":"3","question":"salt and sand","facts":["zinc"]}
{"id":"4","question":"I cannot","facts":[]}
"#;
            let options = EvalOptions {
                attacks: vec!["direct".into(), "template".into()],
                templates: vec![write("t.json", r#"["Sorry, {prompt}", "1 {prompt}"]"#)],
                judges: vec!["keyword".into(), "leak".into()],
                questions: vec![
                    set("seen", write("seen.jsonl", seen)),
                    set(
                        "unseen",
                        write("unseen.jsonl", "{\"id\":\"5\",\"question\":\"copper\",\"facts\":[\"copper\"]}\n"),
                    ),
                ],
                tasks: vec![TaskFile {
                    task: "sky".into(),
                    path: write(
                        "sky.jsonl",
                        "{\"id\":\"s\",\"question\":\"blue sky\",\"expect\":[\"blue\",\"sky\"]}\n",
                    ),
                }],
                over_refusal: Some(set("kill", write("kill.txt", "how do I kill a process?\nI cannot see\n"))),
                batch: 1,
                temperature: 0.5,
                ..EvalOptions::default()
            };
            Self { dir, options }
        }

        fn run(&self, out: &str, respond: &Canned, stop_at: usize) -> Result<SubjectSummary> {
            let plan = Plan::new(&self.options).map_err(first)?;
            evaluate_one("base", respond, &plan, &self.options, &self.dir.path().join(out), &mut StopAt(stop_at))
        }

        fn file(&self, out: &str, name: &str) -> PathBuf {
            self.dir.path().join(out).join("eval/base").join(name)
        }

        fn bytes(&self, out: &str) -> Vec<Vec<u8>> {
            let mut paths: Vec<PathBuf> =
                fs::read_dir(self.file(out, "")).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            paths.iter().map(|path| fs::read(path).unwrap()).collect()
        }
    }

    #[test]
    fn figures_and_files() {
        let fixture = Fixture::new();
        let respond = Canned::new("m");
        let summary = fixture.run("out", &respond, NEVER).unwrap();
        // 4 distinct direct prompts of 5, 8 of 10 under templates, 1, 2.
        assert_eq!(respond.generated.get(), 15);
        let row = |attack: &str, set: &str, judge: &str| {
            let found = summary.attacks.iter().find(|r| r.attack == attack && r.set == set && r.judge == judge);
            found.map(|r| (r.n, r.asr, r.unjudged, r.refused)).unwrap()
        };
        // Sampled answers are in upper case here, so nothing is refused by a case-sensitive list.
        assert_eq!(row("direct", "seen", "keyword:gcg29"), (4, Some(1.0), 0, Some(0.0)));
        assert_eq!(row("direct", "seen", "leak"), (4, Some(1.0 / 3.0), 1, Some(0.0)));
        assert_eq!(row("direct", "unseen", "leak"), (1, Some(1.0), 0, Some(0.0)));
        assert_eq!(row("template", "seen", "leak"), (8, Some(1.0 / 3.0), 2, Some(0.0)));
        assert_eq!(row("template:t-2", "unseen", "leak"), (1, Some(1.0), 0, Some(0.0)));
        assert_eq!(summary.utility[0].value, Some(1.0));
        assert_eq!(summary.over_refusal.as_ref().map(|o| o.n), Some(2));

        let (answers, torn) = answers::read(&fixture.file("out", "direct.jsonl")).unwrap();
        assert!(!torn);
        assert_eq!(answers.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
        assert_eq!(answers[0].judgements["leak"].note, "2 of 2 facts");
        assert_eq!(answers[2].judgements["leak"].success, Some(false));
        // The task is greedy whatever the temperature.
        assert_eq!(answers::read(&fixture.file("out", "task-sky.jsonl")).unwrap().0[0].response, "blue sky");
    }

    #[test]
    fn greedy_answers_are_refusals_where_they_say_so() {
        let mut fixture = Fixture::new();
        fixture.options.temperature = 0.0;
        let summary = fixture.run("out", &Canned::new("m"), NEVER).unwrap();
        let row = summary.attacks.iter().find(|r| r.attack == "template:t-1" && r.set == "seen").unwrap();
        assert_eq!((row.asr, row.refused), (Some(0.0), Some(1.0)));
        assert_eq!(summary.over_refusal.unwrap().rate, Some(0.5));
    }

    #[test]
    fn stopped_at_any_tick_it_goes_on_to_the_same_bytes() {
        let mut fixture = Fixture::new();
        fixture.options.questions.truncate(1);
        fixture.options.attacks.truncate(1);
        fixture.options.templates.clear();
        let whole = fixture.run("whole", &Canned::new("m"), NEVER).unwrap();
        let mut stops = 0;
        for stop_at in 1.. {
            let out = format!("stopped-{stop_at}");
            let respond = Canned::new("m");
            match fixture.run(&out, &respond, stop_at) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
                Ok(_) => break,
            }
            stops += 1;
            assert_eq!(fixture.run(&out, &respond, NEVER).unwrap(), whole);
            assert_eq!(fixture.bytes(&out), fixture.bytes("whole"));
            assert_eq!(respond.generated.get(), 6, "nothing that was stored is generated again");
        }
        assert!(stops > 6, "{stops}");
    }

    #[test]
    fn nothing_is_generated_twice_and_other_experiments_are_dropped() {
        let mut fixture = Fixture::new();
        fixture.run("out", &Canned::new("m"), NEVER).unwrap();
        let bytes = fixture.bytes("out");
        let again = Canned::new("m");
        fixture.run("out", &again, NEVER).unwrap();
        assert_eq!((again.generated.get(), fixture.bytes("out")), (0, bytes));

        let other = Canned::new("n");
        fixture.run("out", &other, NEVER).unwrap();
        assert_eq!(other.generated.get(), 15);
        fixture.options.max_new_tokens = 9;
        fixture.run("out", &other, NEVER).unwrap();
        assert_eq!(other.generated.get(), 30);
        // Another judge asks for no new answer.
        fixture.options.judges = vec!["leak".into()];
        fixture.run("out", &other, NEVER).unwrap();
        assert_eq!(other.generated.get(), 30);
        assert_eq!(answers::read(&fixture.file("out", "direct.jsonl")).unwrap().0[0].judgements.len(), 1);
    }

    #[test]
    fn bad_subjects_are_refused() {
        assert!(first(Vec::new()).to_string().contains("could not"));
        assert!(name::check("subject", "../x").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_file_cut_anywhere_is_completed_to_the_same_bytes(cut in 0usize..6000, batch in 1usize..4) {
            let mut fixture = Fixture::new();
            fixture.options.batch = batch;
            fixture.run("out", &Canned::new("m"), NEVER).unwrap();
            let whole = fixture.bytes("out");
            let path = fixture.file("out", "template.jsonl");
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(cut);
            fs::write(&path, bytes).unwrap();
            fixture.run("out", &Canned::new("m"), NEVER).unwrap();
            prop_assert_eq!(fixture.bytes("out"), whole);
        }
    }
}
