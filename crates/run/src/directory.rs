//! A run directory. In: its path; out: the right to write into it. Invariant: one process at a time writes into a
//! directory, and nothing is removed but what this tool wrote.

use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Held while a directory is written to.
pub(crate) const LOCK: &str = ".lock";

/// Where an earlier run is while it is checked whether another one can begin in its place.
const ASIDE: &str = ".earlier";
/// The same once the other one has begun: it is being removed.
const GONE: &str = ".removed";

/// What `eraser durability` writes.
pub(crate) const DURABILITY: [&str; 2] = ["durability", "durability.json"];

/// Everything that the verbs write into a run directory.
pub(crate) const FILES: [&str; 28] = [
    "adapter",
    "bench",
    "bench.json",
    "builtin",
    "data",
    "data_report.json",
    "durability",
    "durability.json",
    "eval",
    "judges.json",
    "manifest.json",
    "plan.toml",
    "prepare",
    "ranks",
    "reference",
    "report.csv",
    "report.html",
    "report.md",
    "served.json",
    "shards",
    // Of versions before manifest.json.
    "stages.json",
    "study.json",
    "subjects.json",
    "summary.json",
    "train",
    "tune.json",
    "tuned.toml",
    "variants",
];

/// What the directory of a run may hold already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing, or a run to continue.
    GoOn,
    /// A run to continue; an error if there is none.
    Expected,
    /// A run to remove.
    Removed,
}

/// Makes `dir` and keeps other processes out of it for as long as the result lives.
///
/// # Errors
/// Another process that holds it; a directory that cannot be made.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    std::fs::create_dir_all(dir).at(dir)?;
    let path = dir.join(LOCK);
    let file = File::options().create(true).append(true).open(&path).at(&path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::request(format!("{}: another eraser process is working in it", dir.display()))
                .hint("wait for it, or name another directory"))
        }
        // A file system without locks does not stop the work.
        Err(TryLockError::Error(_)) | Ok(()) => Ok(file),
    }
}

/// Whether another process holds `dir`.
pub(crate) fn busy(dir: &Path) -> bool {
    let held = |file: File| matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    File::options().append(true).open(dir.join(LOCK)).is_ok_and(held)
}

/// The directory of a run that is held. An earlier run that is to be removed is set aside in it until it is settled
/// whether the new one begins.
pub(crate) struct Claimed<'a> {
    dir: &'a Path,
    _lock: File,
}

impl Claimed<'_> {
    /// Removes an earlier run that was set aside where the new one has `begun`; where it was refused, puts it back.
    pub(crate) fn settle<T, E: From<Error>>(&self, begun: std::result::Result<T, E>) -> std::result::Result<T, E> {
        let aside = self.dir.join(ASIDE);
        if !aside.exists() {
            return begun;
        }
        if begun.is_err() {
            self.put_back()?;
            return begun;
        }
        let gone = self.dir.join(GONE);
        std::fs::rename(&aside, &gone).writing(&gone)?;
        remove(self.dir, &[GONE])?;
        begun
    }

    fn set_aside(&self) -> Result<()> {
        let aside = self.dir.join(ASIDE);
        for name in FILES.iter().filter(|name| self.dir.join(name).exists()) {
            std::fs::create_dir_all(&aside).writing(&aside)?;
            std::fs::rename(self.dir.join(name), aside.join(name)).writing(&aside)?;
        }
        Ok(())
    }

    fn put_back(&self) -> Result<()> {
        let aside = self.dir.join(ASIDE);
        if !aside.exists() {
            return Ok(());
        }
        // What the refused one has written goes.
        remove(self.dir, &FILES)?;
        for name in FILES.iter().filter(|name| aside.join(name).exists()) {
            std::fs::rename(aside.join(name), self.dir.join(name)).writing(self.dir)?;
        }
        remove(self.dir, &[ASIDE])
    }
}

/// Takes the directory of a run, as `earlier` says.
///
/// # Errors
/// As [`lock`]; no run where one is expected; a directory that holds other files.
pub(crate) fn claim(dir: &Path, earlier: Earlier) -> Result<Claimed<'_>> {
    let is_run = ["manifest.json", "plan.toml", "stages.json", ASIDE].iter().any(|name| dir.join(name).exists());
    let mut entries = std::fs::read_dir(dir).into_iter().flatten();
    if !is_run && earlier == Earlier::Expected {
        return Err(Error::request(format!("{}: there is no run to go on with", dir.display()))
            .hint("leave --resume out to begin one"));
    }
    let is_own = |name: &std::ffi::OsStr| name == LOCK || name == crate::shards::DIR;
    if !is_run && entries.any(|e| e.is_ok_and(|e| !is_own(&e.file_name()))) {
        return Err(Error::request(format!(
            "{}: the directory holds files that do not belong to a run",
            dir.display()
        ))
        .hint("name an empty or a new directory with --out"));
    }
    let claimed = Claimed { dir, _lock: lock(dir)? };
    if earlier == Earlier::Removed {
        let shards = std::fs::read_dir(dir.join(crate::shards::DIR)).into_iter().flatten();
        if let Some(shard) = shards.filter_map(|e| Some(e.ok()?.path())).find(|shard| busy(shard)) {
            return Err(Error::request(format!("{}: another eraser process is working in it", shard.display()))
                .hint("wait for it, or stop it: --force removes the shards of the directory too"));
        }
    }
    remove(dir, &[GONE])?;
    // Left by a process that was killed before it had begun.
    claimed.put_back()?;
    if earlier == Earlier::Removed {
        claimed.set_aside()?;
    }
    Ok(claimed)
}

/// The name of the run that `dir` holds, as its plan has it.
pub fn run_name(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join("plan.toml")).ok()?;
    let plan: toml::Table = toml::from_str(&text).ok()?;
    plan.get("run")?.get("name")?.as_str().map(str::to_owned)
}

/// Copies a file or a directory in the place of what is there; nothing where there is none.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    if let (Some(home), Some(name)) = (to.parent(), to.file_name().and_then(|name| name.to_str())) {
        std::fs::create_dir_all(home).writing(home)?;
        remove(home, &[name])?;
    }
    if !from.is_dir() {
        return std::fs::copy(from, to).map(drop).writing(to);
    }
    std::fs::create_dir_all(to).writing(to)?;
    for entry in std::fs::read_dir(from).at(from)? {
        let path = entry.at(from)?.path();
        copy(&path, &to.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

/// Removes files and directories of `dir`, if they are there.
pub(crate) fn remove(dir: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = dir.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).at(&path),
            _ => {}
        }
    }
    Ok(())
}
