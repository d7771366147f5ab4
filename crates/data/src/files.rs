//! Files of a run. In: a path and content; out: a file that appears whole or not at all, its hash, its rows. Invariant:
//! the same values give the same bytes.

use eraser_model::error::PathContext;
use eraser_model::{Error, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;

pub use eraser_model::files::{hex, write_atomic};

/// Hex SHA-256 of a file's content.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).at(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).at(path)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Writes one JSON value a line, as [`write_atomic`] does.
pub fn write_jsonl<T: Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> Result<()> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, &row).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
        bytes.push(b'\n');
    }
    write_atomic(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        write_jsonl(&path, [serde_json::json!({"b": 1, "a": "é"}), serde_json::json!([])]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"b\":1,\"a\":\"é\"}\n[]\n");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(hash_file(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(hash_file(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
