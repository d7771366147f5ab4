//! stub
use eraser_model::Result;
use std::path::Path;

/// Writes a file so that it appears whole or not at all: temporary file, fsync, rename.
pub fn write_atomic(_path: &Path, _bytes: &[u8]) -> Result<()> {
    todo!()
}

/// Hex SHA-256 of a file's content.
pub fn hash_file(_path: &Path) -> Result<String> {
    todo!()
}
