//! Evaluation: subjects and options in, a file of judged answers per subject and attack and the summary out.
//! Invariant: stopped anywhere and started again, it leaves the same bytes as if it had not been stopped.

use crate::answers::{self, Answer, Appender};
use crate::attack::search::Search;
use crate::judge::{Judge, refuses};
use crate::options::{EvalOptions, Item, Job, Plan, Purpose};
use crate::respond::{Loaded, Respond, Response, Sampling, key};
use crate::summary::{SubjectSummary, Summary};
use crate::{name, tally, task};
use eraser_data::{Question, ask};
use eraser_model::error::PathContext;
use eraser_model::{Adapter, Error, ErrorKind, Model, Result};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Batches generated before their answers are stored. A finished sequence makes room for the next one only within
/// them, so more of them keep the batch full; fewer lose less when the process is killed.
const BATCHES: usize = 2;

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
/// Files: `direct`, `template`, `prefill`, `gcg`, `task-<name>`, `over-refusal`, `contrast`; below `search/` what attacks
/// tried, below `judge/` what the model `judge` replied. An answer counts as already there
/// when model, adapter, generation options and prompt are the same; others are dropped. Judgements are made anew from the
/// stored answers and replies. `judge` is what [`EvalOptions::judge`] names, and not asked unless a judge needs it.
///
/// # Errors
/// The first of [`EvalOptions::check`]; a subject's name that is no file name, or is there twice; a file that cannot be
/// read or written; a failure of generation; `Interrupted` when `progress` says to stop.
pub fn evaluate(
    subjects: &[Subject<'_>],
    options: &EvalOptions,
    judge: Option<&dyn ask::Respond>,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<Summary> {
    let plan = Plan::new(options).map_err(first)?;
    check_names(subjects.iter().map(|subject| subject.name.as_str()))?;
    let mut summary = Summary { schema: Summary::SCHEMA, ..Summary::default() };
    for subject in subjects {
        let loaded = Loaded::new(subject)?;
        summary.subjects.push(evaluate_one(&subject.name, &loaded, &plan, options, judge, dir, progress)?);
    }
    Ok(summary)
}

/// Subjects' names are names of directories.
pub(crate) fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = HashSet::new();
    for name in names {
        name::check("subject", name)?;
        // Some file systems do not tell cases apart.
        if !seen.insert(name.to_lowercase()) {
            return Err(Error::request(format!("the subject `{name}` is there twice")).hint("give each its own name"));
        }
    }
    Ok(())
}

/// The first error, which is as many as one result can carry.
pub(crate) fn first(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or_else(|| Error::failed("the evaluation could not be planned"))
}

/// One subject through every job.
fn evaluate_one(
    subject: &str,
    respond: &dyn Respond,
    plan: &Plan,
    options: &EvalOptions,
    judge: Option<&dyn ask::Respond>,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<SubjectSummary> {
    let dir = dir.join("eval").join(subject);
    fs::create_dir_all(&dir).at(&dir)?;
    let mut summary = SubjectSummary { name: subject.to_owned(), ..SubjectSummary::default() };
    let mut judged = Vec::new();
    for job in &plan.jobs {
        let path = dir.join(format!("{}.jsonl", job.file));
        let what = format!("{subject} {}", job.file);
        let searched = match job.attack.as_ref().and_then(|attack| attack.search()) {
            Some(search) => Some(searched(job, search, respond, &dir, &mut |done, total| {
                progress.tick(&format!("{what}, search"), done, total)
            })?),
            None => None,
        };
        let items = searched.as_ref().unwrap_or(&job.items);
        let mut answers =
            answer(job, items, respond, options, &path, &mut |done, total| progress.tick(&what, done, total))?;
        for grader in &job.graders {
            let judge = judge.ok_or_else(|| Error::failed("no model judges"))?;
            let replies = subdirectory(&dir, "judge")?.join(format!("{}-{}.jsonl", job.file, grader.name));
            let mut tick = |of: &str, done: usize, total: usize| progress.tick(&format!("{what}, {of}"), done, total);
            grader.grade(&mut answers, judge, &options.judge, &replies, &mut tick)?;
        }
        if !job.graders.is_empty() {
            answers::write(&path, &answers)?;
        }
        match &job.purpose {
            Purpose::Attack => {
                let rules = job.judges.iter().map(|judge| judge.name());
                let judges: Vec<&str> = rules.chain(job.graders.iter().map(|grader| grader.name)).collect();
                summary.attacks.extend(tally::attack(&job.file, &judges, &answers));
                judged.extend(answers);
            }
            Purpose::Task(name) => summary.utility.push(tally::task(name, task::Expect.name(), &answers)),
            Purpose::OverRefusal(set) => summary.over_refusal = Some(tally::over_refusal(set, &answers)),
            Purpose::Contrast(set) => summary.contrast = Some(tally::over_refusal(set, &answers)),
        }
    }
    summary.agreement = tally::agreement(&judged);
    Ok(summary)
}

/// The items of a job with the prompts that its attack finds on the subject.
fn searched(
    job: &Job,
    search: &dyn Search,
    respond: &dyn Respond,
    dir: &Path,
    tick: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Item>> {
    let questions: Vec<&Question> = job.items.iter().map(|item| &item.question).collect();
    let path = subdirectory(dir, "search")?.join(format!("{}.jsonl", job.file));
    let found = respond.search(search, &questions, &path, &mut |done| tick(done, questions.len()))?;
    let found = found.ok_or_else(interrupted)?;
    tick(questions.len(), questions.len());
    Ok(job.items.iter().zip(found).map(|(item, user)| Item { user, ..item.clone() }).collect())
}

/// Where what is no answer stands, beside the files of answers.
fn subdirectory(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::create_dir_all(&path).at(&path)?;
    Ok(path)
}

/// A distinct prompt of a job, and the first item that has it.
struct Request<'a> {
    key: String,
    ids: Vec<u32>,
    item: &'a Item,
}

/// Answers the items of a job, from the file where it can, and leaves the file complete and in order.
fn answer(
    job: &Job,
    items: &[Item],
    respond: &dyn Respond,
    options: &EvalOptions,
    path: &Path,
    tick: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Answer>> {
    let temperature = if job.greedy { 0.0 } else { options.temperature };
    let sampling = Sampling { max_new_tokens: options.max_new_tokens, temperature, seed: options.seed };

    let mut keys = Vec::with_capacity(items.len());
    let mut requests: HashMap<String, Request<'_>> = HashMap::new();
    for item in items {
        let ids = respond
            .encode(&item.user, &item.opening)
            .map_err(|e| e.context(format!("question {}", item.question.id)))?;
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
        let finished = missing.iter().zip(responses).map(|(r, response)| {
            let text = format!("{}{}", r.item.opening, response.text);
            judged(r.item, &job.judges, Response { text, ..response }, &r.key)
        });
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
    let all: Vec<Answer> = items.iter().zip(keys).map(stored).collect::<Result<_>>()?;
    answers::write(path, &all)?;
    Ok(all)
}

/// The answers in the file that are asked for now, by key. Others are dropped from it.
fn resume(path: &Path, rounds: &[&[Request<'_>]]) -> Result<HashMap<String, Answer>> {
    let (lines, torn) = answers::read::<Answer>(path)?;
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

pub(crate) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the evaluation was stopped; results so far are kept")
        .hint("the same command again goes on from there")
}

#[cfg(test)]
mod tests;
