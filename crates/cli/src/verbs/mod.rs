//! What each verb does, from its plan to its files.

mod bench;
mod chat;
mod check;
mod doctor;
mod durability;
mod eval;
mod export;
mod harden;
mod judge;
mod merge;
mod methods;
mod plan;
mod prepare;
mod report;
mod run;
mod schema;
pub(crate) mod serve;
mod shell;
mod train;

use crate::next::{Command, suggest};
use crate::options::{Cli, Verb};
use crate::output;
use eraser_data::Shard;
use eraser_run::Outcome;
use std::path::Path;

/// Runs the verb of a command line.
pub(crate) fn run(cli: &Cli) -> Outcome {
    if matches!(cli.verb, Verb::Serve(_)) {
        // It waits for others, and its engine enters the pool itself.
        return work(&cli.verb, cli.global.json);
    }
    // From within the pool, an operation need not wake it for each of its parts: half of the time of a small model.
    rayon::scope(|_| work(&cli.verb, cli.global.json))
}

fn work(verb: &Verb, json: bool) -> Outcome {
    match verb {
        Verb::Quickstart(args) => run::quickstart(args, json),
        Verb::Harden(args) => harden::harden(args, json),
        Verb::Init(args) => harden::init(args, json),
        Verb::Run(args) => run::run(args, json),
        Verb::Plan(args) => plan::plan(args, json),
        Verb::Prepare(args) => prepare::prepare(args, json),
        Verb::Compare(args) => run::compare(args, json),
        Verb::Sweep(args) => run::sweep(args, json),
        Verb::Tune(args) => run::tune(args, json),
        Verb::Train(args) => train::train(&args.plan()?, json),
        Verb::Align(args) => train::train(&args.plan()?, json),
        Verb::Eval(args) => eval::eval(args, json),
        Verb::Bench(args) => bench::bench(args, json),
        Verb::Judge(args) => judge::judge(args, json),
        Verb::Merge(args) => merge::merge(args, json),
        Verb::Durability(args) => durability::durability(args, json),
        Verb::Check(args) => check::check(args, json),
        Verb::Report(args) => report::report(args, json),
        Verb::Export(args) => export::export(args, json),
        Verb::Doctor(args) => doctor::check_model(args, json),
        Verb::Chat(args) => chat::chat(args, json),
        Verb::Serve(args) => serve::serve(args, json),
        Verb::Methods(_) => methods::print(json),
        Verb::Schema(_) => schema::print(),
        Verb::Completions(args) => shell::completions(args),
        Verb::Man(args) => shell::man(args, json),
    }
}

/// Says that a shard has ended.
fn sharded(shard: Shard, dir: &Path, json: bool) -> Outcome {
    if json {
        output::json(&serde_json::json!({"shard": shard.to_string(), "dir": dir}))?;
        return Ok(());
    }
    output::text(&format!("shard {shard}: {}\n", dir.display()))?;
    let run = dir.ancestors().nth(2).unwrap_or(dir);
    suggest(json, [Command::new("merge").argument(run)]);
    Ok(())
}
