//! `eraser merge`: shards become one run.

use clap::{Args, ValueHint};
use std::path::PathBuf;

/// Options of `eraser merge`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Repeats the command of the shards with what they have answered and scored: DIR then holds what the \
                  command without --shard leaves. A shard that is missing, appears twice, has not ended, or is of \
                  another model or other settings is an error that names it."
)]
pub(crate) struct MergeArgs {
    /// Directories that shards were given as --out, or those of single shards, as DIR/shards/eval-2-of-4
    #[arg(value_name = "RUN", required = true, value_hint = ValueHint::DirPath)]
    pub(crate) runs: Vec<PathBuf>,
    /// Directory for the results [default: RUN, where there is one that holds all shards]
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
    /// Where to compute, in place of what the first shard was told
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
}
