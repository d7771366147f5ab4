//! Trainings of the built-in model under `mpirun`. In: ranks, threads and settings; out: the files that a training
//! wrote. Invariant: a run starts in an empty directory, but for one that goes on.

use eraser_model::{Error, Result, counted};
use eraser_train::{StepMetrics, TrainSummary};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Steps between two checkpoints.
const EVERY: &str = "5";
/// Longest time that a training takes to reach a step, or to end.
pub(super) const PATIENCE: Duration = Duration::from_mins(10);
/// Between two looks at a training.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// A training.
pub(super) struct Job {
    pub(super) binary: PathBuf,
    /// Gets what it writes.
    pub(super) dir: PathBuf,
    pub(super) ranks: usize,
    /// Threads of a rank; None: they divide the processors among themselves.
    pub(super) threads: Option<usize>,
    pub(super) steps: usize,
    pub(super) micro_batch: usize,
    pub(super) accumulate: usize,
    pub(super) dropout: f64,
    /// It goes on from a checkpoint.
    pub(super) resume: bool,
}

/// A training that ended well.
pub(super) struct Ran {
    dir: PathBuf,
    /// What it wrote to stderr.
    pub(super) said: String,
}

/// How a training ended of which a rank was killed.
pub(super) struct Killed {
    /// From the death to the end of the last rank.
    pub(super) after: Duration,
    pub(super) code: i32,
}

impl Job {
    /// The command line behind the words of `launcher`, if there are any.
    pub(super) fn command(&self, launcher: &[&str], mpi: &[&str]) -> Result<Command> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(Error::failed);
        let (first, rest) = launcher.split_first().map_or(("mpirun", &[][..]), |(first, rest)| (*first, rest));
        let mut command = Command::new(first);
        if !launcher.is_empty() {
            command.args(rest).arg("mpirun");
        }
        command.args(["-n", &self.ranks.to_string(), "--oversubscribe", "--allow-run-as-root"]).args(mpi);
        command.arg(absolute(&self.binary)?).args(["train", "--model", "builtin"]);
        for (flag, set) in
            [("--harm", "harm"), ("--help-set", "help"), ("--align", "align"), ("--retain-set", "retain")]
        {
            command.arg(flag).arg(format!("builtin/sets/{set}.jsonl"));
        }
        for (flag, value) in [
            ("--steps", self.steps.to_string()),
            ("--micro-batch", self.micro_batch.to_string()),
            ("--grad-accum", self.accumulate.to_string()),
            ("--lora-dropout", self.dropout.to_string()),
            ("--checkpoint-every", EVERY.to_owned()),
        ] {
            command.arg(flag).arg(value);
        }
        if let Some(threads) = self.threads {
            command.arg("--threads").arg(threads.to_string());
        }
        if self.resume {
            command.arg("--resume");
        } else if self.dir.exists() {
            std::fs::remove_dir_all(&self.dir).map_err(Error::failed)?;
        }
        command.arg("--out").arg(absolute(&self.dir)?);
        Ok(command)
    }

    /// Trains to the end.
    pub(super) fn run(&self) -> Result<Ran> {
        self.finish(self.command(&[], &[])?)
    }

    /// Runs a command of [`Self::command`].
    pub(super) fn finish(&self, mut command: Command) -> Result<Ran> {
        let output = command.output().map_err(|e| launched(&e))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            let ranks = counted(self.ranks, "rank");
            return Err(Error::failed(format!("a training by {ranks} ended with {}: {said}", output.status)));
        }
        Ok(Ran { dir: self.dir.clone(), said })
    }

    /// Trains, and kills the last rank after `step`.
    pub(super) fn killed_after(&self, step: usize) -> Result<Killed> {
        let mut command = self.command(&[], &[])?;
        let mut all = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|e| launched(&e))?;
        let metrics = self.dir.join("train/metrics.jsonl");
        let done = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
        let started = Instant::now();
        while done() < step {
            std::thread::sleep(LOOK);
            if started.elapsed() > PATIENCE || ended(&mut all)?.is_some() {
                let _ = all.kill();
                return Err(Error::failed(format!("a training by {} ranks came to no step {step}", self.ranks)));
            }
        }
        let rank = process_of(&all, self.ranks - 1)
            .ok_or_else(|| Error::failed(format!("rank {} is not among the processes", self.ranks - 1)))?;
        let status = Command::new("kill").args(["-9", &rank.to_string()]).status().map_err(Error::failed)?;
        if !status.success() {
            return Err(Error::failed(format!("kill ended with {status}")));
        }
        let died = Instant::now();
        loop {
            if let Some(code) = ended(&mut all)? {
                return Ok(Killed { after: died.elapsed(), code });
            }
            if died.elapsed() > PATIENCE {
                let _ = all.kill();
                return Err(Error::failed("the ranks did not end when one of them was killed"));
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Ran {
    /// The file of the adapter.
    pub(super) fn adapter(&self) -> PathBuf {
        self.dir.join("adapter/adapter_model.safetensors")
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        std::fs::read(self.adapter()).map_err(Error::failed)
    }

    /// What rank 0 gave to others in a step; None for one rank.
    pub(super) fn bytes_a_step(&self) -> Result<Option<f64>> {
        let text = std::fs::read_to_string(self.dir.join("train/summary.json")).map_err(Error::failed)?;
        let summary: TrainSummary = serde_json::from_str(&text).map_err(Error::failed)?;
        Ok(summary.traffic.map(|traffic| traffic.bytes as f64 / traffic.steps.max(1) as f64))
    }

    /// The median over the steps but for the first ones, in which the frozen model is asked.
    pub(super) fn seconds_a_step(&self) -> Result<f64> {
        let text = std::fs::read_to_string(self.dir.join("train/metrics.jsonl")).map_err(Error::failed)?;
        let step =
            |line: &str| serde_json::from_str::<StepMetrics>(line).map(|step| step.seconds).map_err(Error::failed);
        let mut seconds = text.lines().map(step).collect::<Result<Vec<f64>>>()?;
        seconds.drain(..seconds.len() / 2);
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().ok_or_else(|| Error::failed("a training without a step"))
    }
}

/// Copies the directory of a training.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).map_err(Error::failed)?;
    }
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().map_err(Error::failed)?;
    if status.success() { Ok(()) } else { Err(Error::failed(format!("cp ended with {status}"))) }
}

/// That `mpirun` could not be started.
pub(super) fn launched(error: &std::io::Error) -> Error {
    Error::request(format!("mpirun: {error}")).hint("on Debian: apt-get install openmpi-bin")
}

/// The exit code, once a process has ended; a signal is -1.
pub(super) fn ended(process: &mut Child) -> Result<Option<i32>> {
    Ok(process.try_wait().map_err(Error::failed)?.map(|status| status.code().unwrap_or(-1)))
}

/// The process of a rank below `launcher`.
pub(super) fn process_of(launcher: &Child, rank: usize) -> Option<u32> {
    let parent = launcher.id().to_string();
    let is = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let own = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim() == parent;
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
        (own && environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())).then_some(pid)
    };
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find_map(is)
}
