//! `eraser harden` and `init`: a first run. In: a model and a list of questions; out: a run file, and with `harden` what
//! it says. Invariant: a file that a user has changed is never replaced without being told to.

use super::run::{earlier, whole};
use crate::errors::again;
use crate::next::{Command, suggest};
use crate::options::harden::{HardenArgs, InitArgs};
use crate::output;
use crate::progress::note;
use eraser_data::files::write_atomic;
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use eraser_run::Outcome;
use eraser_run::plan::{Overrides, RunPlan};
use std::path::{Path, PathBuf};

/// `eraser harden`: a run file beside the run directory, and the run.
pub(crate) fn harden(args: &HardenArgs, json: bool) -> Outcome {
    let dir = args.go.out.clone().unwrap_or_else(|| args.first.dir());
    let file = beside(&dir);
    let text = args.first.to_toml(dir.clone())?;
    // Before the file is written: what cannot be run leaves none.
    let overrides = args.go.how.overrides(Some(&dir));
    let plan = RunPlan::parse(&file, &text, &overrides)?;
    write_new(&file, &text, args.go.force)?;
    note(&format!("run file: {}", file.display()));
    whole(&plan, earlier(&args.go), None, json).map_err(|f| f.on_interrupt(again(args.go.force)))
}

/// `eraser init`: the run file only.
pub(crate) fn init(args: &InitArgs, json: bool) -> Outcome {
    let dir = args.first.dir();
    let text = args.first.to_toml(dir.clone())?;
    RunPlan::parse(&args.out, &text, &Overrides::default())?;
    write_new(&args.out, &text, args.force)?;
    output::line(&format!("run file: {}", args.out.display()))?;
    suggest(json, [Command::new("run").argument(&args.out)]);
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
