//! `eraser schema`: what the flags say of the keys of a run file. In: clap's description of the commands; out: the
//! meaning of a key. Invariant: a setting means the same as a flag and as a key.

use super::Cli;
use clap::{Args, CommandFactory as _};

/// Options of `eraser schema`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "An editor that knows TOML (Even Better TOML of VS Code, taplo) completes keys and marks wrong ones: write the \
                        schema to a file, and name it in the first line of the run file:\n\n    \
                        eraser schema > run.schema.json\n    #:schema ./run.schema.json"
)]
pub(crate) struct SchemaArgs {}

/// The verbs whose flags are the keys of a table.
const VERBS: [(&str, &str); 5] =
    [("train", "train"), ("variant", "train"), ("eval", "eval"), ("prepare", "prepare"), ("model", "eval")];

/// The meaning of a key, as the help of its flag has it.
pub(crate) fn meaning(table: &str, key: &str) -> Option<String> {
    let verb = VERBS.iter().find(|(name, _)| *name == table).map(|(_, verb)| *verb)?;
    let root = Cli::command();
    let command = root.find_subcommand(verb)?;
    let flag = key.replace('.', "_");
    let found = |name: &str| command.get_arguments().find(|a| a.get_id() == name || a.get_long() == Some(name));
    // A flag may have the name of the list in the singular.
    let arg = found(&flag).or_else(|| found(&flag.replace('_', "-"))).or_else(|| found(flag.strip_suffix('s')?))?;
    arg.get_help().map(ToString::to_string)
}
