//! What each verb does, from its plan to its files.

mod bench;
mod chat;
mod durability;
mod eval;
mod export;
mod prepare;
mod report;
mod run;
mod serve;
mod study;
mod train;

use crate::errors::Outcome;
use crate::options::{Cli, Verb};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Held while a directory is written to.
const LOCK: &str = ".lock";

/// Runs the verb of a command line.
pub(crate) fn run(cli: &Cli) -> Outcome {
    match &cli.verb {
        // It waits for others, and its engine enters the pool itself.
        Verb::Serve(args) => serve::serve(args, cli.global.json),
        // From within the pool, an operation need not wake it for each of its parts: half of the time of a small model.
        _ => rayon::scope(|_| work(cli)),
    }
}

fn work(cli: &Cli) -> Outcome {
    let json = cli.global.json;
    match &cli.verb {
        Verb::Quickstart(args) => run::quickstart(args, json),
        Verb::Run(args) => run::run(args, json),
        Verb::Prepare(args) => prepare::prepare(args, json),
        Verb::Compare(args) => study::compare(args, json),
        Verb::Sweep(args) => study::sweep(args, json),
        Verb::Train(args) => train::train(args, json),
        Verb::Eval(args) => eval::eval(args, json),
        Verb::Bench(args) => bench::bench(args, json),
        Verb::Durability(args) => durability::durability(args, json),
        Verb::Report(args) => report::report(args, json),
        Verb::Export(args) => export::export(args, json),
        Verb::Chat(args) => chat::chat(args, json),
        Verb::Serve(args) => serve::serve(args, json),
    }
}

/// Removes files and directories of `dir`, if they are there.
fn remove(dir: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = dir.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).at(&path),
            _ => {}
        }
    }
    Ok(())
}

/// Makes `dir` and keeps other processes out of it for as long as the result lives.
fn lock(dir: &Path) -> Result<File> {
    std::fs::create_dir_all(dir).at(dir)?;
    let path = dir.join(LOCK);
    let file = File::options().create(true).append(true).open(&path).at(&path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::request(format!("{}: another eraser is at work in it", dir.display()))
                .hint("wait for it, or name another directory"))
        }
        // A file system without locks is no reason not to work.
        Err(TryLockError::Error(_)) | Ok(()) => Ok(file),
    }
}
