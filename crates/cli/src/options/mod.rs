//! The command line as it is typed. In: arguments; out: raw options, checked one by one by clap. Invariant: nothing
//! here looks at a file; what the options mean together is resolved by `plan`.

pub(crate) mod align;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod durability;
pub(crate) mod eval;
pub(crate) mod export;
mod given;
pub(crate) mod harden;
pub(crate) mod judge;
pub(crate) mod merge;
pub(crate) mod methods;
pub(crate) mod model;
pub(crate) mod prepare;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod shell;
pub(crate) mod study;
pub(crate) mod train;
pub(crate) mod tune;

use clap::{ArgAction, Args, Parser, Subcommand};

/// Harden a chat model against jailbreaks by unlearning harmful knowledge, and prove what changed.
#[derive(Debug, Parser)]
#[command(
    name = "eraser",
    version = crate::version::short(),
    long_version = crate::version::long(),
    propagate_version = true,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Start with `eraser quickstart`. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, \
                  130 interrupted (run the command again to go on)."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Options of every verb.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Write results as JSON to stdout; no progress bars
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Threads of the one thread pool [default: all cores this process may use]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Say more on stderr: -v what is done, -vv how, -vvv everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Harden and measure the built-in model: the whole pipeline, no network
    Quickstart(run::QuickstartArgs),
    /// Harden a model against a list of questions, and measure it: the whole job with the settings that held best
    Harden(Box<harden::HardenArgs>),
    /// Write a commented run file for a model and a list of questions
    Init(Box<harden::InitArgs>),
    /// Do what a run file says: prepare, train, evaluate, report; goes on where it stopped
    Run(run::RunArgs),
    /// Say what a run file would do, and how long it would take on this machine
    Plan(run::PlanArgs),
    /// Make the harm, help and align sets from a list of questions; goes on where it stopped
    Prepare(Box<prepare::PrepareArgs>),
    /// Train and measure several methods on one run file: one table, one report
    Compare(study::CompareArgs),
    /// Train and measure one variant under several values of its settings
    Sweep(study::SweepArgs),
    /// Search for the settings that defend best within what they may cost
    Tune(tune::TuneArgs),
    /// Train an adapter that makes a model forget a harm set
    Train(Box<train::TrainArgs>),
    /// Train an adapter that makes a model refuse plain harmful questions
    Align(Box<align::AlignArgs>),
    /// Attack a model, and measure what it gives away, what it still knows and what it refuses
    Eval(Box<eval::EvalArgs>),
    /// Score a model on benchmarks by log-likelihood, as lm-evaluation-harness does
    Bench(Box<bench::BenchArgs>),
    /// Compare judges with labels that people gave: accuracy, Cohen's kappa, confusion
    Judge(Box<judge::JudgeArgs>),
    /// Join what several processes have made with --shard: the results of the command without it
    Merge(merge::MergeArgs),
    /// Measure a run's hardened models again after merging, quantising, fine-tuning and relearning
    Durability(durability::DurabilityArgs),
    /// Fail when a figure of a run is not as good as it must be: a gate for CI
    Check(check::CheckArgs),
    /// Write report.html, report.md and report.csv of a run directory again
    Report(run::ReportArgs),
    /// Write the hardened model, or its adapter, for other tools
    Export(export::ExportArgs),
    /// Check a model and this machine: files, memory, tokenizer, chat template, a forward pass
    Doctor(doctor::DoctorArgs),
    /// Talk to a model, with or without its adapter
    Chat(chat::ChatArgs),
    /// Serve a model and its adapters: OpenAI-compatible, with a page that shows them side by side
    Serve(serve::ServeArgs),
    /// List the methods: what the loss of each is made of, its source and published settings
    Methods(methods::MethodsArgs),
    /// Print the JSON schema of run files, for editors
    Schema(schema::SchemaArgs),
    /// Print the script that completes commands and options in a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write that of each verb
    Man(shell::ManArgs),
}

impl Verb {
    /// As it is typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Quickstart(_) => "quickstart",
            Self::Harden(_) => "harden",
            Self::Init(_) => "init",
            Self::Run(_) => "run",
            Self::Plan(_) => "plan",
            Self::Prepare(_) => "prepare",
            Self::Compare(_) => "compare",
            Self::Sweep(_) => "sweep",
            Self::Tune(_) => "tune",
            Self::Train(_) => "train",
            Self::Align(_) => "align",
            Self::Eval(_) => "eval",
            Self::Bench(_) => "bench",
            Self::Judge(_) => "judge",
            Self::Merge(_) => "merge",
            Self::Durability(_) => "durability",
            Self::Check(_) => "check",
            Self::Report(_) => "report",
            Self::Export(_) => "export",
            Self::Doctor(_) => "doctor",
            Self::Chat(_) => "chat",
            Self::Serve(_) => "serve",
            Self::Methods(_) => "methods",
            Self::Schema(_) => "schema",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }
}
