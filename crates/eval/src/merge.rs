//! One directory, several evaluations. In: what a directory holds already and what was measured now; out: one summary
//! in which every figure belongs to the model that it is shown with. Invariants: all subjects of a summary have one
//! base model; a name has one fingerprint; a figure whose model is unknown is never shown with one whose model is
//! known.

use crate::bench::BenchSummary;
use crate::changes;
use crate::likelihood;
use crate::served::ServedSubject;
use crate::subject::{Fingerprint, Subject, check_names, short};
use crate::summary::{AttackSummary, BASE, FILE, SubjectSummary, Summary, Timing};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use serde::Deserialize;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::Path;

/// Most bytes of the first line of a file that are read to see whose it is.
const LONGEST: u64 = 8 << 20;

/// A directory that holds no results but those of the subjects it was opened for, and of others on the same model. Only
/// in such a directory can an evaluation begin, and what identifies the subjects is computed once for it.
pub struct Admitted<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) subjects: &'a [Subject<'a>],
    pub(crate) served: &'a [ServedSubject],
    /// Of `subjects`.
    pub(crate) fingerprints: Vec<Fingerprint>,
}

impl<'a> Admitted<'a> {
    /// Prepares `dir` for results of `subjects`, and gives a line for each thing that was removed.
    ///
    /// Results of a hardened subject that has another fingerprint under the same name were measured before it was
    /// trained again: they are removed. Results of another base model, or of adapters on another model, are an error
    /// unless `force`, which removes everything measured in the directory.
    ///
    /// # Errors
    /// A subject's name that is no file name, or that two subjects have; the directory holds results of another model;
    /// a file in it cannot be read or removed.
    pub fn new(dir: &'a Path, subjects: &'a [Subject<'a>], force: bool) -> Result<(Self, Vec<String>)> {
        Self::with(dir, subjects, &[], force)
    }

    /// As [`Self::new`], of subjects that are served besides.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(
        dir: &'a Path,
        subjects: &'a [Subject<'a>],
        served: &'a [ServedSubject],
        force: bool,
    ) -> Result<(Self, Vec<String>)> {
        let names = subjects.iter().map(|subject| subject.name.as_str());
        check_names(names.clone().chain(served.iter().map(|served| served.name.as_str())))?;
        let fingerprints = subjects.iter().map(Subject::fingerprint).collect::<Result<Vec<_>>>()?;
        let mut named: Vec<_> = names.zip(&fingerprints).collect();
        named.extend(served.iter().map(|served| (served.name.as_str(), &served.fingerprint)));
        let notes = admit(dir, &named, !served.iter().any(|served| served.name == BASE), force)?;
        Ok((Self { dir, subjects, served, fingerprints }, notes))
    }
}

/// What [`Admitted::new`] does, for names and fingerprints. A base that is not `fixed`, as it is served, may be another
/// one than before, and is measured again.
fn admit(dir: &Path, subjects: &[(&str, &Fingerprint)], fixed: bool, force: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    if !force && let Some(clash) = other_case(dir, subjects)? {
        return Err(clash);
    }
    if let Some(conflict) = conflict(dir, subjects, fixed)? {
        if !force {
            return Err(conflict);
        }
        for name in ["eval", "bench", FILE, BenchSummary::FILE] {
            remove(&dir.join(name))?;
        }
        notes.push(format!("{}: results of another model were removed", dir.display()));
        return Ok(notes);
    }
    for (name, fingerprint) in subjects {
        let mut stale = false;
        for results in [dir.join("eval").join(name), dir.join("bench").join(name)] {
            // The lines of scores are keyed, and a file of another key is replaced as a whole.
            if subject_of(&results)?.is_some_and(|found| found != fingerprint.short()) {
                remove(&results)?;
                stale = true;
            }
        }
        if stale {
            forget(dir, name, fingerprint)?;
            notes.push(format!("{name}: the earlier results are of another model or adapter; they were removed"));
        }
    }
    Ok(notes)
}

/// Takes the figures of another adapter under the name of a subject out of the files: an evaluation that is interrupted
/// now leaves no figure without its answers.
fn forget(dir: &Path, name: &str, now: &Fingerprint) -> Result<()> {
    let other = |found: &str, fingerprint: Option<&Fingerprint>| found == name && fingerprint != Some(now);
    if dir.join(FILE).exists() {
        let mut summary = Summary::read(dir)?;
        summary.subjects.retain(|s| !other(&s.name, s.fingerprint.as_ref()));
        summary.write(dir)?;
    }
    if let Some(mut bench) = BenchSummary::read(dir)? {
        bench.subjects.retain(|s| !other(&s.name, s.fingerprint.as_ref()));
        bench.write(dir)?;
    }
    Ok(())
}

/// The error where `dir` holds results of a subject whose name differs from one of `subjects` only in upper and lower
/// case: on some disks both have one directory.
fn other_case(dir: &Path, subjects: &[(&str, &Fingerprint)]) -> Result<Option<Error>> {
    for results in ["eval", "bench"].map(|name| dir.join(name)).iter().filter(|results| results.is_dir()) {
        for entry in fs::read_dir(results).at(results)? {
            let found = entry.at(results)?.file_name().to_string_lossy().into_owned();
            let clash = subjects.iter().find(|(name, _)| *name != found && name.eq_ignore_ascii_case(&found));
            if let Some((name, _)) = clash {
                let what = "the names of the subjects";
                return Ok(Some(
                    Error::request(format!(
                        "{}: {what} `{found}`, measured before, and `{name}` differ only in upper and lower case",
                        results.display()
                    ))
                    .hint("give the subject another name, or name another directory with --out"),
                ));
            }
        }
    }
    Ok(None)
}

/// The error where `dir` holds results on another model than that of `subjects`.
fn conflict(dir: &Path, subjects: &[(&str, &Fingerprint)], fixed: bool) -> Result<Option<Error>> {
    let Some((_, now)) = subjects.first() else { return Ok(None) };
    let summary = if dir.join(FILE).exists() { Summary::read(dir)?.subjects } else { Vec::new() };
    let bench = BenchSummary::read(dir)?.map(|b| b.subjects).unwrap_or_default();
    let known = summary.iter().filter_map(|s| Some((FILE, s.name.as_str(), s.fingerprint.as_ref()?)));
    let known =
        known.chain(bench.iter().filter_map(|s| Some((BenchSummary::FILE, s.name.as_str(), s.fingerprint.as_ref()?))));
    let mut wrong =
        known.filter(|(_, _, f)| f.model != now.model).map(|(file, name, _)| (file.to_owned(), name.to_owned()));
    let mut wrong = wrong.next();
    let base = subjects.iter().find(|(name, _)| fixed && *name == BASE).map(|(_, f)| *f);
    // An evaluation that was interrupted has left answers and no summary.
    for results in ["eval", "bench"] {
        let found = subject_of(&dir.join(results).join(BASE))?;
        if wrong.is_none() && found.zip(base).is_some_and(|(found, base)| found != base.short()) {
            wrong = Some((format!("{results}/"), BASE.to_owned()));
        }
    }
    Ok(wrong.map(|(file, name)| {
        Error::request(format!("{}: `{name}` in {file} was measured on another model", dir.display()))
            .hint("name another directory with --out")
            .hint("or give --force: it removes what was measured in this one")
            .hint(
                "with another chat template, variables of it, --base-dtype or --compute a model counts as another one",
            )
    }))
}

/// The fingerprint (16 hex digits) in the first answer of a directory of answers; None when there is none, or it is
/// unknown.
fn subject_of(dir: &Path) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Line {
        subject: String,
    }
    if !dir.is_dir() {
        return Ok(None);
    }
    for entry in fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        if path.extension().is_none_or(|ending| ending != "jsonl") {
            continue;
        }
        let mut line = Vec::new();
        let file = fs::File::open(&path).at(&path)?;
        BufReader::new(file).take(LONGEST).read_until(b'\n', &mut line).at(&path)?;
        if let Ok(line) = serde_json::from_slice::<Line>(&line) {
            return Ok(Some(line.subject));
        }
    }
    Ok(None)
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).at(path),
        _ => Ok(()),
    }
}

/// Puts `measured` into `dir/summary.json` beside what that holds and what `dir/bench.json` holds, computes every
/// change to the base anew from the answers in `dir/eval`, and writes the file. Returns what was written, and a line
/// for each thing that was left out of it. To be called after [`crate::evaluate()`], and after [`crate::bench()`] with
/// its [`BenchSummary::summary`].
///
/// # Errors
/// Those of [`Summary::merge`]; a file that cannot be read or written.
pub fn record(dir: &Path, measured: &Summary) -> Result<(Summary, Vec<String>)> {
    let mut notes = Vec::new();
    let mut all = Summary { schema: Summary::SCHEMA, ..Summary::default() };
    if dir.join(FILE).exists() {
        all = Summary::read(dir)?;
    }
    if let Some(bench) = BenchSummary::read(dir)? {
        let mut benched = bench.summary();
        // Benchmarks of an adapter that was trained again since.
        benched.subjects.retain(|b| {
            let now = measured.subjects.iter().chain(&all.subjects).find(|s| s.name == b.name);
            now.is_none_or(|now| now.fingerprint == b.fingerprint)
        });
        all = Summary::merge(all, benched, &mut notes)?;
    }
    all = Summary::merge(all, measured.clone(), &mut notes)?;
    changes::fill(dir, &mut all)?;
    likelihood::fill(dir, &mut all)?;
    all.write(dir)?;
    Ok((all, notes))
}

impl Summary {
    /// `new` beside `old`. Rows of a subject are those of both: an attack on a set, with all its judges and templates,
    /// a task's metric, and each kind of refusals are replaced only by the same of the same subject. A hardened subject
    /// of another fingerprint replaces the old one of its name; where one file's models are known, subjects of unknown
    /// models are dropped. Both add a line to `notes`. Changes to the base are those of the inputs: see [`record`].
    ///
    /// # Errors
    /// The subjects have different base models.
    pub fn merge(old: Self, new: Self, notes: &mut Vec<String>) -> Result<Self> {
        let mut subjects = old.subjects;
        let known = subjects.iter().chain(&new.subjects).any(|s| s.fingerprint.is_some());
        let mut unknown = Vec::new();
        subjects.retain(|s| {
            let keep = s.fingerprint.is_some() || !known;
            if !keep {
                unknown.push(s.name.clone());
            }
            keep
        });
        if !unknown.is_empty() {
            notes.push(format!(
                "{FILE}: earlier figures of {} are left out: an older version wrote them without their model's fingerprint",
                unknown.join(", ")
            ));
        }
        for subject in new.subjects {
            let other = subjects.iter().find(|s| {
                let models = |s: &SubjectSummary| s.fingerprint.as_ref().map(|f| f.model.clone());
                models(s).zip(models(&subject)).is_some_and(|(a, b)| a != b)
            });
            if let Some(other) = other {
                return Err(Error::request(format!(
                    "{FILE}: `{}` was measured on another model than `{}`",
                    other.name, subject.name
                ))
                .hint("measure it again, or name another directory with --out")
                .hint("or give --force: it removes what was measured before"));
            }
            match subjects.iter_mut().find(|s| s.name == subject.name) {
                None if subject.name == BASE => subjects.insert(0, subject),
                None => subjects.push(subject),
                Some(found) if found.fingerprint == subject.fingerprint => found.take(subject),
                Some(found) => {
                    notes.push(format!(
                        "{}: it was trained again; figures of {} were replaced by those of {}",
                        subject.name,
                        found.fingerprint.as_ref().map_or("an unknown adapter", |f| short(&f.subject)),
                        subject.fingerprint.as_ref().map_or("an unknown adapter", |f| short(&f.subject)),
                    ));
                    *found = subject;
                }
            }
        }
        let Timing { train_s, eval_s, total_s, peak_rss_mb } = new.timing;
        let timing = Timing {
            train_s: train_s.or(old.timing.train_s),
            eval_s: eval_s.or(old.timing.eval_s),
            total_s: total_s.or(old.timing.total_s),
            peak_rss_mb: peak_rss_mb.or(old.timing.peak_rss_mb),
        };
        Ok(Self { schema: Self::SCHEMA, subjects, timing })
    }
}

impl SubjectSummary {
    /// Takes the rows of a later measurement of the same subject.
    fn take(&mut self, new: Self) {
        // All templates of an attack are one file of answers: the pooled row and its parts go together.
        let same = |a: &AttackSummary, b: &AttackSummary| {
            let attack = |row: &AttackSummary| row.attack.split(':').next().map(str::to_owned);
            attack(a) == attack(b) && a.set == b.set
        };
        let attacked = !new.attacks.is_empty();
        self.attacks.retain(|old| !new.attacks.iter().any(|row| same(old, row)));
        self.attacks.extend(new.attacks);
        for row in new.utility {
            match self.utility.iter_mut().find(|old| old.task == row.task && old.metric == row.metric) {
                Some(old) => *old = row,
                None => self.utility.push(row),
            }
        }
        for (old, new) in [(&mut self.over_refusal, new.over_refusal), (&mut self.contrast, new.contrast)] {
            if new.is_some() {
                *old = new;
            }
        }
        if !new.likelihood.is_empty() {
            self.likelihood = new.likelihood;
        }
        if new.served.is_some() {
            self.served = new.served;
        }
        // It is over all answers to attacks that are there, and earlier ones may be gone.
        if attacked {
            self.agreement = new.agreement;
        }
    }
}

#[cfg(test)]
mod tests;
