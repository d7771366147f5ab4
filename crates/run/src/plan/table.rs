//! Plans as the tables of a run file. In: paths and sources; out: TOML values. Invariant: paths are absolute, so that a
//! plan means the same from every directory.

use super::source::Source;
use eraser_model::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// Settings as a table.
pub(super) fn table<T: Serialize>(settings: &T) -> Result<toml::Table> {
    toml::Table::try_from(settings).map_err(|e| Error::failed(format!("cannot write the plan: {e}")))
}

/// A table as the manifest records it.
pub(super) fn json(table: &toml::Table) -> Result<serde_json::Value> {
    serde_json::to_value(table).map_err(|e| Error::failed(format!("cannot record the plan: {e}")))
}

/// An absolute path; those of the built-in model stay as they are.
pub(super) fn path_value(path: &Path) -> Result<toml::Value> {
    if crate::builtin::relative(path).is_some() {
        return Ok(path.display().to_string().into());
    }
    let absolute = std::path::absolute(path).map_err(|e| Error::request(format!("{}: {e}", path.display())))?;
    match absolute.to_str() {
        Some(text) => Ok(text.into()),
        None => Err(Error::request(format!("{}: the path is not UTF-8", path.display()))
            .hint("a run file, and so a run, can name paths in UTF-8 only")),
    }
}

/// Sets `key` to the absolute path, if there is one.
pub(super) fn absolute(table: &mut toml::Table, key: &str, path: Option<&Path>) -> Result<()> {
    if let Some(path) = path {
        table.insert(key.to_owned(), path_value(path)?);
    }
    Ok(())
}

/// A source as a table, with its column under the key `input`.
pub(super) fn source_table(source: &Source, input: &str) -> Result<toml::Table> {
    let mut table = table(source)?;
    if let Some(column) = table.remove("input") {
        table.insert(input.to_owned(), column);
    }
    table.insert("path".into(), path_value(&source.path)?);
    Ok(table)
}
