//! Processes that train together. In: a training of the first of them; out: the same training at all. Invariant: only
//! the first does what a verb asks, and writes; the others do nothing but take their part in trainings it calls them to.

use crate::builtin::Assets;
use crate::failure::Outcome;
use crate::plan::ModelPlan;
use crate::watch::Silent;
use eraser_data::{Record, SetName};
use eraser_model::{Error, ErrorKind, Model, Result};
use eraser_train::{Control, Group, Observer, Sets, StepMetrics, TrainOptions, TrainSummary, Training};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ranks of which the first calls the others.
pub trait Crew: Group {
    /// At rank 0: gives all others `job`, for which they wait.
    ///
    /// # Errors
    /// A rank that cannot be reached.
    fn call(&self, job: &[u8]) -> Result<()>;

    /// At the others: the next job, whenever it comes.
    ///
    /// # Errors
    /// Rank 0 cannot be reached.
    fn wait(&self) -> Result<Vec<u8>>;
}

/// The ranks that this process calls.
static CREW: OnceLock<Box<dyn Crew>> = OnceLock::new();
/// They are in a training, and do not wait for a job.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Says, at rank 0 and before any verb, who trains with this process.
pub fn lead(crew: Box<dyn Crew>) {
    // A second crew can only come from a second call, and changes nothing.
    let _ = CREW.set(crew);
}

/// Sends the others home, at rank 0. False: they are in a training that failed here, and do not listen.
///
/// # Errors
/// A rank that cannot be reached.
pub fn dismiss() -> Result<bool> {
    if BUSY.load(Ordering::SeqCst) {
        return Ok(false);
    }
    CREW.get().map_or(Ok(()), |crew| crew.call(&[]))?;
    Ok(true)
}

/// Trains: together with the others, where there are some and they can load the model by `plan`.
pub(crate) fn train(
    plan: Option<&ModelPlan>,
    training: Training<'_>,
    observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    let Some((crew, plan)) = CREW.get().zip(plan) else { return training.run(observer) };
    let job = serde_json::to_vec(&Job::of(plan, &training)).map_err(Error::failed)?;
    BUSY.store(true, Ordering::SeqCst);
    crew.call(&job)?;
    let result = Training { group: crew.as_ref(), ..training }.run(observer);
    // A training that ended, or was stopped, did so at all ranks.
    let ended = result.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Interrupted);
    BUSY.store(!ended, Ordering::SeqCst);
    result
}

/// Takes part in what rank 0 trains, at another rank, until it is sent home.
///
/// # Errors
/// Whatever a training ends with, but for an interruption.
pub fn follow(crew: &dyn Crew) -> Outcome {
    let mut held = None;
    loop {
        let job = crew.wait()?;
        if job.is_empty() {
            return Ok(());
        }
        let job: Job = serde_json::from_slice(&job).map_err(Error::failed)?;
        match job.work(crew, &mut held) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
    }
}

/// A training, as other ranks are told of it.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    model: ModelPlan,
    /// Questions and answers by the name of their set.
    sets: Vec<(String, Vec<[String; 2]>)>,
    options: TrainOptions,
    dir: PathBuf,
    states: PathBuf,
    resume: bool,
}

impl Job {
    fn of(plan: &ModelPlan, training: &Training<'_>) -> Self {
        let rows = |set: SetName| {
            let rows = training.sets.rows(set).iter();
            (set.name().to_owned(), rows.map(|row| [row.input.clone(), row.output.clone()]).collect())
        };
        Self {
            model: plan.clone(),
            sets: SetName::ALL.map(rows).to_vec(),
            options: training.options.clone(),
            dir: training.dir.to_owned(),
            states: training.states.to_owned(),
            resume: training.resume,
        }
    }

    /// The sets of [`Self::sets`].
    fn sets(&self) -> Sets {
        let record = |[input, output]: &[String; 2]| Record {
            input: input.clone(),
            output: output.clone(),
            ..Record::default()
        };
        let set = |(name, rows): &(String, Vec<[String; 2]>)| {
            let set = SetName::ALL.into_iter().find(|set| set.name() == name)?;
            Some((set, rows.iter().map(record).collect()))
        };
        self.sets.iter().filter_map(set).collect()
    }

    /// Trains. `held` is the model of the last job, which the next one mostly has too.
    fn work(&self, crew: &dyn Crew, held: &mut Option<(ModelPlan, Model)>) -> Result<TrainSummary> {
        let (sets, options) = (self.sets(), &self.options);
        let (_, model) = if let Some(same) = held.take_if(|(plan, _)| *plan == self.model) {
            held.insert(same)
        } else {
            // Before the next one is read: two may not fit.
            *held = None;
            held.insert((self.model.clone(), self.model.load(&Assets::InCache, &mut Silent)?))
        };
        let (dir, states, resume) = (self.dir.as_path(), self.states.as_path(), self.resume);
        Training { model, sets: &sets, options, dir, states, resume, group: crew }.run(&mut Follower)
    }
}

/// Sees nothing: rank 0 reports and decides.
struct Follower;

impl Observer for Follower {
    fn start(&mut self, _: usize, _: usize) {}

    fn step(&mut self, _: &StepMetrics) -> Control {
        Control::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Problems;
    use crate::plan::ChatFlags;
    use eraser_train::{Alone, Gamma};
    use std::path::Path;

    #[test]
    fn other_ranks_are_told_all_that_decides_a_training() {
        let variables = ["enable_thinking=false".to_owned()];
        let chat = ChatFlags { variables: &variables, think_end: Some("</t>"), ..ChatFlags::default() };
        let mut problems = Problems::default();
        let plan = ModelPlan::parse("builtin", ["cpu", "bf16", "auto"], chat, &|key| key.to_owned(), &mut problems);
        assert!(problems.messages().is_empty());
        let record = |i: usize| Record { input: format!("q {i}\n"), output: "é".repeat(i), ..Record::default() };
        let sets: Sets =
            SetName::ALL.into_iter().zip(0..).map(|(set, n)| (set, (0..n).map(record).collect())).collect();
        let options =
            TrainOptions { lr: 0.1 + 0.2, gamma: Gamma::Auto, layers: Some(vec![3]), ..TrainOptions::default() };
        let model = plan.load(&Assets::InCache, &mut Silent).unwrap();
        let (dir, states) = (Path::new("run"), Path::new("run/states.bin"));
        let training =
            Training { model: &model, sets: &sets, options: &options, dir, states, resume: true, group: &Alone };
        let told: Job = serde_json::from_slice(&serde_json::to_vec(&Job::of(&plan, &training)).unwrap()).unwrap();
        assert_eq!((&told.model, &told.options), (&plan, &options));
        assert_eq!((told.dir.as_path(), told.states.as_path(), told.resume), (dir, states, true));
        let read = told.sets();
        for set in SetName::ALL {
            assert_eq!(read.rows(set), sets.rows(set));
        }
    }
}
