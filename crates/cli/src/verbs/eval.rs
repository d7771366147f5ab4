//! `eraser eval`: models with and without adapters, measured.

use crate::errors::again;
use crate::next::{Command, suggest};
use crate::options::eval::EvalArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_run::{Outcome, table};

/// Evaluates, and prints the table.
pub(crate) fn eval(args: &EvalArgs, json: bool) -> Outcome {
    let plan = args.plan()?;
    let mut watch = Terminal::default();
    let result = eraser_run::eval(&plan, &mut watch);
    let summary = watch.finish(result).map_err(|f| f.on_interrupt(again(plan.force)))?;
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
