//! `eraser train`: sets and a model become an adapter.

use crate::options::train::TrainArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_run::{Outcome, describe};

/// Trains, and prints the summary.
pub(crate) fn train(args: &TrainArgs, json: bool) -> Outcome {
    let plan = args.plan()?;
    let mut watch = Terminal::new(json);
    let result = eraser_run::train(&plan, &mut watch);
    let summary = watch.finish(result).map_err(|f| f.on_interrupt("run the same command with --resume to go on"))?;
    if json {
        output::json(&summary)?;
    } else {
        let adapter = plan.request.dir.join("adapter");
        output::line(&format!("{} after {}", adapter.display(), describe(&summary)))?;
    }
    Ok(())
}
