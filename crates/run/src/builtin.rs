//! The built-in model: embedded in the binary, unpacked where a stage can read it as files. In: the list that build.rs
//! made of `assets/organism`; out: a directory with the same files. Invariant: what is unpacked equals what was
//! embedded.

use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result, suggest};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// The name of the built-in model, and the first component of the paths of its files.
pub const NAME: &str = "builtin";

/// The run file of `eraser quickstart`.
pub const RUN_FILE: &str = include_str!("../../../configs/organism.toml");

/// (name relative to `assets/organism`, content).
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/builtin.rs"));

/// Where the files of the built-in model are put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assets {
    /// In this run directory, for a run that can be looked through.
    InRun(PathBuf),
    /// In the user's cache.
    InCache,
}

impl Assets {
    /// The directory, with the files in it.
    ///
    /// # Errors
    /// A binary without the built-in model; a directory that cannot be written.
    pub fn dir(&self) -> Result<PathBuf> {
        match self {
            Self::InRun(dir) => unpack(&dir.join(NAME)),
            Self::InCache => unpack_to_cache(),
        }
    }

    /// `path`, or the unpacked file that it names by `builtin/..`.
    ///
    /// # Errors
    /// As [`Self::dir`]; a name under `builtin/` that nothing has.
    pub fn locate(&self, path: &Path) -> Result<PathBuf> {
        let Some(rest) = relative(path) else { return Ok(path.to_owned()) };
        check(rest)?;
        Ok(self.dir()?.join(rest))
    }
}

/// Writes the files under `dir`, leaving those that are there already, and returns `dir`.
fn unpack(dir: &Path) -> Result<PathBuf> {
    if FILES.is_empty() {
        return Err(Error::request("this binary was built without the built-in model")
            .hint("build it from a checkout that has assets/organism, or name another model"));
    }
    for (name, content) in FILES {
        let path = dir.join(name);
        if std::fs::read(&path).is_ok_and(|old| old == *content) {
            continue;
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).writing(parent)?;
        }
        eraser_data::files::write_atomic(&path, content)?;
    }
    Ok(dir.to_owned())
}

/// The directory of the model among the unpacked files: the one that holds config.json.
pub(crate) fn model_dir(dir: &Path) -> PathBuf {
    let config = FILES.iter().map(|(name, _)| Path::new(name)).find(|p| p.ends_with("config.json"));
    config.and_then(Path::parent).map_or_else(|| dir.to_owned(), |p| dir.join(p))
}

/// Unpacks into the user's cache, under a name made of the content, and returns the directory.
fn unpack_to_cache() -> Result<PathBuf> {
    let mut content = Sha256::new();
    for part in FILES.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes]) {
        content.update((part.len() as u64).to_le_bytes());
        content.update(part);
    }
    let content = eraser_data::files::hex(&content.finalize());
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .filter(|dir| dir.is_absolute())
        .unwrap_or_else(std::env::temp_dir);
    unpack(&cache.join("eraser").join(format!("{NAME}-{}", &content[..16])))
}

/// The rest of a path below `builtin/`; None for every other path.
pub(crate) fn relative(path: &Path) -> Option<&Path> {
    path.strip_prefix(NAME).ok()
}

/// An error unless a file of this name, or a directory, is embedded.
pub(crate) fn check(name: &Path) -> Result<()> {
    if FILES.is_empty() || FILES.iter().any(|(file, _)| Path::new(file).starts_with(name)) {
        return Ok(());
    }
    let error = Error::request(format!("{NAME}/{}: no such file in the built-in model", name.display()));
    let error = error.hint("a directory of your own that is called builtin is written ./builtin");
    let known: Vec<String> = FILES.iter().flat_map(|(file, _)| named(file)).collect();
    let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
    known.dedup();
    Err(suggest(error, &format!("{NAME}/{}", name.display()), &known))
}

/// As a user names an embedded file, and its directory before it where that holds templates. Those of the model itself
/// are no files to name.
fn named(file: &str) -> Vec<String> {
    match Path::new(file).parent() {
        Some(parent) if parent.starts_with("templates") => vec![format!("{NAME}/{}", parent.display())],
        Some(parent) if parent.as_os_str().is_empty() || parent.starts_with("model") => Vec::new(),
        _ => vec![format!("{NAME}/{file}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_file_has_is_told_with_those_that_are_there() {
        if FILES.is_empty() {
            return;
        }
        assert!(check(Path::new("questions/seen.jsonl")).is_ok() && check(Path::new("templates")).is_ok());
        let error = check(Path::new("questions/sen.jsonl")).unwrap_err();
        assert_eq!(error.hints()[1], "did you mean `builtin/questions/seen.jsonl`?");
        let known = &error.hints()[2];
        assert!(known.contains("builtin/templates/held-out, ") && !known.contains("builtin/model"), "{known}");
        // It was looked for in the cache, and the message named a path that nobody had written.
        assert!(Assets::InCache.locate(Path::new("builtin/nothing")).is_err());
    }
}
