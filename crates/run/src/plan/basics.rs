//! What all plans check. In: names and paths; out: errors that begin with the option or key concerned.

use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use std::path::Path;

/// The flag of a key, for errors about the command line: `max_length` is `--max-length`.
pub fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

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

/// An error unless `path` can be found.
pub(super) fn exists(path: &Path) -> Result<()> {
    std::fs::metadata(path).at(path).map(|_| ())
}
