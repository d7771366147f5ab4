//! Reading a run's files with bounds, and writing the report's. Invariants: no read allocates more than the bounds
//! below whatever a file claims; a file appears complete or not at all.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Largest JSON or TOML file read whole, bytes.
const MAX_TEXT: u64 = 64 << 20;
/// Longest line of a JSONL file, bytes.
const MAX_LINE: u64 = 8 << 20;

/// The entries of a directory, by name.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).and_then(|entries| entries.map(|e| Ok(e?.path())).collect());
    let mut entries: Vec<PathBuf> = entries.map_err(|e| Error::read(dir, e))?;
    entries.sort();
    Ok(entries)
}

/// Reads a whole text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let mut bytes = Vec::new();
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(|e| Error::read(path, e))?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(Error::content(path, format_args!("larger than {} MiB", MAX_TEXT >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| Error::content(path, "not UTF-8"))
}

/// Reads a JSON file.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read_text(path)?).map_err(|e| Error::content(path, e))
}

/// Calls `f` with the index and value of every line of a JSONL file. Blank lines are passed over, and so is a last line
/// without its line break that does not parse: a writer that was killed left it.
pub(crate) fn read_jsonl<T: DeserializeOwned>(path: &Path, mut f: impl FnMut(T)) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(|e| Error::read(path, e))?;
        if read == 0 {
            break;
        }
        let complete = line.ends_with(b"\n");
        if !complete && read as u64 == MAX_LINE {
            return Err(Error::content(path, format_args!("line {number}: longer than {} MiB", MAX_LINE >> 20)));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(value) => f(value),
            Err(_) if !complete => break,
            Err(e) => {
                // serde_json counts lines of the slice, which is one line.
                let message = e.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                return Err(Error::content(path, format_args!("line {number}, column {}: {message}", e.column())));
            }
        }
    }
    Ok(())
}

/// Writes a file by writing a temporary one beside it and renaming.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let error = |source| Error::Write { path: path.to_path_buf(), source };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, path));
    if result.is_err() {
        // The first error is the one to report; the temporary may not even exist.
        let _ = std::fs::remove_file(&temporary);
    }
    result.map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<u32>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut all = Vec::new();
        read_jsonl(file.path(), |x: u32| all.push(x))?;
        Ok(all)
    }

    #[test]
    fn jsonl() {
        assert_eq!(lines("1\n\n2\n3").unwrap(), [1, 2, 3]);
        assert_eq!(lines("1\n2\n{\"half").unwrap(), [1, 2]);
        let error = lines("1\n{\"half\n3\n").unwrap_err().to_string();
        assert!(error.contains("line 2, column "), "{error}");
    }

    #[test]
    fn writing_replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(&dir.path().join("no/such/dir"), "x").is_err());
    }
}
