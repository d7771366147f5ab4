//! `eraser harden` and `init`: a first run. In: a model and a list of questions; out: a run file, and with `harden` what
//! it says. Invariant: a file that a user has changed is never replaced without being told to.

use super::run::{earlier, whole};
use crate::errors::again;
use crate::next::{Command, suggest};
use crate::options::harden::{HardenArgs, InitArgs};
use crate::output;
use crate::progress::{Terminal, note};
use eraser_data::files::write_atomic;
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use eraser_run::plan::{FirstRun, Overrides, RunPlan, Size, flag};
use eraser_run::{Outcome, bounded};
use std::path::{Path, PathBuf};

/// `eraser harden`: a run file beside the run directory, and the run.
pub(crate) fn harden(args: &HardenArgs, json: bool) -> Outcome {
    let dir = args.go.out.clone().unwrap_or_else(|| args.first.dir());
    let file = beside(&dir);
    let overrides = args.go.how.overrides(Some(&dir));
    if dir.join("plan.toml").is_file() && !file.exists() && !args.go.force {
        let what = format!("{}: it holds a run that `harden` did not make", dir.display());
        return Err(Error::request(what)
            .hint("name another directory with --out; --force removes this run and begins another")
            .into());
    }
    let first = args.first.first(dir.clone())?;
    let text = match args.minutes {
        Some(minutes) => within(&first, minutes, &file, &overrides, args.go.force)?,
        None => first.to_toml(&flag)?,
    };
    // Before the file is written: what cannot be run leaves none.
    let plan = RunPlan::parse(&file, &text, &overrides)?;
    few(&first)?;
    write_new(&file, &text, args.go.force)?;
    note(&format!("run file: {}", file.display()));
    whole(&plan, earlier(&args.go), None, json).map_err(|f| f.on_interrupt(again(args.go.force)))
}

/// The run file of a run that takes about so many minutes. The same command again goes on with the size that was chosen
/// before: another measurement would give another one.
fn within(first: &FirstRun, minutes: f64, file: &Path, overrides: &Overrides<'_>, force: bool) -> Outcome<String> {
    let found = std::fs::read_to_string(file).unwrap_or_default();
    match Size::recorded(&found, minutes).filter(|_| !force) {
        Some(size) => FirstRun { size: Some(size), minutes: Some(minutes), ..first.clone() }.to_toml(&flag),
        None => bounded(first, minutes, file, overrides, &flag, &mut Terminal::default()),
    }
}

/// `eraser init`: the run file only.
pub(crate) fn init(args: &InitArgs, json: bool) -> Outcome {
    let dir = args.first.dir();
    let first = args.first.first(dir)?;
    let text = first.to_toml(&flag)?;
    RunPlan::parse(&args.out, &text, &Overrides::default())?;
    few(&first)?;
    write_new(&args.out, &text, args.force)?;
    output::line(&format!("run file: {}", args.out.display()))?;
    suggest(json, [Command::new("run").argument(&args.out)]);
    Ok(())
}

/// A word on questions that are too few to show anything.
fn few(first: &FirstRun) -> Outcome {
    if let Some(n) = first.too_few(&flag)? {
        tracing::warn!(
            "{n} questions measure: with fewer than 12 the verdict can only be that they are too few to tell; give more"
        );
    }
    Ok(())
}

/// `runs/x.toml` of the directory `runs/x`.
fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".toml");
    dir.with_file_name(name)
}

/// Writes a file, unless one with another content is there that is not to be replaced.
fn write_new(file: &Path, text: &str, force: bool) -> Result<()> {
    match std::fs::read_to_string(file) {
        Ok(found) if found != text && !force => {
            return Err(Error::request(format!("{}: the file is there, with other content", file.display()))
                .hint(format!("to do what it says: eraser run {}", file.display()))
                .hint("to replace it: --force; or name another --out"));
        }
        _ => {}
    }
    if let Some(parent) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).writing(parent)?;
    }
    write_atomic(file, text.as_bytes())
}
