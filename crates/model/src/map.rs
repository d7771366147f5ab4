//! Read-only memory maps of model files. Invariant: the one place of this crate that is `unsafe`.

use crate::{Result, error::PathContext};
use memmap2::Mmap;
use std::{fs::File, path::Path};

/// Maps `path` for reading. An empty file gives an empty map.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).at(path)?;
    if file.metadata().at(path)?.is_dir() {
        return Err(crate::Error::request(format!("{}: is a directory, not a file", path.display())));
    }
    // SAFETY: the map is private to this process and never written through. Another process that truncates the file
    // while it is mapped makes reads fault; model files are replaced by rename, not rewritten in place, and every
    // reader of memory-mapped weights shares this assumption.
    #[allow(unsafe_code)]
    unsafe { Mmap::map(&file) }.at(path)
}
