//! `eraser completions` and `eraser man`. In: clap's description of the commands; out: a script for a shell, pages for
//! `man`. Invariant: both are made of the same commands as the help.

use crate::options::Cli;
use crate::options::shell::{CompletionsArgs, ManArgs};
use crate::output;
use clap::CommandFactory as _;
use eraser_data::files::write_atomic;
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use eraser_run::Outcome;
use serde_json::json;

/// The script of a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "eraser", &mut script);
    let script = String::from_utf8(script).map_err(|e| Error::failed(format!("the script: {e}")))?;
    Ok(output::text(&script)?)
}

/// The pages, as files or the first one on stdout.
pub(crate) fn man(args: &ManArgs, json: bool) -> Outcome {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let Some(dir) = &args.out else { return Ok(output::text(&page(&root, "eraser")?)?) };
    std::fs::create_dir_all(dir).writing(dir)?;
    let mut written = Vec::new();
    let verbs = root.get_subcommands().map(|verb| (format!("eraser-{}", verb.get_name()), verb.clone()));
    for (name, command) in std::iter::once(("eraser".to_owned(), root.clone())).chain(verbs) {
        let path = dir.join(format!("{name}.1"));
        write_atomic(&path, page(&command, &name)?.as_bytes())?;
        written.push(path);
    }
    if json {
        output::json(&json!({ "pages": written }))?;
    } else {
        output::line(&format!("{} in {}", eraser_model::counted(written.len(), "page"), dir.display()))?;
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> Result<String> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("the page {name}: {e}"));
    let mut page = Vec::new();
    // The one-line version: the machine that makes a page is not the one that it is read on.
    let command = command.clone().version(crate::version::short()).long_version(None);
    clap_mangen::Man::new(command).title(name).render(&mut page).map_err(|e| failed(&e))?;
    String::from_utf8(page).map_err(|e| failed(&e))
}
