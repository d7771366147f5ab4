//! `eraser prepare`: questions become the three sets and a report on them.

use crate::errors::again;
use crate::next::{Command, suggest};
use crate::options::prepare::PrepareArgs;
use crate::output;
use crate::progress::{Terminal, note};
use crate::verbs::sharded;
use eraser_run::plan::PreparePlan;
use eraser_run::{Outcome, data_table};

/// Makes the sets and prints what is in them.
pub(crate) fn prepare(args: &PrepareArgs, json: bool) -> Outcome {
    prepared(&args.plan()?, json)
}

/// Makes them as planned.
pub(super) fn prepared(plan: &PreparePlan, json: bool) -> Outcome {
    let mut watch = Terminal::default();
    let result = eraser_run::prepare(plan, &mut watch);
    let report = watch.finish(result).map_err(|f| f.on_interrupt(again(plan.force)))?;
    if let Some(shard) = plan.part.shard() {
        return sharded(shard, &plan.dir, json);
    }
    if json {
        output::json(&report)?;
    } else {
        output::text(&data_table(&plan.dir)?)?;
        note(&format!("sets: {}", plan.dir.join("data").display()));
    }
    suggest(json, [training(plan)]);
    Ok(())
}

/// The training on what was made.
fn training(plan: &PreparePlan) -> Command {
    let sets = [("harm", "harm"), ("help-set", "help"), ("align", "align"), ("retain-set", "retain")];
    let command = Command::new("train").model(&plan.model);
    let command = sets.into_iter().fold(command, |command, (flag, set)| {
        let path = plan.dir.join("data").join(format!("{set}.jsonl"));
        if path.exists() { command.path(flag, &path) } else { command }
    });
    command.path("out", &plan.dir)
}
