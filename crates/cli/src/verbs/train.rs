//! `eraser train`: sets and a model become an adapter.

use super::remove;
use crate::errors::Outcome;
use crate::interrupt::Graceful;
use crate::options::train::TrainArgs;
use crate::output;
use crate::plan::TrainPlan;
use crate::progress::{TrainWatch, note};
use eraser_model::Model;
use eraser_train::{Sets, TrainOptions, TrainSummary};
use std::path::Path;

/// Trains, and prints the summary.
pub(crate) fn train(args: &TrainArgs, json: bool) -> Outcome {
    let plan = TrainPlan::resolve(args)?;
    let model = plan.model.load(&plan.home)?;
    if plan.force {
        remove(&plan.dir, &["adapter", "train"])?;
    }
    let states = plan.dir.join("train/reference/states.bin");
    let (name, sets, options, dir) = ("train", &plan.sets, &plan.options, plan.dir.as_path());
    let go = Stage { name, model: &model, sets, options, dir, states: &states };
    let summary =
        go.run(plan.resume, json).map_err(|f| f.on_interrupt("run the same command with --resume to go on"))?;
    if json {
        output::json(&summary)?;
    } else {
        let adapter = plan.dir.join("adapter");
        output::line(&format!("{} after {}", adapter.display(), describe(&summary)))?;
    }
    Ok(())
}

/// A training run about to start.
pub(super) struct Stage<'a> {
    /// Stands before the bar.
    pub(super) name: &'a str,
    pub(super) model: &'a Model,
    pub(super) sets: &'a Sets,
    pub(super) options: &'a TrainOptions,
    /// Gets `adapter/` and `train/`.
    pub(super) dir: &'a Path,
    /// The file of the frozen model's states.
    pub(super) states: &'a Path,
}

impl Stage<'_> {
    /// Does it; Ctrl-C saves and ends in an interruption.
    pub(super) fn run(&self, resume: bool, json: bool) -> Outcome<TrainSummary> {
        let mut watch = TrainWatch::new(self.name, json);
        let graceful = Graceful::begin();
        let result =
            eraser_train::train(self.model, self.sets, self.options, self.dir, self.states, resume, &mut watch);
        drop(graceful);
        // An error of the JSON lines stopped the run: it is the one to tell.
        watch.finish()?;
        let summary = result?;
        if let Some(share) = summary.capped_share.filter(|s| *s == 0.0) {
            let gamma = self.options.gamma;
            note(&format!(
                "{}: the hinge never closed ({share} of micro-batches reached gamma {gamma}); \
                           more steps or a higher learning rate would go further",
                self.name
            ));
        }
        Ok(summary)
    }
}

/// Steps, speed and memory in words.
pub(super) fn describe(summary: &TrainSummary) -> String {
    let parts = [
        Some(format!("{} steps", summary.steps)),
        summary.tokens_per_s.map(|speed| format!("{speed:.0} tokens/s")),
        summary.peak_rss_mb.map(|mb| format!("{mb} MB")),
        summary.capped_share.map(|share| format!("gamma reached in {:.0} % of micro-batches", 100.0 * share)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
