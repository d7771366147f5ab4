//! Work that is shared by several processes. In: a shard's number, or the directories of shards that have ended; out:
//! where a shard works, and the results of all shards in one directory. Invariant: a shard writes below its own
//! directory only, whose lock it holds; results are joined only if every shard is there once, has ended, and has done
//! the same work from the same inputs.

use crate::failure::{Outcome, Problems};
use crate::inputs::Inputs;
use crate::manifest::{FILE, Manifest, Record, State};
use eraser_data::files::write_atomic;
use eraser_data::{Shard, Share};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// The directory of shards in a run directory.
pub(crate) const DIR: &str = "shards";
/// The record of a shard's work in its own manifest.
pub(crate) const ARTEFACT: &str = "shard";

/// How much of its work a verb does.
#[derive(Clone, Debug, Default)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// One shard.
    Shard(ShardRequest),
    /// What shards have left: they are joined, and nothing is computed that one of them should have.
    Joined(Joined),
}

/// One shard, and how it was asked for.
#[derive(Clone, Debug)]
pub struct ShardRequest {
    /// Which.
    pub shard: Shard,
    /// The arguments of the command, by which the shards are merged.
    pub arguments: Vec<String>,
    /// The directory that relative paths of them start from.
    pub directory: PathBuf,
}

/// Shards of one command that have all ended.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The verb of the command.
    pub verb: String,
    /// The arguments of one of the shards.
    pub arguments: Vec<String>,
    /// The directory that relative paths of them start from.
    pub directory: PathBuf,
    of: usize,
    parts: Vec<(PathBuf, Record)>,
}

/// A shard that was found.
struct Found {
    dir: PathBuf,
    shard: Shard,
    record: Record,
}

impl Part {
    /// The part of one shard, as the command of this process asks for it; without one, the whole.
    ///
    /// # Errors
    /// An argument that is not UTF-8; no current directory.
    pub fn asked(shard: Option<Shard>) -> Result<Self> {
        let Some(shard) = shard else { return Ok(Self::Whole) };
        let text = |argument: std::ffi::OsString| {
            argument.into_string().map_err(|argument| {
                Error::request(format!("--shard: the argument {} is not UTF-8", argument.to_string_lossy()))
                    .hint("merging repeats the command, and keeps it as text: rename the file")
            })
        };
        let arguments = std::env::args_os().map(text).collect::<Result<_>>()?;
        let directory = std::env::current_dir().at(Path::new("."))?;
        Ok(Self::Shard(ShardRequest { shard, arguments, directory }))
    }

    /// The shard, if it is one.
    pub fn shard(&self) -> Option<Shard> {
        match self {
            Self::Shard(request) => Some(request.shard),
            _ => None,
        }
    }

    /// Where the work of `verb` with `--out DIR` is done.
    pub fn directory(&self, dir: &Path, verb: &str) -> PathBuf {
        match self.shard() {
            Some(shard) => dir.join(DIR).join(format!("{verb}-{}-of-{}", shard.index(), shard.of())),
            None => dir.to_owned(),
        }
    }

    /// Whether a training of a run file falls to this part, by its place among them.
    pub(crate) fn takes(&self, training: usize) -> bool {
        self.shard().is_none_or(|shard| training % shard.of() + 1 == shard.index())
    }

    /// Whether the subjects that are not trained fall to this part: the base, and those that a server has.
    pub(crate) fn takes_untrained(&self) -> bool {
        self.shard().is_none_or(|shard| shard.index() == 1)
    }

    /// The share of what is asked of each subject, where subjects are shared out and not what they are asked.
    pub(crate) fn share_of_subject(&self) -> Share {
        match self {
            Self::Whole => Share::Whole,
            Self::Shard(_) => Share::Part(Shard::ONLY),
            Self::Joined(_) => Share::Joined(1),
        }
    }

    /// The shards that this joins, if it does.
    pub(crate) fn joined(&self) -> Option<&Joined> {
        match self {
            Self::Joined(joined) => Some(joined),
            _ => None,
        }
    }

    /// The share of the work.
    pub(crate) fn share(&self) -> Share {
        match self {
            Self::Whole => Share::Whole,
            Self::Shard(request) => Share::Part(request.shard),
            Self::Joined(joined) => Share::Joined(joined.of),
        }
    }

    /// That the work which joins shards has their inputs. To be called before anything is removed or replaced.
    ///
    /// # Errors
    /// It has others.
    pub(crate) fn check(&self, inputs: &Inputs) -> Result<()> {
        let Self::Joined(joined) = self else { return Ok(()) };
        let first = joined.parts.first();
        let differ = first.map(|(_, record)| differing(&record.inputs, inputs.hashes())).unwrap_or_default();
        if differ.is_empty() {
            return Ok(());
        }
        let (verb, differ) = (&joined.verb, differ.join(", "));
        Err(Error::request(format!("{verb}: changed since the shards were made: {differ}"))
            .hint("bring back what they read, or run every shard again with --force"))
    }

    /// Joins the results below `top` in the directories of the shards into `dir`, if this joins any. Gives the seconds
    /// that they took.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub(crate) fn join(&self, dir: &Path, top: &str) -> Result<f64> {
        let Self::Joined(joined) = self else { return Ok(0.0) };
        gather(dir, top, joined.directories(), false)?;
        Ok(joined.seconds())
    }
}

/// What a shard's manifest records of its command, and of the settings that it `asked` for.
pub(crate) fn options(request: &ShardRequest, asked: &Value) -> Value {
    json!({
        "index": request.shard.index(),
        "of": request.shard.of(),
        "arguments": request.arguments,
        "directory": request.directory,
        "asked": asked,
    })
}

/// That the directory of a shard holds no work on other inputs.
///
/// # Errors
/// It does.
pub(crate) fn check(dir: &Path, manifest: &Manifest, inputs: &Inputs) -> Result<()> {
    let Some(record) = manifest.get(ARTEFACT) else { return Ok(()) };
    if manifest.state(ARTEFACT, inputs, &[])? != State::New {
        return Ok(());
    }
    let differ = differing(&record.inputs, inputs.hashes()).join(", ");
    Err(Error::request(format!("{}: it holds a shard of other work: {differ} differ", dir.display()))
        .hint("name another directory with --out, or give --force to every shard: it removes what the shard has done"))
}

/// What else the shards of `verb` beside the one in `dir` have written at `file`.
pub(crate) fn beside(dir: &Path, file: &Path) -> Vec<PathBuf> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // `prepare-2-of-4` has those of `prepare-*-of-4` beside it.
    let kind = |name: &str| {
        let (rest, of) = name.rsplit_once("-of-")?;
        let (verb, _) = rest.rsplit_once('-')?;
        Some((verb.to_owned(), of.to_owned()))
    };
    let own = kind(&name(dir));
    let entries = dir.parent().and_then(|parent| std::fs::read_dir(parent).ok()).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path != dir && own.is_some() && kind(&name(path)) == own)
        .map(|path| path.join(file))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

impl Joined {
    /// The directories of the shards.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|(dir, _)| dir.as_path())
    }

    /// Seconds that they took together.
    pub(crate) fn seconds(&self) -> f64 {
        self.parts.iter().map(|(_, record)| record.seconds).sum()
    }

    /// Finds the shards in `dirs`, each the directory of a shard or one that holds some, and checks them; those of each
    /// verb together, in the order of the work.
    ///
    /// # Errors
    /// Everything that is wrong: no shard, one that is missing, appears twice, has not ended, or differs from the
    /// others.
    pub fn find(dirs: &[PathBuf]) -> Outcome<Vec<Self>> {
        let mut problems = Problems::default();
        let mut found: BTreeMap<usize, Vec<Found>> = BTreeMap::new();
        for dir in dirs {
            let parts = parts(dir)?;
            if parts.is_empty() {
                let what = if dir.is_dir() { "there are no shards in it" } else { "there is no such directory" };
                problems.push(
                    Error::request(format!("{}: {what}", dir.display()))
                        .hint("name the DIR that the shards were given as --out, or directories below DIR/shards"),
                );
            }
            for (dir, record) in parts {
                let order = VERBS.iter().position(|verb| *verb == record.verb);
                match order.zip(named(&record)) {
                    Some((order, shard)) => found.entry(order).or_default().push(Found { dir, shard, record }),
                    None => problems.push(
                        Error::request(format!("{}: {FILE} does not say which shard this is", dir.display()))
                            .hint("run the shard again with --force"),
                    ),
                }
            }
        }
        let joined = found.into_values().filter_map(|parts| Self::checked(parts, &mut problems)).collect();
        problems.finish(Some(joined))
    }

    /// The shards of one verb.
    fn checked(mut parts: Vec<Found>, problems: &mut Problems) -> Option<Self> {
        parts.sort_by(|a, b| (a.shard.index(), &a.dir).cmp(&(b.shard.index(), &b.dir)));
        let first = parts.first()?;
        let (verb, of) = (first.record.verb.clone(), first.shard.of());
        let mut seen: BTreeMap<usize, &Path> = BTreeMap::new();
        for Found { dir, shard, record } in &parts {
            let (place, other) = (dir.display(), first.dir.display());
            if shard.of() != of {
                problems.push(
                    Error::request(format!("{place}: shard {shard} of {verb}, and {other} is one of {of}"))
                        .hint("merge the shards of one command only: remove the others, or name them one by one"),
                );
                continue;
            }
            if let Some(twice) = seen.insert(shard.index(), dir) {
                problems.push(
                    Error::request(format!("shard {shard} of {verb} appears twice: {} and {place}", twice.display()))
                        .hint("leave one of them out"),
                );
            }
            if record.ended.is_none() {
                problems.push(
                    Error::request(format!("{place}: shard {shard} of {verb} has not ended"))
                        .hint("run its command again: it goes on where it stopped"),
                );
            }
            let differ = differing(&first.record.inputs, &record.inputs);
            if !differ.is_empty() {
                let settings = settings(&first.record.options["asked"], &record.options["asked"]);
                let settings = if settings.is_empty() { settings } else { format!(" (settings: {settings})") };
                let differ = differ.join(", ");
                problems.push(
                    Error::request(format!(
                        "{place}: shard {shard} of {verb} is of other work than {other}: {differ} differ{settings}"
                    ))
                    .hint("run the one that is wrong again, with the options of the others and --force"),
                );
            }
        }
        for index in (1..=of).filter(|index| !seen.contains_key(index)) {
            problems.push(
                Error::request(format!("shard {index}/{of} of {verb} is missing"))
                    .hint(format!("run it, by the command of the others with --shard {index}/{of}")),
            );
        }
        let options = &first.record.options;
        let arguments = options["arguments"].as_array().into_iter().flatten();
        let arguments = arguments.filter_map(|argument| argument.as_str().map(str::to_owned)).collect();
        let directory = PathBuf::from(options["directory"].as_str().unwrap_or_default());
        let parts = parts.into_iter().map(|found| (found.dir, found.record)).collect();
        Some(Self { verb, arguments, directory, of, parts })
    }
}

/// The shard that a record is of.
fn named(record: &Record) -> Option<Shard> {
    let number = |key: &str| record.options[key].as_u64();
    format!("{}/{}", number("index")?, number("of")?).parse().ok()
}

/// Verbs that can be shared, in the order in which their results are joined.
const VERBS: [&str; 6] = ["prepare", "run", "compare", "sweep", "eval", "bench"];

/// The shards in a directory: itself, or those that it holds.
fn parts(dir: &Path) -> Result<Vec<(PathBuf, Record)>> {
    let record = |dir: &Path| Manifest::read(dir).get(ARTEFACT).cloned();
    if let Some(record) = record(dir) {
        return Ok(vec![(dir.to_owned(), record)]);
    }
    let home = dir.join(DIR);
    if !home.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&home).at(&home)?;
    let mut dirs = entries.map(|entry| Ok(entry.at(&home)?.path())).collect::<Result<Vec<_>>>()?;
    dirs.sort();
    Ok(dirs.into_iter().filter_map(|dir| record(&dir).map(|record| (dir, record))).collect())
}

/// The names of inputs that are not the same.
pub(crate) fn differing(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    // It covers the others that concern the model, which say what has changed.
    let covers = |name: &str| name == "model as loaded";
    let differ: Vec<String> = names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect();
    if differ.iter().all(|name| covers(name)) {
        differ
    } else {
        differ.into_iter().filter(|name| !covers(name)).collect()
    }
}

/// The settings that differ, by their keys.
fn settings(a: &Value, b: &Value) -> String {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return String::new() };
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).filter(|key| a.get(*key) != b.get(*key)).collect();
    names.into_iter().cloned().collect::<Vec<_>>().join(", ")
}

/// The files of results below a directory, by name.
pub(crate) fn results(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        if path.is_dir() {
            found.extend(results(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "jsonl") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Adds the results below `top` in the directories `parts` to those in `dir`; `kept` as for [`append`].
pub(crate) fn gather<'p>(dir: &Path, top: &str, parts: impl IntoIterator<Item = &'p Path>, kept: bool) -> Result<()> {
    let mut files: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for part in parts {
        for file in results(&part.join(top))? {
            let name = file.strip_prefix(part).unwrap_or(&file).to_owned();
            files.entry(name).or_default().push(file);
        }
    }
    files.into_iter().try_for_each(|(name, files)| append(&dir.join(name), &files, kept))
}

/// Adds the lines of the files `parts` to the file at `path`, each once. A last line that was cut short is no result;
/// where files of work that was stopped are joined, one is `kept` at the end.
fn append(path: &Path, parts: &[PathBuf], kept: bool) -> Result<()> {
    if let Some(home) = path.parent() {
        std::fs::create_dir_all(home).writing(home)?;
    }
    let (mut all, mut cut) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let own = path.to_owned();
    for file in std::iter::once(&own).chain(parts) {
        let text = match std::fs::read(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            text => text.at(file)?,
        };
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in text[..whole].split_inclusive(|byte| *byte == b'\n') {
            if seen.insert(line.to_vec()) {
                all.extend_from_slice(line);
            }
        }
        if kept && whole < text.len() {
            cut = text[whole..].to_vec();
        }
    }
    all.append(&mut cut);
    write_atomic(path, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_once_and_one_that_was_cut_short_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let parts = [file("a", "1\n2\n"), file("b", "2\n3\n4"), file("c", "")];
        let all = dir.path().join("below/all");
        append(&all, &parts, false).unwrap();
        append(&all, &parts, false).unwrap();
        assert_eq!(std::fs::read_to_string(&all).unwrap(), "1\n2\n3\n");
        // Kept for those that ask whether work was stopped in the middle of a line, and never in front of others.
        append(&all, &parts, true).unwrap();
        append(&all, &[file("d", "5\n")], true).unwrap();
        assert_eq!(std::fs::read_to_string(&all).unwrap(), "1\n2\n3\n5\n4");
    }

    #[test]
    fn shards_of_one_command_stand_beside_each_other() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["prepare-1-of-2", "prepare-2-of-2", "prepare-1-of-3", "eval-2-of-2"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("a.jsonl"), "").unwrap();
        }
        let found = beside(&dir.path().join("prepare-1-of-2"), Path::new("a.jsonl"));
        assert_eq!(found, [dir.path().join("prepare-2-of-2/a.jsonl")]);
    }

    #[test]
    fn what_differs_is_named() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let one = of(&[("model", "1"), ("model as loaded", "1"), ("options", "1")]);
        let two = of(&[("model", "2"), ("model as loaded", "2"), ("options", "1"), ("set", "1")]);
        assert_eq!(differing(&one, &two), ["model", "set"]);
        assert_eq!(
            differing(&one, &of(&[("model", "1"), ("model as loaded", "2"), ("options", "1")])),
            ["model as loaded"]
        );
        assert_eq!(settings(&json!({"a": 1, "b": 2}), &json!({"a": 1, "b": 3, "c": 4})), "b, c");
    }
}
