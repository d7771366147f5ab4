//! `eraser train` and `eraser align`: sets and a model become an adapter.

use crate::next::{Command, suggest};
use crate::output;
use crate::progress::Terminal;
use eraser_run::plan::{TrainPlan, TrainRequest};
use eraser_run::{Outcome, describe};
use eraser_train::SetName;

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
    suggest(json, evaluation(plan));
    Ok(())
}

/// The evaluation of what was trained, on the questions that it was trained on.
fn evaluation(plan: &TrainPlan) -> Option<Command> {
    let TrainRequest { model, sets, dir, options, .. } = &plan.request;
    let of = |wanted: SetName| sets.iter().find(|(set, _)| *set == wanted).map(|(_, path)| path);
    let questions = of(SetName::Harm).or_else(|| of(SetName::Align))?;
    let adapter = format!("{}={}", options.method.name, dir.join("adapter").display());
    let command = Command::new("eval").model(model).option("adapter", &adapter);
    let command = command.option("questions", &format!("seen={}", questions.display()));
    let command = command.option("attacks", "direct,template").option("templates", "builtin/templates/held-out");
    Some(command.path("out", dir))
}
