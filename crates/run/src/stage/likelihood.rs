//! The run's own sets as those whose answers are measured. In: the run directory, or the runs of the adapters; out: the
//! sets `seen` and `benign` among the options. Invariant: a harm set is taken only if it is the one that every adapter
//! was trained on.

use crate::failure::Outcome;
use crate::stage::training_sets;
use crate::watch::Watch;
use eraser_data::files::hash_file;
use eraser_data::{SetName, read_set, write_set};
use eraser_eval::likelihood::{BENIGN, SEEN};
use eraser_eval::{AnswerSet, At, EvalOptions, Plan};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use std::path::{Path, PathBuf};

/// The rows of the help set that are measured.
const ROWS: &str = "likelihood-benign.jsonl";

/// Adds the run's own sets to those that `asked` measures; see [`add_own`]. `at` says what an option is called.
///
/// # Errors
/// As [`add_own`], and everything that is wrong with the rows.
pub(crate) fn plan_own(
    asked: &mut Plan,
    dir: &Path,
    adapters: &[(String, PathBuf)],
    at: At<'_>,
    watch: &mut dyn Watch,
) -> Outcome {
    if asked.options().likelihood {
        let mut options = asked.options().clone();
        add_own(&mut options, dir, adapters, watch)?;
        asked.take_answers(options.likelihood_set, at)?;
    }
    Ok(())
}

/// Adds the harm set of the run in `dir`, or of those that the adapters are from, as `seen`, and as many rows of the
/// help set, evenly spaced, as `benign`: where `likelihood` is asked for, and unless the options name sets of these
/// names. `adapters` are the subjects that have one, with its directory.
///
/// # Errors
/// No harm set is found, or several; a file that cannot be read or written.
fn add_own(options: &mut EvalOptions, dir: &Path, adapters: &[(String, PathBuf)], watch: &mut dyn Watch) -> Result<()> {
    if !options.likelihood {
        return Ok(());
    }
    let seen = options.likelihood_set.iter().any(|set| set.set == SEEN);
    let benign = options.likelihood_set.iter().any(|set| set.set.starts_with(BENIGN));
    let mut own = Vec::new();
    if !seen {
        own.push(AnswerSet { set: SEEN.to_owned(), path: harm(dir, adapters)? });
    }
    if !benign {
        let rows = own.iter().chain(&options.likelihood_set).map(|set| Ok(read_set(&set.path)?.len()));
        let rows = rows.collect::<Result<Vec<usize>>>()?.first().copied().unwrap_or_default();
        match of_runs(dir, adapters, SetName::Help)? {
            Found::One(help) => {
                let data = dir.join("data");
                std::fs::create_dir_all(&data).writing(&data)?;
                let path = data.join(ROWS);
                let all = read_set(&help)?;
                write_set(&path, &spread(&all, rows.min(options.limit.unwrap_or(usize::MAX))))?;
                own.push(AnswerSet { set: BENIGN.to_owned(), path });
            }
            none => watch.note(&format!(
                "likelihood: no benign answers are measured: {}; name some as --likelihood-set benign=FILE",
                none.why(SetName::Help)
            )),
        }
    }
    own.append(&mut options.likelihood_set);
    options.likelihood_set = own;
    Ok(())
}

/// The harm set.
fn harm(dir: &Path, adapters: &[(String, PathBuf)]) -> Result<PathBuf> {
    let wrong = |what: String| {
        Error::request(format!("--likelihood: {what}"))
            .hint("name a file of the questions with their harmful answers: --likelihood-set seen=FILE")
    };
    match of_runs(dir, adapters, SetName::Harm)? {
        Found::One(path) => Ok(path),
        none => Err(wrong(none.why(SetName::Harm))),
    }
}

/// A set of the runs.
enum Found {
    One(PathBuf),
    /// Why there is none.
    None(String),
    /// Two that differ.
    Several([PathBuf; 2]),
}

impl Found {
    /// Why there is no such file; of one that there is, which it is.
    fn why(&self, set: SetName) -> String {
        let set = set.name();
        match self {
            Self::One(path) => format!("the {set} set is {}", path.display()),
            Self::None(why) => why.clone(),
            Self::Several([a, b]) => {
                format!("the adapters were trained on different {set} sets: {} and {}", a.display(), b.display())
            }
        }
    }
}

/// The file of a set: the one that the adapters were trained on; where none of them is on record, that of the run in
/// `dir`.
fn of_runs(dir: &Path, adapters: &[(String, PathBuf)], set: SetName) -> Result<Found> {
    let mut found: Option<(PathBuf, String)> = None;
    for (name, adapter) in adapters {
        let path = match training_sets::recorded(adapter, set)? {
            None => continue,
            Some(Ok(path)) => path,
            Some(Err(why)) => return Ok(Found::None(format!("of {name}, {why}"))),
        };
        let hash = hash_file(&path)?;
        match &found {
            Some((other, known)) if *known != hash => return Ok(Found::Several([other.clone(), path])),
            Some(_) => {}
            None => found = Some((path, hash)),
        }
    }
    let own = dir.join("data").join(set.file());
    Ok(match found {
        Some((path, _)) => Found::One(path),
        None if own.is_file() => Found::One(own),
        None => Found::None(format!("there is no {} set: {} is not there", set.name(), own.display())),
    })
}

/// `count` of the rows, evenly spaced.
fn spread<T: Clone>(rows: &[T], count: usize) -> Vec<T> {
    let count = count.clamp(1, rows.len().max(1));
    (0..count).filter_map(|i| rows.get(i * rows.len() / count).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Silent;

    #[test]
    fn rows_are_spread_over_the_file() {
        assert_eq!(spread(&[0, 1, 2, 3, 4, 5, 6], 3), [0, 2, 4]);
        assert_eq!(spread(&[0, 1], 9), [0, 1]);
        assert_eq!(spread::<u8>(&[], 3), [0_u8; 0]);
    }

    #[test]
    fn the_runs_own_sets_are_added_unless_the_user_names_others() {
        let dir = tempfile::tempdir().unwrap();
        let row = |i: usize| format!("{{\"input\":\"q{i}\",\"output\":\"a{i}\"}}\n");
        let own = |options: &mut EvalOptions| add_own(options, dir.path(), &[], &mut Silent);
        let asked = EvalOptions { likelihood: true, ..EvalOptions::default() };
        let error = own(&mut asked.clone()).unwrap_err();
        assert!(error.to_string().contains("no harm set") && error.hints()[0].contains("seen=FILE"), "{error}");

        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/harm.jsonl"), row(0) + &row(1)).unwrap();
        std::fs::write(dir.path().join("data/help.jsonl"), (0..8).map(row).collect::<String>()).unwrap();
        let mut options = asked.clone();
        own(&mut options).unwrap();
        let names = |options: &EvalOptions| options.likelihood_set.iter().map(|s| s.set.clone()).collect::<Vec<_>>();
        assert_eq!(names(&options), ["seen", "benign"]);
        let rows: Vec<String> =
            read_set(&options.likelihood_set[1].path).unwrap().into_iter().map(|r| r.input).collect();
        assert_eq!(rows, ["q0", "q4"]);

        let file = AnswerSet { set: "benign-other".into(), path: dir.path().join("data/help.jsonl") };
        let mut options = EvalOptions { likelihood_set: vec![file], ..asked };
        own(&mut options).unwrap();
        assert_eq!(names(&options), ["seen", "benign-other"]);
        let mut none = EvalOptions::default();
        own(&mut none).unwrap();
        assert!(none.likelihood_set.is_empty());
    }
}
