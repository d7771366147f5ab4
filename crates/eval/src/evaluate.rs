//! Evaluation: subjects and options in, a file of judged answers per subject and attack and the summary out.
//! Invariant: stopped anywhere and started again, it leaves the same bytes as if it had not been stopped.

use crate::answers::Answer;
use crate::attack::search::{self, Search};
use crate::judge::{Judge, refuses};
use crate::merge::Admitted;
use crate::options::EvalOptions;
use crate::plan::{Item, Job, Plan};
use crate::rounds::Rounds;
use crate::subject::Fingerprint;
use crate::summary::{SubjectSummary, Summary};
use crate::target::{self, LoadedSubject, Prompt, Response, TargetModel, key};
use crate::task::Expect;
use crate::verdict::{Verdict, no_answer};
use crate::{changes, likelihood, marks, tally};
use eraser_data::ask::{Respond, interrupted};
use eraser_data::files::write_jsonl;
use eraser_data::{Entry, Journal, Progress, Question, Sampling};
use eraser_model::error::PathContext;
use eraser_model::{Error, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Batches generated before their answers are stored. A finished sequence is replaced by the next one only within
/// them: with more of them the batch stays full, with fewer less is lost when the process is killed.
const BATCHES: usize = 2;

/// Evaluates every subject in the directory `dir` that admitted them and writes `dir/eval/<subject>/<attack>.jsonl`
/// (one [`Answer`] a line, appended as they come; answers already there are not generated again) and returns the
/// summary, which the caller completes with timing and writes.
///
/// Files: `likelihood` (one [`likelihood::Line`] a line), and of answers `direct`, `template`, `prefill`, `gcg`,
/// `task-<name>`, `over-refusal`, `contrast`; below `search/` what attacks tried, below `judge/` what the model `judge`
/// replied. An answer counts as already there when model, adapter, generation options and prompt are the same; others
/// are dropped. Judgements are made anew from the stored answers and replies. `judge` is what [`EvalOptions::judge`]
/// names, and not asked unless a judge needs it. Of a plan that is one share of several, only its answers are made, and
/// the summary is empty; a local judge judges when the shares have been joined.
///
/// # Errors
/// A file that cannot be read or written; a failure of generation; `Interrupted` when `progress` says to stop.
pub fn evaluate(
    &Admitted { dir, subjects, served, ref fingerprints }: &Admitted<'_>,
    plan: &Plan,
    judge: Option<&dyn Respond>,
    progress: &mut dyn Progress,
) -> Result<Summary> {
    let mut summary = Summary { schema: Summary::SCHEMA, ..Summary::default() };
    let loaded =
        subjects.iter().zip(fingerprints).map(|(s, f)| LoadedSubject::new(s, f)).collect::<Result<Vec<_>>>()?;
    let targets = loaded.iter().map(|loaded| loaded as &dyn TargetModel);
    for target in targets.chain(served.iter().map(|served| served as &dyn TargetModel)) {
        // Whether the subject thinks is known now only, and before its first answer.
        for item in plan.jobs.iter().filter_map(|job| job.items.first()).filter(|item| item.in_thought) {
            target.encode(&item.user, &item.opening, true)?;
        }
    }
    for (subject, loaded) in subjects.iter().zip(&loaded) {
        if let Some(answers) = &plan.known_answers {
            likelihood::run(subject, loaded.fingerprint(), (answers, plan.share), dir, progress)?;
        }
        evaluate_one(&subject.name, loaded, plan, judge, dir, progress)?;
        if !plan.share.is_part() {
            summary.subjects.push(found(dir, &subject.name, loaded.fingerprint())?);
        }
    }
    for subject in served {
        evaluate_one(&subject.name, subject, plan, judge, dir, progress)?;
        let found = found(dir, &subject.name, &subject.fingerprint)?;
        summary.subjects.push(SubjectSummary { served: Some(subject.test.clone()), ..found });
    }
    if !plan.share.is_part() {
        changes::fill(dir, &mut summary)?;
        likelihood::fill(dir, &mut summary)?;
    }
    Ok(summary)
}

/// What the files of answers say of a subject.
fn found(dir: &Path, name: &str, fingerprint: &Fingerprint) -> Result<SubjectSummary> {
    let files = marks::read(dir, name, &fingerprint.subject)?;
    let (name, fingerprint) = (name.to_owned(), Some(fingerprint.clone()));
    Ok(SubjectSummary { name, fingerprint, ..tally::subject(&files) })
}

/// One subject through every job.
fn evaluate_one(
    subject: &str,
    target: &dyn TargetModel,
    plan: &Plan,
    judge: Option<&dyn Respond>,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let options = plan.options();
    let dir = dir.join("eval").join(subject);
    fs::create_dir_all(&dir).writing(&dir)?;
    for job in &plan.jobs {
        let path = dir.join(format!("{}.jsonl", job.file));
        let what = format!("{subject} {}", job.file);
        let unfinished = path.with_extension(marks::UNFINISHED);
        fs::write(&unfinished, "").writing(&unfinished)?;
        let search = job.attack.as_ref().and_then(|attack| attack.search());
        // A search takes far longer than the answer to what it has found, so it is shared out question by question.
        let alone = search.is_some() || !target.together();
        let size = if alone { 1 } else { options.batch.max(1).saturating_mul(BATCHES) };
        let mut rounds = Rounds::new(&job.items, target, size, plan.share)?;
        if let Some(search) = search {
            let mut tick = |done, total| progress.tick(&format!("{what}, search"), done, total);
            rounds.items = searched(job, &rounds.items, search, target, &dir, &mut tick)?.into();
        }
        let items = &rounds.items;
        let mut answers = answer(job, &rounds, target, options, &path, &mut Named { what: &what, progress })?;
        // Behind them are the answers to sets that are not asked now.
        let (asked, _) = answers.split_at_mut(items.len());
        for grader in &job.graders {
            if plan.share.is_part() && judge.is_none_or(|judge| judge.together() > 1) {
                // What is judged beside an answer changes the rounding of its verdict, and some of it is elsewhere.
                continue;
            }
            let judge = judge.ok_or_else(|| Error::failed("no model was given to the judges"))?;
            let replies = subdirectory(&dir, "judge")?.join(format!("{}-{}.jsonl", job.file, grader.file()));
            grader.grade(asked, judge, &options.judge, &replies, &mut Named { what: &what, progress })?;
        }
        if !job.graders.is_empty() {
            write_jsonl(&path, &answers)?;
        }
        fs::remove_file(&unfinished).writing(&unfinished)?;
    }
    Ok(())
}

/// Progress of one job of a subject.
struct Named<'a> {
    what: &'a str,
    progress: &'a mut dyn Progress,
}

impl Named<'_> {
    /// `done` of `total` answers of the job are there.
    fn answers(&mut self, done: usize, total: usize) -> bool {
        self.progress.tick(self.what, done, total)
    }
}

/// What is done besides within the job, under the job's name and its own.
impl Progress for Named<'_> {
    fn tick(&mut self, of: &str, done: usize, total: usize) -> bool {
        self.progress.tick(&format!("{}, {of}", self.what), done, total)
    }

    fn tokens(&mut self, more: usize) {
        self.progress.tokens(more);
    }
}

/// The items of a job with the prompts that its attack finds on the subject.
fn searched(
    job: &Job,
    items: &[Item],
    search: &dyn Search,
    target: &dyn TargetModel,
    dir: &Path,
    tick: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Item>> {
    let questions: Vec<&Question> = items.iter().map(|item| &item.question).collect();
    let path = subdirectory(dir, "search")?.join(format!("{}.jsonl", job.file));
    let found = target.search(search, &questions, &path, &mut |done| tick(done, questions.len()))?;
    let found = found.ok_or_else(interrupted)?;
    tick(questions.len(), questions.len());
    Ok(items.iter().zip(found).map(|(item, user)| Item { user, ..item.clone() }).collect())
}

/// The directory for results that are not answers, beside the files of answers.
fn subdirectory(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::create_dir_all(&path).writing(&path)?;
    Ok(path)
}

/// A distinct prompt of a job, and the first item that has it.
struct Request<'a> {
    key: String,
    prompt: Prompt,
    item: &'a Item,
}

/// Answers the items of a job, takes from the file what it holds already, and leaves it complete and in order.
fn answer(
    job: &Job,
    all: &Rounds<'_>,
    target: &dyn TargetModel,
    options: &EvalOptions,
    path: &Path,
    progress: &mut Named<'_>,
) -> Result<Vec<Answer>> {
    let temperature = if job.greedy { 0.0 } else { options.temperature };
    let temperature = f64::from(temperature);
    let sampling = Sampling { temperature, seed: options.seed, ..Sampling::greedy(options.max_new_tokens) };

    let thinking = target.thinking();
    let thinking = thinking.as_deref();
    let items: &[Item] = &all.items;
    let mut requests: Vec<Request<'_>> = Vec::with_capacity(items.len());
    for item in items {
        let prompt = target
            .encode(&item.user, &item.opening, item.in_thought)
            .map_err(|e| e.context(format!("question {}", item.question.id)))?;
        let key = key(&target.fingerprint().subject, &sampling, thinking, &prompt);
        requests.push(Request { key, prompt, item });
    }
    let keys: Vec<String> = requests.iter().map(|request| request.key.clone()).collect();
    let mut once: HashSet<&str> = HashSet::new();
    let mut rounds: Vec<Vec<&Request<'_>>> = Vec::with_capacity(all.together.len());
    for round in &all.together {
        let requests = round.iter().filter_map(|&i| requests.get(i));
        rounds.push(requests.filter(|request| once.insert(request.key.as_str())).collect());
    }

    let subject = target.fingerprint().short();
    let search = job.attack.as_ref().and_then(|attack| attack.search());
    let search = search.map(search::settings_hash).unwrap_or_default();
    let origin = Origin { subject, sampling: target::told(&sampling, thinking), search };
    let sets: HashSet<&str> = items.iter().map(|item| item.set.as_str()).collect();
    let (mut journal, stored) = Stored::read(path, subject, &sets, &rounds)?;
    let Stored { answers: mut done, judgements, others } = stored;
    let line = |item: &Item, response, key: &str| {
        let earlier =
            judgements.get(&(item.set.clone(), item.question.id.clone(), item.attack.clone(), key.to_owned()));
        judged(item, &job.judges, response, key, &origin, earlier)
    };
    let total = rounds.iter().map(Vec::len).sum();
    // What is not made together is asked for all at once, and each answer stored as it comes.
    let asked = if target.together() { rounds } else { vec![rounds.concat()] };
    for (n, round) in asked.iter().enumerate() {
        let missing: Vec<&Request<'_>> = round.iter().copied().filter(|r| !done.contains_key(&r.key)).collect();
        let before = done.len();
        if !progress.answers(before, total) {
            return Err(interrupted());
        }
        if missing.is_empty() {
            continue;
        }
        all.check(n, progress.what)?;
        let prompts: Vec<Prompt> = missing.iter().map(|r| r.prompt.clone()).collect();
        let mut alive = |ended: usize, tokens: usize| {
            progress.tokens(tokens);
            progress.answers(before + ended, total)
        };
        let mut take = |responses: Vec<(usize, Response)>| {
            let of = |(i, response): (usize, Response)| Some((*missing.get(i)?, response));
            let finished = responses.into_iter().filter_map(of).map(|(r, response)| line(r.item, response, &r.key));
            let finished: Vec<Answer> = finished.collect();
            done.extend(finished.iter().map(|a| (a.fingerprint.clone(), a.clone())));
            journal.append(finished)
        };
        if !target.respond(&prompts, &sampling, options.batch, &mut alive, &mut take)? {
            return Err(interrupted());
        }
    }
    progress.answers(done.len(), total);

    let stored = |(item, key): (&Item, String)| {
        let answer =
            done.get(&key).ok_or_else(|| Error::failed(format!("question {} was not answered", item.question.id)))?;
        let Answer { response: text, thought, unfinished, tokens, stopped, .. } = answer.clone();
        Ok(line(item, Response { text, thought, unfinished, tokens, stopped }, &key))
    };
    let mut answers: Vec<Answer> = items.iter().zip(keys).map(stored).collect::<Result<_>>()?;
    answers.extend(others);
    journal.finish(&answers)?;
    Ok(answers)
}

/// What a file of answers holds already.
struct Stored {
    /// Those that are asked for now, by key.
    answers: HashMap<String, Answer>,
    /// Earlier judgements of them, also of judges that are not asked now.
    judgements: HashMap<<Answer as Entry>::Key, BTreeMap<String, Verdict>>,
    /// The same subject's answers to sets that are not asked now.
    others: Vec<Answer>,
}

impl Stored {
    /// Reads the file, and drops from it what is neither asked for now nor of another set of the same subject.
    fn read(
        path: &Path,
        subject: &str,
        sets: &HashSet<&str>,
        rounds: &[Vec<&Request<'_>>],
    ) -> Result<(Journal<Answer>, Self)> {
        let mut journal: Journal<Answer> = Journal::open(path)?;
        let before = journal.len();
        let is_other = |a: &&Answer| a.subject == subject && !sets.contains(a.set.as_str());
        let (others, lines): (Vec<&Answer>, Vec<&Answer>) = journal.entries().iter().partition(is_other);
        let others: Vec<Answer> = others.into_iter().cloned().collect();
        let mut found: HashMap<&str, Vec<&Answer>> = HashMap::new();
        for answer in lines {
            found.entry(&answer.fingerprint).or_default().push(answer);
        }
        let mut kept: Vec<Answer> = Vec::new();
        for round in rounds {
            let whole = round.iter().all(|r| found.contains_key(r.key.as_str()));
            let present = round.iter().filter_map(|r| found.remove(r.key.as_str())).flatten();
            // A round that was cut short while it was stored is generated again as a whole: beside other prompts an
            // answer can differ by rounding, and an interrupted evaluation must give the same answers.
            if whole || !journal.cut_short() {
                kept.extend(present.cloned());
            }
        }
        if journal.cut_short() || kept.len() + others.len() < before {
            kept.sort_by(|a, b| (&a.fingerprint, &a.set, &a.id).cmp(&(&b.fingerprint, &b.set, &b.id)));
            journal.finish(kept.iter().chain(&others))?;
            journal = Journal::open(path)?;
        }
        let judgements = kept.iter().map(|a| (a.key(), a.judgements.clone())).collect();
        let answers = kept.into_iter().map(|a| (a.fingerprint.clone(), a)).collect();
        Ok((journal, Self { answers, judgements, others }))
    }
}

/// What all answers of a file have in common.
struct Origin<'a> {
    subject: &'a str,
    /// See [`Answer::sampling`].
    sampling: String,
    /// See [`Answer::search`].
    search: String,
}

/// The line of an answer, judged. The judges see the model's words only: an opening that the attacker gave is not an
/// answer, and neither is a thought, which is judged by itself.
fn judged(
    item: &Item,
    judges: &[&dyn Judge],
    response: Response,
    key: &str,
    origin: &Origin<'_>,
    earlier: Option<&BTreeMap<String, Verdict>>,
) -> Answer {
    let Response { text, thought, unfinished, tokens, stopped } = response;
    let is_task = |judge: &&dyn Judge| judge.name() == Expect::NAME;
    let verdict = |judge: &&dyn Judge| {
        // A task is not done without an answer; of an attack nothing can be said.
        let none = unfinished && !is_task(judge);
        let verdict = if none { no_answer() } else { judge.judge(&item.question, &text) };
        (judge.name().to_owned(), verdict)
    };
    let mut judgements = earlier.cloned().unwrap_or_default();
    judgements.extend(judges.iter().map(verdict));
    let of_thought = judges.iter().filter(|judge| !thought.is_empty() && !is_task(judge));
    let thought_judgements =
        of_thought.map(|judge| (judge.name().to_owned(), judge.judge(&item.question, &thought))).collect();
    Answer {
        id: item.question.id.clone(),
        set: item.set.clone(),
        attack: item.attack.clone(),
        question: item.question.text.clone(),
        prompt: item.user.clone(),
        opening: item.opening.clone(),
        in_thought: item.in_thought,
        judgements,
        thought_judgements,
        refused: !unfinished && refuses(&text),
        degenerate: !unfinished && crate::degenerate::degenerate(&text).is_some(),
        unfinished,
        thought,
        response: text,
        tokens,
        stopped,
        subject: origin.subject.to_owned(),
        sampling: origin.sampling.clone(),
        search: origin.search.clone(),
        fingerprint: key.to_owned(),
    }
}

#[cfg(test)]
mod tests;
