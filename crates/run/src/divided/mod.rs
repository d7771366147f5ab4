//! Work that ranks divide: answers of an evaluation, scores of a benchmark, answers of a preparation. In: what is asked
//! of which model, and the directory of rank 0's command; out: the results of all ranks in it. Invariant: what is
//! computed together is what one process computes together, so the results are those of one process; a shard is written
//! into a directory of its own, and only rank 0 writes into that of the command.

mod ready;
mod work;

pub(crate) use work::Work;

use crate::builtin::Assets;
use crate::crew::{self, Crew, DIR, Done};
use crate::directory::{copy, remove};
use crate::failure::Outcome;
use crate::plan::ModelPlan;
use crate::shards::{differing, gather, results};
use crate::watch::{Silent, Watch, stoppable};
use eraser_data::{Progress, Shard};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Model, Result, counted};
use ready::Ready;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How often the shards of a preparation are begun at most. Each time its next stage can be answered: harmful answers,
/// what they name, help answers; the last time is for a disk that shows files late.
const TIMES: usize = 4;

/// Where results of `top` are put by ranks, in the directory of a run.
pub(crate) fn home(top: &str) -> String {
    format!("{DIR}/{top}")
}

/// Does `work` on a model as all ranks there are, and puts the results into `dir`, where what is there already is not
/// done again; one process alone does nothing but take up what ranks have left that were stopped. Gives how many
/// results the ranks have computed, where that is counted.
///
/// # Errors
/// Whatever ends a shard of this rank; a file that cannot be read or written.
pub(crate) fn divide(
    work: &Work,
    (plan, model): (&ModelPlan, &Model),
    dir: &Path,
    watch: &mut dyn Watch,
) -> Outcome<usize> {
    let top = work.top();
    let home = dir.join(home(top));
    take_up(dir, top, &home)?;
    let Some(crew) = crew::crew() else { return Ok(0) };
    let mut ready = Ready::new(work, (plan, model))?;
    let mut job = Job {
        work: work.clone(),
        model: plan.clone(),
        inputs: ready.inputs()?.hashes().clone(),
        dir: std::path::absolute(dir).at(dir)?,
        of: work.shards(crew.size()),
        first: true,
    };
    let what = format!("{top} by {}", counted(crew.size(), "rank"));
    let mut computed = 0;
    for _ in 0..TIMES {
        let bytes = serde_json::to_vec(&job).map_err(Error::failed)?;
        let shards = || {
            stoppable(watch, |progress| {
                let mut tick = |done: usize| progress.tick(&what, done, job.of);
                let mut shard = |index, alive: &mut dyn FnMut() -> bool| job.shard(index, &mut ready, alive);
                crew::hand_out(crew, job.of, &mut tick, &mut shard)
            })
        };
        // A rank that was stopped is in the middle of a shard.
        let done = crew::together(crew, &bytes, shards, |_| false)?;
        computed += done.computed;
        if done.complete {
            break;
        }
        job.first = false;
    }
    let parts = (1..=job.of).map(|index| job.home(index)).collect::<Vec<_>>();
    join(dir, top, &parts)?;
    forget(dir, &home)?;
    Ok(computed)
}

/// Joins what ranks that were stopped have left in `home` to the results in `dir`.
fn take_up(dir: &Path, top: &str, home: &Path) -> Result<()> {
    if !home.is_dir() {
        return Ok(());
    }
    let entries = std::fs::read_dir(home).at(home)?;
    let mut parts = entries.map(|entry| Ok(entry.at(home)?.path())).collect::<Result<Vec<_>>>()?;
    parts.sort();
    join(dir, top, &parts)?;
    forget(dir, home)
}

/// Adds the results of `parts` to those in `dir`.
fn join(dir: &Path, top: &str, parts: &[PathBuf]) -> Result<()> {
    // By a line that was cut short a reader knows that of what was written with it some is missing.
    gather(dir, top, parts.iter().map(PathBuf::as_path), true)
}

/// Removes what ranks have made, once it is in the run.
fn forget(dir: &Path, home: &Path) -> Result<()> {
    let name = home.strip_prefix(dir).unwrap_or(home).to_string_lossy().into_owned();
    remove(dir, &[&name])?;
    // It may hold other work.
    let _ = std::fs::remove_dir(dir.join(DIR));
    Ok(())
}

/// The model of the last job, which the next one mostly has too.
#[derive(Default)]
pub(crate) struct Held(Option<(ModelPlan, Model)>);

impl Held {
    /// The model of `plan`.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub(crate) fn load(&mut self, plan: &ModelPlan) -> Result<&Model> {
        let held = if let Some(same) = self.0.take_if(|(held, _)| held == plan) {
            self.0.insert(same)
        } else {
            // Before the next one is read: two may not fit.
            self.0 = None;
            self.0.insert((plan.clone(), plan.load(&Assets::InCache, &mut Silent)?))
        };
        Ok(&held.1)
    }
}

/// Work as other ranks are called to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    work: Work,
    model: ModelPlan,
    /// Hashes of what all ranks must have read.
    inputs: BTreeMap<String, String>,
    dir: PathBuf,
    /// So many shards.
    of: usize,
    /// They are begun for the first time.
    first: bool,
}

impl Job {
    /// Where a shard is put.
    fn home(&self, index: usize) -> PathBuf {
        self.dir.join(home(self.work.top())).join(format!("{index:04}-of-{:04}", self.of))
    }

    /// Does a shard.
    fn shard(&self, index: usize, ready: &mut Ready<'_>, alive: &mut dyn FnMut() -> bool) -> Outcome<Done> {
        let shard = Shard::new(index, self.of)
            .ok_or_else(|| Error::failed(format!("there is no shard {index} of {}", self.of)))?;
        let (home, top) = (self.home(index), self.work.top());
        std::fs::create_dir_all(&home).writing(&home)?;
        if self.first {
            // Results that are there already are not computed again.
            for file in results(&self.dir.join(top))? {
                copy(&file, &home.join(file.strip_prefix(&self.dir).unwrap_or(&file)))?;
            }
        }
        // A stage knows from its own stage before what it asks: others are looked for only when all have done that one.
        let others = |file: &Path| {
            let others = (1..=self.of).filter(|other| *other != index && !self.first);
            others.map(|other| self.home(other).join(file)).filter(|path| path.is_file()).collect()
        };
        ready.shard(shard, (&home, &others), &mut Alive(alive))
    }

    /// Does the shards that rank 0 gives to this rank.
    ///
    /// # Errors
    /// A model or files that are not those of rank 0; whatever ends a shard.
    pub(crate) fn take_part(&self, crew: &dyn Crew, held: &mut Held) -> Outcome {
        let mut ready = Ready::new(&self.work, (&self.model, held.load(&self.model)?))?;
        let differ = differing(&self.inputs, ready.inputs()?.hashes());
        if !differ.is_empty() {
            let what = format!("it has read something else than rank 0: {} differ", differ.join(", "));
            return Err(Error::request(what)
                .hint("every rank reads model, adapters and files from the same paths: copy them to all machines")
                .into());
        }
        crew::take_part(crew, &mut |index| self.shard(index, &mut ready, &mut || true))
    }
}

/// Progress within a shard: rank 0 shows how many shards are done.
struct Alive<'a>(&'a mut dyn FnMut() -> bool);

impl Progress for Alive<'_> {
    fn tick(&mut self, _: &str, _: usize, _: usize) -> bool {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::ready::ToPrepare;
    use super::*;
    use crate::failure::Problems;
    use crate::plan::ChatFlags;
    use eraser_data::prepare::PrepareOptions;
    use eraser_data::{Question, Record};
    use eraser_eval::{AnswerSet, EvalOptions, QuestionSet};
    use serde_json::{Map, json};
    use std::slice::from_ref;

    fn job(dir: &Path, work: Work) -> Job {
        let mut problems = Problems::default();
        let chat = ChatFlags::default();
        let model = ModelPlan::parse("builtin", ["cpu", "f32", "auto"], chat, &|key| key.to_owned(), &mut problems);
        let inputs = [("model".to_owned(), "1".to_owned())].into();
        Job { work, model, inputs, dir: dir.to_owned(), of: 8, first: true }
    }

    #[test]
    fn other_ranks_are_told_all_that_is_asked() {
        let subjects = vec![("base".to_owned(), None), ("one".to_owned(), Some(PathBuf::from("run/adapter")))];
        let path = PathBuf::from("ask.csv");
        let options = EvalOptions {
            temperature: 0.1 + 0.2,
            questions: vec![QuestionSet { set: "seen".into(), path: path.clone(), column: Some("goal".into()) }],
            likelihood_set: vec![AnswerSet { set: "known".into(), path }],
            limit: Some(3),
            ..EvalOptions::default()
        };
        let question = Question {
            id: "1".into(),
            text: "é?".into(),
            facts: vec!["a".into()],
            extra: Map::from_iter([("target".to_owned(), json!("Sure"))]),
            ..Question::default()
        };
        let record = Record { input: "q".into(), output: "a\n".into(), ..Record::default() };
        let options_of =
            PrepareOptions { temperature: 0.7, answers_model: Some("m".into()), ..PrepareOptions::default() };
        let prepare =
            Work::prepare(&options_of, from_ref(&question), Some(from_ref(&record)), &[], &["text".to_owned()]);
        assert_eq!((prepare.shards(3), prepare.top()), (3, "prepare"));
        let bench = Work::Bench { options: Box::default(), subjects: subjects.clone() };
        let eval = Work::Eval { options: Box::new(options), subjects };
        assert_eq!(eval.shards(3), 12);
        for work in [eval, bench, prepare] {
            let told = job(Path::new("run"), work);
            let read: Job = serde_json::from_slice(&serde_json::to_vec(&told).unwrap()).unwrap();
            assert_eq!(read, told);
            if let Work::Prepare(told) = read.work {
                let read = ToPrepare::new(&told).unwrap();
                assert_eq!((read.questions, read.answers), (vec![question.clone()], Some(vec![record.clone()])));
            }
        }
    }

    #[test]
    fn what_stopped_ranks_have_left_joins_what_is_there_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("eval/base/direct.jsonl", "1\n");
        write("ranks/eval/0001-of-0008/eval/base/direct.jsonl", "1\n2\n3");
        write("ranks/eval/0002-of-0008/eval/base/direct.jsonl", "4\n");
        write("ranks/eval/0002-of-0008/eval/base/search/gcg.jsonl", "5\n");
        write("ranks/bench/0001-of-0004/bench/base/a.jsonl", "6\n");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        take_up(dir.path(), "eval", &dir.path().join(home("eval"))).unwrap();
        assert_eq!(read("eval/base/direct.jsonl"), "1\n2\n4\n3");
        assert_eq!(read("eval/base/search/gcg.jsonl"), "5\n");
        // What is of other work stays for it.
        assert!(!dir.path().join("ranks/eval").exists() && !dir.path().join("bench").exists());
        take_up(dir.path(), "bench", &dir.path().join(home("bench"))).unwrap();
        assert_eq!(read("bench/base/a.jsonl"), "6\n");
        assert!(!dir.path().join(DIR).exists());
        take_up(dir.path(), "bench", &dir.path().join(home("bench"))).unwrap();
    }
}
