//! `eraser completions` and `eraser man`: what a shell and its user are told of the commands.

use clap::{Args, ValueHint};
use clap_complete::Shell;
use std::path::PathBuf;

/// Options of `eraser completions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "bash: eraser completions bash > ~/.local/share/bash-completion/completions/eraser\n\
                        zsh: eraser completions zsh > DIR/_eraser, with DIR in $fpath\n\
                        fish: eraser completions fish > ~/.config/fish/completions/eraser.fish")]
pub(crate) struct CompletionsArgs {
    /// Shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Options of `eraser man`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "One page is for eraser itself, and one for each verb, as eraser-run.1. `man -l DIR/eraser.1` shows one."
)]
pub(crate) struct ManArgs {
    /// Directory that gets a page for each verb [default: the page of eraser itself, on stdout]
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
}
