//! `eraser prepare`: questions become the three sets and a report on them.

use crate::errors::again;
use crate::options::prepare::PrepareArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_run::{Outcome, data_table};

/// Makes the sets and prints what is in them.
pub(crate) fn prepare(args: &PrepareArgs, json: bool) -> Outcome {
    let plan = args.plan()?;
    let mut watch = Terminal::default();
    let result = eraser_run::prepare(&plan, &mut watch);
    let report = watch.finish(result).map_err(|f| f.on_interrupt(again(args.questions.force)))?;
    if json {
        output::json(&report)?;
    } else {
        output::text(&data_table(&plan.dir)?)?;
    }
    Ok(())
}
