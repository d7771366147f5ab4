//! Read-only memory maps of model files. In: a path; out: its bytes. Invariant: nothing is ever written through a map.

use memmap2::Mmap;
use std::{fs::File, io, path::Path};

/// Maps `path` for reading. An empty file gives an empty map.
///
/// # Errors
/// Any I/O error; a directory is one.
pub fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory, not a file"));
    }
    // SAFETY: the map is private to this process and never written through. Another process that truncates the file
    // while it is mapped makes reads fault; model files are replaced by rename, not rewritten in place, and every
    // reader of memory-mapped weights shares this assumption.
    #[allow(unsafe_code)]
    unsafe {
        Mmap::map(&file)
    }
}
