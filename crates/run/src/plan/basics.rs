//! What all plans check. In: names and paths; out: errors that begin with the option or key concerned.

use crate::failure::Problems;
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use std::path::Path;

/// The flag of a key, for errors about the command line: `max_length` is `--max-length`, `gcg.steps` is `--gcg-steps`.
pub fn flag(key: &str) -> String {
    let key = if key == "judge.endpoint_key_env" { "judge.key_env" } else { key };
    format!("--{}", key.replace(['_', '.'], "-"))
}

/// As [`flag`], of a key of `[eval]`.
pub fn eval_flag(key: &str) -> String {
    flag(if key == "tasks" { UTILITY } else { key })
}

/// The files of questions with expected answers, as a user writes the key. `tasks`, its older name, is taken too: in
/// `eraser bench` it means benchmarks.
pub(crate) const UTILITY: &str = "utility";

/// An error of the option or key named `at`.
pub fn wrong(at: &str, what: impl std::fmt::Display) -> Error {
    Error::request(format!("{at}: {what}"))
}

/// Names become file names and table rows.
///
/// # Errors
/// What is wrong with the name.
pub fn check_name(name: &str) -> std::result::Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("`{name}` cannot be a name: use letters, digits and - _ + . (at most 64)"));
    }
    Ok(())
}

/// What is wrong where one of the `taken` names is `name`, or differs from it only in upper and lower case: each name
/// is a directory, and on some disks the two would be one. `what` they are is a plural.
pub(super) fn clash<'a>(what: &str, name: &str, taken: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let other = taken.into_iter().find(|other| other.eq_ignore_ascii_case(name))?;
    Some(if other == name {
        format!("two {what} have the name `{name}`")
    } else {
        format!(
            "the names of the {what} `{other}` and `{name}` differ only in upper and lower case: on some disks they would be one \
             directory"
        )
    })
}

/// Notes an error if the run directory that `at` names is a file.
pub fn check_out(dir: &Path, at: &str, problems: &mut Problems) {
    if dir.exists() && !dir.is_dir() {
        let error = wrong(at, format!("{} is not a directory", dir.display()));
        problems.push(error.hint("name the directory of a run, or a new one"));
    }
}

/// An error unless `path` can be found.
pub(super) fn exists(path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::request("no file is named").hint("write the path, behind NAME= where it has a name"));
    }
    std::fs::metadata(path).at(path).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `X` and `x` were two subjects, and one directory on a disk that does not tell cases apart.
    #[test]
    fn names_that_differ_only_in_case_clash() {
        let clash = |name: &str| clash("subjects", name, ["base", "Eraser"]);
        assert_eq!(clash("gam"), None);
        assert!(clash("Eraser").unwrap().contains("two subjects have the name `Eraser`"));
        let both = clash("eraser").unwrap();
        assert!(both.contains("`Eraser` and `eraser`"), "{both}");
    }
}
