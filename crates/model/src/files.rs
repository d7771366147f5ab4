//! Files that appear whole or not at all. Invariant: a reader never sees a half-written file under its final name.

use crate::{Error, Result, error::PathContext};
use std::{fmt::Write as _, io::Write, path::Path};
use tempfile::NamedTempFile;

/// Writes `bytes` to a temporary file beside `path`, flushes it to disk, and renames it into place.
///
/// # Errors
/// Any I/O error, naming the path.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = beside(path)?;
    file.write_all(bytes).writing(path)?;
    put(file, path)
}

/// An empty temporary file in the directory of `path`.
pub(crate) fn beside(path: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    // Temporary files are private by default; what is written here is as readable as any other file of the user.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let dir = dir_of(path);
    builder.tempfile_in(dir).writing(dir)
}

/// Flushes a file of [`beside`] to disk, and renames it to `path`.
pub(crate) fn put(file: NamedTempFile, path: &Path) -> Result<()> {
    let dir = dir_of(path);
    file.as_file().sync_all().writing(path)?;
    file.persist(path).map_err(|e| e.error).writing(path)?;
    sync_dir(dir).writing(dir)
}

fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What a file begins with that Git LFS left in place of another one.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// An error if the content of the file at `path` is only a pointer of Git LFS: the repository was cloned without it.
pub(crate) fn no_pointer(bytes: &[u8], path: &Path) -> Result<()> {
    if !bytes.starts_with(POINTER) {
        return Ok(());
    }
    Err(Error::request(format!("{}: it is a pointer of Git LFS, not the file itself", path.display()))
        .hint("fetch the files of the repository: git lfs install, then git lfs pull in its directory")
        .hint("or download the model with `hf download`"))
}

/// What to do about JSON that cannot be read.
pub(crate) fn json_hint(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        "the file begins with a byte-order mark, which JSON does not have: save it as UTF-8 without one"
    } else if bytes.iter().all(u8::is_ascii_whitespace) {
        "the file is empty: download it again"
    } else {
        "the file is damaged or incomplete: take the one that was published with the model"
    }
}

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        // Writing into a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Makes a rename in `dir` durable.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { std::fs::File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_of_git_lfs_is_told_as_that() {
        let text = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
        let error = no_pointer(text, Path::new("a/model.safetensors")).unwrap_err();
        assert!(error.to_string().starts_with("a/model.safetensors: it is a pointer") && error.hints().len() == 2);
        assert!(no_pointer(b"version of something else", Path::new("a")).is_ok());
    }

    #[test]
    fn an_old_file_is_replaced_and_no_temporary_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
