//! `cargo xtask mpi-check`: trains and measures the built-in model on several ranks by MPI, and checks what came of it.
//! In: a binary built with the feature `mpi`, or none, and then it is built; out: a table, and an error if a check
//! failed. Invariant: each check compares the files of processes that ran for it.

mod divided;
mod network;
mod ranks;

use crate::peer::{machine, record};
use candle_core::{DType, Device};
use clap::Args;
use eraser_model::{Error, Result};
use ranks::{Job, Ran};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How near the adapters of one rank and of several are: they differ by the order of sums.
const COSINE: f64 = 0.999_99;
/// The same where ranks that share a micro-batch have drawn dropout of their own.
const DRAWN_ANEW: f64 = 0.999;
/// Micro-batches of a step of the runs that are killed.
const ACCUMULATED: usize = 4;
/// Longest time from the death of a rank to the end of all.
const DEATH: Duration = Duration::from_secs(30);

/// Options of `cargo xtask mpi-check`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A binary with the feature `mpi` [default: it is built]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Numbers of ranks beside one
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "2,4")]
    ranks: Vec<usize>,
    /// Steps of a training
    #[arg(long, value_name = "N", default_value = "50")]
    steps: usize,
    /// Only what ranks divide: evaluation, benchmarks, preparation
    #[arg(long)]
    divided: bool,
    /// Where runs are put
    #[arg(long, value_name = "DIR", default_value = "target/mpi")]
    work: PathBuf,
    /// Add the result to benches/RESULTS.md
    #[arg(long)]
    record: bool,
}

/// What was checked, as a table.
#[derive(Default)]
struct Checks {
    rows: String,
    failed: Vec<String>,
}

impl Checks {
    fn push(&mut self, what: &str, found: &str, right: bool) {
        let word = if right { "right" } else { "WRONG" };
        println!("{what}: {found}: {word}");
        // Writing into a string cannot fail.
        let _ = writeln!(self.rows, "| {what} | {found} | {word} |");
        if !right {
            self.failed.push(what.to_owned());
        }
    }

    fn note(&mut self, what: &str, found: &str) {
        println!("{what}: {found}");
        let _ = writeln!(self.rows, "| {what} | {found} | |");
    }
}

/// Checks.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build()?,
    };
    std::fs::create_dir_all(&options.work).map_err(Error::failed)?;
    let mut checks = Checks::default();
    divided::check(options, &binary, &mut checks)?;
    if !options.divided {
        agreement(options, &binary, &mut checks)?;
        for &ranks in &options.ranks {
            death(options, &binary, ranks, &mut checks)?;
        }
        speed(options, &binary, &mut checks)?;
        network::measure(options, &binary, &mut checks)?;
    }
    let entry = format!(
        "{}. The built-in model, {} steps; ranks share the processors.\n\n    cargo xtask mpi-check\n\n| check | found | |\n\
         | --- | --- | --- |\n{}\n",
        machine::describe(),
        options.steps,
        checks.rows
    );
    if options.record {
        let what = if options.divided { "measuring by ranks (MPI)" } else { "training by ranks (MPI)" };
        record(what, &entry)?;
    }
    match &*checks.failed {
        [] => Ok(()),
        failed => Err(Error::failed(format!("these checks failed: {}", failed.join("; ")))),
    }
}

/// Builds the binary.
fn build() -> Result<PathBuf> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--package", "eraser", "--features", "mpi", "--target-dir", "target/mpi/build"])
        .status()
        .map_err(Error::failed)?;
    if !status.success() {
        return Err(Error::failed("the build with the feature `mpi` failed")
            .hint("it needs an MPI and libclang; on Debian: apt-get install libopenmpi-dev openmpi-bin libclang-dev"));
    }
    Ok("target/mpi/build/release/eraser".into())
}

/// One rank and several make the same adapter but for the order of sums, and several make the same bytes each time:
/// where ranks take whole micro-batches, and where they share them, so that a hinge is closed or open for all.
fn agreement(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    // With dropout only whole micro-batches are the same, since ranks draw for the rows that they have.
    for (name, micro_batch, accumulate, dropout) in
        [("whole micro-batches", 4, 4, 0.05), ("shared micro-batches", 8, 1, 0.0)]
    {
        let job = |ranks: usize, run: &str| Job {
            binary: binary.to_owned(),
            dir: options.work.join(format!("{}-{ranks}-{run}", name.replace(' ', "-"))),
            ranks,
            threads: None,
            steps: options.steps,
            micro_batch,
            accumulate,
            dropout,
            resume: false,
        };
        let one = job(1, "a").run()?;
        for &ranks in &options.ranks {
            let (first, second) = (job(ranks, "a").run()?, job(ranks, "b").run()?);
            let near = cosine(&one.adapter(), &first.adapter())?;
            checks.push(&format!("{name}: cosine of 1 rank and {ranks}"), &format!("{near:.7}"), near >= COSINE);
            let same = first.bytes()? == second.bytes()?;
            checks.push(&format!("{name}: {ranks} ranks twice"), "bytes of the adapter", same);
            if let Some(bytes) = first.bytes_a_step()? {
                checks.note(
                    &format!("{name}: {ranks} ranks, sent by rank 0 in a step"),
                    &format!("{:.2} MB", bytes / 1e6),
                );
            }
        }
    }
    Ok(())
}

/// A rank is killed: all end, and the run goes on from its checkpoint to the bytes of one that was left alone; on another
/// number of ranks it says what is different.
fn death(options: &Options, binary: &Path, ranks: usize, checks: &mut Checks) -> Result<()> {
    let job = |name: &str, ranks: usize, resume: bool| Job {
        binary: binary.to_owned(),
        dir: options.work.join(format!("death-{name}")),
        ranks,
        threads: None,
        steps: options.steps,
        micro_batch: 4,
        accumulate: ACCUMULATED,
        dropout: 0.05,
        resume,
    };
    let whole = job(&format!("{ranks}-whole"), ranks, false).run()?;
    let killed = job(&format!("{ranks}-killed"), ranks, false).killed_after(options.steps / 2)?;
    let what = format!("one of {ranks} ranks is killed");
    checks.push(
        &what,
        &format!("all ended after {:.1} s, exit code {}", killed.after.as_secs_f64(), killed.code),
        killed.after < DEATH && killed.code != 0,
    );
    let other = options.work.join(format!("death-{ranks}-other"));
    ranks::copy(&options.work.join(format!("death-{ranks}-killed")), &other)?;
    let resumed = job(&format!("{ranks}-killed"), ranks, true).run()?;
    let same = whole.bytes()? == resumed.bytes()?;
    checks.push(&format!("{what}, resumed on {ranks}"), "bytes of the run that was left alone", same);
    let elsewhere = job(&format!("{ranks}-other"), ranks + 1, true).run()?;
    let near = cosine(&whole.adapter(), &elsewhere.adapter())?;
    let told = elsewhere.said.contains(&format!("the run had {ranks} ranks and goes on with {} ranks", ranks + 1));
    checks.push(
        &format!("{what}, resumed on {}", ranks + 1),
        &format!("cosine {near:.7}, {}", if told { "told" } else { "not told" }),
        // More ranks than micro-batches share some, and draw their dropout anew: near, and not the same.
        near >= if ranks < ACCUMULATED { COSINE } else { DRAWN_ANEW } && told,
    );
    Ok(())
}

/// Two ranks with a thread each beside one rank with two.
fn speed(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    let mut of = Vec::new();
    for (ranks, threads) in [(1, 2), (2, 1), (1, 2), (2, 1)] {
        let job = Job {
            binary: binary.to_owned(),
            dir: options.work.join(format!("speed-{ranks}")),
            ranks,
            threads: Some(threads),
            steps: options.steps,
            micro_batch: 8,
            accumulate: 4,
            dropout: 0.05,
            resume: false,
        };
        of.push(job.run()?.seconds_a_step()?);
    }
    let text = |all: [f64; 2]| all.map(|s| format!("{:.0}", 1000.0 * s)).join(" and ");
    let [one, two] = [[of[0], of[2]], [of[1], of[3]]];
    checks.note("ms a step, 1 rank with 2 threads", &text(one));
    checks.note("ms a step, 2 ranks with 1 thread", &text(two));
    Ok(())
}

/// The cosine of what two trainings have learnt: of the factors that begin at zero. The others are mostly what they began
/// as, which all ranks have.
fn cosine(a: &Path, b: &Path) -> Result<f64> {
    let read = |path: &Path| candle_core::safetensors::load(path, &Device::Cpu).map_err(Error::failed);
    let (a, b) = (read(a)?, read(b)?);
    let (mut dot, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (name, x) in a.iter().filter(|(name, _)| name.contains("lora_B")) {
        let y = b.get(name).ok_or_else(|| Error::failed(format!("one adapter has no {name}")))?;
        let numbers = |t: &candle_core::Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        for (x, y) in numbers(x)?.iter().zip(numbers(y)?) {
            dot += x * y;
            of_a += x * x;
            of_b += y * y;
        }
    }
    Ok(dot / (of_a * of_b).sqrt().max(f64::MIN_POSITIVE))
}

/// What a training with other settings than [`agreement`]'s found, for [`network`].
fn traffic(ran: &Ran) -> Result<String> {
    let bytes = ran.bytes_a_step()?.unwrap_or(0.0);
    Ok(format!("{:.0} ms a step, {:.2} MB sent", 1000.0 * ran.seconds_a_step()?, bytes / 1e6))
}
