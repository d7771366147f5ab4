//! The `eraser` binary. In: a command line; out: results on stdout, the rest on stderr, an exit code. Invariant: this
//! file decides nothing; options become plans, plans become stages.

mod conversation;
mod errors;
mod interrupt;
mod meter;
mod next;
mod options;
mod output;
mod progress;
#[cfg(test)]
mod reference;
mod verbs;

use clap::Parser as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    errors::install_panic_hook();
    // The hook has printed the error; only the exit code is left.
    std::panic::catch_unwind(start).unwrap_or(ExitCode::from(1))
}

fn start() -> ExitCode {
    let cli = options::Cli::parse();
    if let Some(commit) = option_env!("ERASER_COMMIT") {
        eraser_run::manifest::built_from(commit);
    }
    let global = &cli.global;
    let verbosity = if global.quiet { -1 } else { i8::try_from(global.verbose).unwrap_or(i8::MAX) };
    progress::init(verbosity, global.json);
    eraser_ops::threads::init(global.threads.map(usize::from));
    match interrupt::install(on_interrupt(&cli.verb)).map_err(Into::into).and_then(|()| verbs::run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            errors::print(&failure, cli.verb.name());
            ExitCode::from(errors::exit_code(&failure))
        }
    }
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
