//! The `eraser` binary. In: a command line; out: results on stdout, the rest on stderr, an exit code. Invariant: this
//! file decides nothing; options become plans, plans become stages.

mod builtin;
mod errors;
mod interrupt;
mod options;
mod output;
mod plan;
mod progress;
#[cfg(test)]
mod reference;
mod stages;
mod study;
mod verbs;

use clap::Parser as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    errors::install_panic_hook();
    // The hook has spoken; what is left is the code.
    std::panic::catch_unwind(start).unwrap_or(ExitCode::from(1))
}

fn start() -> ExitCode {
    let cli = options::Cli::parse();
    let global = &cli.global;
    let verbosity = if global.quiet { -1 } else { i8::try_from(global.verbose).unwrap_or(i8::MAX) };
    progress::init(verbosity, global.json);
    eraser_ops::threads::init(global.threads.map(usize::from));
    match interrupt::install().map_err(Into::into).and_then(|()| verbs::run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(cli.verb.name());
            ExitCode::from(failure.exit_code())
        }
    }
}
