//! `eraser merge`: the command of shards, repeated with what they have left.

use super::{bench, eval, prepare, run};
use crate::options::Verb;
use crate::options::merge::MergeArgs;
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use eraser_run::Outcome;
use eraser_run::shards::{Joined, Part};
use std::path::{Path, PathBuf};

/// Merges the shards of each verb, and prints what the verb prints.
pub(crate) fn merge(args: &MergeArgs, json: bool) -> Outcome {
    let runs = args.runs.iter().map(|run| absolute(run)).collect::<Result<Vec<_>>>()?;
    let out = match (&args.out, runs.as_slice()) {
        (Some(out), _) => absolute(out)?,
        (None, [run]) if run.join("shards").is_dir() => run.clone(),
        (None, _) => {
            return Err(Error::request("--out: where the results of the shards go is not known")
                .hint("name a directory with --out")
                .into());
        }
    };
    for mut joined in Joined::find(&runs)? {
        if let Some(part) = joined.directories().find(|part| out.starts_with(part)) {
            return Err(Error::request(format!("--out: {} is within a shard, {}", out.display(), part.display()))
                .hint("name another directory")
                .into());
        }
        if let Some(device) = &args.device {
            computed_on(&mut joined.arguments, device);
        }
        // Paths of the command are relative to where it was given.
        if joined.directory.is_dir() {
            std::env::set_current_dir(&joined.directory).at(&joined.directory)?;
        }
        again(joined, &out, json)?;
    }
    Ok(())
}

/// Puts a device into the arguments of a command, in place of one that is there.
fn computed_on(arguments: &mut Vec<String>, device: &str) {
    const FLAG: &str = "--device";
    if let Some(at) = arguments.iter().position(|argument| argument == FLAG) {
        arguments.drain(at..(at + 2).min(arguments.len()));
    }
    arguments.retain(|argument| !argument.strip_prefix(FLAG).is_some_and(|rest| rest.starts_with('=')));
    arguments.extend([FLAG.to_owned(), device.to_owned()]);
}

/// The command of some shards, with what they have left.
fn again(joined: Joined, out: &Path, json: bool) -> Outcome {
    let cli = crate::parse(joined.arguments.iter().map(Into::into).collect());
    let dir = out.to_owned();
    match cli.map(|cli| cli.verb) {
        Ok(Verb::Prepare(args)) => {
            let mut plan = args.plan()?;
            (plan.dir, plan.force, plan.part) = (dir, false, Part::Joined(joined));
            prepare::prepared(&plan, json)
        }
        Ok(Verb::Eval(args)) => {
            let mut plan = args.plan()?;
            (plan.dir, plan.force, plan.part) = (dir, false, Part::Joined(joined));
            eval::evaluated(&plan, json)
        }
        Ok(Verb::Bench(args)) => {
            let mut plan = args.plan()?;
            (plan.dir, plan.force) = (dir, false);
            plan.take(Part::Joined(joined));
            bench::scored(&plan, json)
        }
        Ok(Verb::Run(args)) => run::run_by(&args, run::Way::joined(joined, out), json),
        Ok(Verb::Compare(args)) => run::compare_by(&args, run::Way::joined(joined, out), json),
        Ok(Verb::Sweep(args)) => run::sweep_by(&args, run::Way::joined(joined, out), json),
        // The parser has said what is wrong.
        _ => Err(Error::request("the command of the shards cannot be repeated by this version")
            .hint("merge them with the version that made them")
            .into()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).at(path)
}
