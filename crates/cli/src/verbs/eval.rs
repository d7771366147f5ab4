//! `eraser eval`: models with and without adapters, measured.

use crate::errors::again;
use crate::next::{Command, suggest};
use crate::options::eval::EvalArgs;
use crate::output;
use crate::progress::Terminal;
use crate::verbs::sharded;
use eraser_run::plan::EvalPlan;
use eraser_run::{Outcome, table};

/// Evaluates, and prints the table.
pub(crate) fn eval(args: &EvalArgs, json: bool) -> Outcome {
    evaluated(&args.plan()?, json)
}

/// Evaluates as planned.
pub(super) fn evaluated(plan: &EvalPlan, json: bool) -> Outcome {
    let mut watch = Terminal::default();
    let result = eraser_run::eval(plan, &mut watch);
    let summary = watch.finish(result).map_err(|f| f.on_interrupt(again(plan.force)))?;
    if let Some(shard) = plan.part.shard() {
        return sharded(shard, &plan.dir, json);
    }
    if json {
        output::json(&summary)?;
    } else {
        output::text(&table(&plan.dir)?)?;
    }
    let trained = plan.dir.join("adapter").exists();
    let durability = trained.then(|| Command::new("durability").argument(&plan.dir));
    suggest(json, std::iter::once(Command::new("report").argument(&plan.dir)).chain(durability));
    Ok(())
}
