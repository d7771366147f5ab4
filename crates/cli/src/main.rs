//! The `eraser` binary. In: a command line; out: results on stdout, the rest on stderr, an exit code. Invariant: this
//! file decides nothing; options become plans, plans become stages.

mod argv;
mod command;
mod conversation;
mod errors;
mod interrupt;
mod lines;
mod meter;
mod next;
mod options;
mod output;
mod page;
mod progress;
mod ranks;
#[cfg(test)]
mod reference;
mod shown;
mod verbs;
mod version;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    errors::install_panic_hook();
    // The hook has printed the error; only the exit code is left.
    std::panic::catch_unwind(start).unwrap_or(ExitCode::from(1))
}

fn start() -> ExitCode {
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if let Some(commit) = option_env!("ERASER_COMMIT") {
        eraser_run::manifest::built_from(commit);
    }
    let global = &cli.global;
    let ranks = match ranks::Ranks::of(&cli.verb) {
        Ok(ranks) => ranks,
        Err(error) => {
            ranks::refuse(error, cli.verb.name());
            return ExitCode::from(2);
        }
    };
    let verbosity = if global.quiet { -1 } else { i8::try_from(global.verbose).unwrap_or(i8::MAX) };
    progress::init(if ranks.follow() { -1 } else { verbosity }, global.json);
    eraser_ops::threads::init(global.threads.map(usize::from).or(ranks.threads()));
    // The hook has printed the error of a panic, which must not leave the other ranks waiting.
    let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ranks.work(&cli)));
    let code = match work {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => {
            ranks.before_an_error();
            errors::print(&failure, cli.verb.name());
            errors::exit_code(&failure)
        }
        Err(_) => 1,
    };
    ranks.end(code)
}

/// The command line; where it is wrong, or only asks for help, what there is to say has been said.
fn parse(typed: Vec<std::ffi::OsString>) -> Result<options::Cli, ExitCode> {
    let mut root = argv::with_negative_values(options::Cli::command());
    root.build();
    let refuse = |error: eraser_model::Error| {
        if ranks::speaks() {
            errors::print(&error.into(), "help");
        }
        ExitCode::from(2)
    };
    let arguments = argv::named(typed, &root).map_err(refuse)?;
    let parsed = root.try_get_matches_from_mut(&arguments).and_then(|m| options::Cli::from_arg_matches(&m));
    parsed.map_err(|error| {
        if let (ErrorKind::UnknownArgument, Some(ContextValue::String(option))) =
            (error.kind(), error.get(ContextKind::InvalidArg))
            && let Some(error) = argv::unknown(option, &arguments, &root)
        {
            return refuse(error);
        }
        if let Some(error) = argv::negative(&error, &arguments, &root) {
            return refuse(error);
        }
        // Nothing can be done about an output that is gone. Of several ranks one says it.
        if ranks::speaks() {
            let _ = error.print();
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}

/// What the first Ctrl-C says that does not end the program at once.
fn on_interrupt(verb: &options::Verb) -> fn() {
    match verb {
        options::Verb::Serve(_) => verbs::serve::stopping,
        // It stops the answer that is being written, which is seen.
        options::Verb::Chat(_) => || (),
        _ => || progress::note("finishing this step and saving; press Ctrl-C again to stop at once"),
    }
}
