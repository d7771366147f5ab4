//! `eraser train` and `eraser align`: sets and a model become an adapter.

use crate::output;
use crate::progress::Terminal;
use eraser_run::plan::TrainPlan;
use eraser_run::{Outcome, describe};

/// Trains, and prints the summary.
pub(crate) fn train(plan: &TrainPlan, json: bool) -> Outcome {
    let mut watch = Terminal::new(json);
    let result = eraser_run::train(plan, &mut watch);
    let hint = match (plan.request.force, plan.request.resume) {
        (true, _) => "run the same command with --resume in place of --force to go on",
        (false, true) => "run the same command again to go on",
        (false, false) => "run the same command with --resume to go on",
    };
    let summary = watch.finish(result).map_err(|f| f.on_interrupt(hint))?;
    if json {
        output::json(&summary)?;
    } else {
        let adapter = plan.request.dir.join("adapter");
        output::line(&format!("{} after {}", adapter.display(), describe(&summary)))?;
    }
    Ok(())
}
