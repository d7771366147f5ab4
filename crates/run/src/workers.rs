//! Processes that work together. In: what the first of them calls the others to, a training or shards of some work;
//! out: their part in it. Invariant: only the first does what a verb asks; the others do nothing but what it calls them
//! to, and of a training only the first writes.

use crate::crew;
use crate::divided::{self, Held};
use crate::failure::Outcome;
use crate::plan::ModelPlan;
use eraser_data::{Record, SetName};
use eraser_model::{Error, ErrorKind, Result};
use eraser_train::{Control, Group, Observer, Sets, StepMetrics, TrainOptions, TrainSummary, Training};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use crate::crew::{Crew, dismiss, lead};

/// Trains: together with the others, where there are some and they can load the model by `plan`.
pub(crate) fn train(
    plan: Option<&ModelPlan>,
    training: Training<'_>,
    observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    let Some((crew, plan)) = crew::crew().zip(plan) else { return training.run(observer) };
    let job = serde_json::to_vec(&Job::of(plan, &training)).map_err(Error::failed)?;
    let group: &dyn Group = crew;
    // A training that was stopped was so at all ranks.
    let left = |error: &Error| error.kind() == ErrorKind::Interrupted;
    crew::together(crew, &job, || Training { group, ..training }.run(observer), left)
}

/// What rank 0 calls the others to.
#[derive(Deserialize)]
#[serde(untagged)]
enum Called {
    Divided(Box<divided::Job>),
    Train(Box<Job>),
}

/// Does what rank 0 calls this rank to, until it is sent home.
///
/// # Errors
/// Whatever a training ends with, but for an interruption; whatever ends a shard.
pub fn follow(crew: &dyn Crew) -> Outcome {
    let mut held = Held::default();
    loop {
        let job = crew.wait()?;
        if job.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice(&job).map_err(Error::failed)? {
            Called::Divided(job) => job.take_part(crew, &mut held)?,
            Called::Train(job) => match job.work(crew, &mut held) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            },
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

    /// Trains.
    fn work(&self, crew: &dyn Crew, held: &mut Held) -> Result<TrainSummary> {
        let (sets, options) = (self.sets(), &self.options);
        let model = held.load(&self.model)?;
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
    use crate::builtin::Assets;
    use crate::failure::Problems;
    use crate::plan::ChatFlags;
    use crate::watch::Silent;
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
