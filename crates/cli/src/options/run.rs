//! `eraser run`, `eraser quickstart`, `eraser report`: whole runs.

use clap::{Args, ValueHint};
use eraser_data::Shard;
use eraser_run::plan::Overrides;
use std::path::{Path, PathBuf};

/// Options of `eraser run`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A stage whose inputs have not changed is not done again; an interrupted one goes on where it stopped. \
                        RUN/plan.toml is the run with every default filled in, and is itself a run file."
)]
pub(crate) struct RunArgs {
    /// Run file; `builtin` is that of the built-in model
    #[arg(value_name = "RUN.toml", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) go: GoArgs,
    #[command(flatten)]
    pub(crate) part: PartArgs,
    /// Say what would be done and how long it would take, as `eraser plan` does, and do nothing
    #[arg(long, conflicts_with = "shard")]
    pub(crate) dry_run: bool,
    /// With --dry-run: do not load the model and measure
    #[arg(long, requires = "dry_run")]
    pub(crate) no_timing: bool,
}

/// Options of `eraser plan`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The model is loaded, and some answers and training steps are timed, which takes up to half a minute and, with a \
                        large model, as long as its slowest step. The time is given as a range; the truth is rarely outside \
                        of half its lower and twice its upper end. Nothing is written."
)]
pub(crate) struct PlanArgs {
    /// Run file; `builtin` is that of the built-in model
    #[arg(value_name = "RUN.toml", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Run directory [default: `dir` of the file's `[run]`, else runs/NAME]
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    /// Do not load the model and measure: only what would be done
    #[arg(long)]
    pub(crate) no_timing: bool,
}

/// Where a run goes and what to do about an earlier one.
#[derive(Clone, Debug, Args)]
pub(crate) struct GoArgs {
    /// Run directory [default: `dir` of the file's `[run]`, else runs/NAME; studies add their name]
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    /// Continue the run in the directory; an error if there is none (without this flag, one is started)
    #[arg(long, conflicts_with = "force")]
    pub(crate) resume: bool,
    /// Start again: do every stage once more
    #[arg(long)]
    pub(crate) force: bool,
}

/// Which of a run's variants a process trains.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct PartArgs {
    /// Do one part of the variants, of N that processes do at the same time: 1/N to N/N. It is done in DIR/shards, and
    /// `eraser merge DIR` makes the run of all parts
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<Shard>,
}

/// Options of `eraser quickstart`.
#[derive(Clone, Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Run directory
    #[arg(long, short = 'o', value_name = "DIR", default_value = "runs/quickstart", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    /// Keep what an earlier quickstart left in the directory and continue from there; without this flag it starts again
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Options of all of them.
#[derive(Clone, Debug, Args)]
pub(crate) struct HowArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or metal; in place of `device` in the run file
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Set a key of the run file, as train.steps=20 or eval.limit=10; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl HowArgs {
    /// What of a run they say in place of its file, with the run directory.
    pub(crate) fn overrides<'a>(&'a self, out: Option<&'a Path>) -> Overrides<'a> {
        Overrides { out, device: self.device.as_deref(), set: &self.set, ..Overrides::default() }
    }
}

/// Options of `eraser report`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReportArgs {
    /// Run directory
    #[arg(value_name = "RUN", value_hint = ValueHint::DirPath)]
    pub(crate) run: PathBuf,
}
