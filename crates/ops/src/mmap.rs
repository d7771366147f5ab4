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

/// Gives the pages of a file's map back: they no longer count against this process, and are read again when they are
/// used. Without effect where the system has no such call.
pub fn release(map: &Mmap) {
    #[cfg(unix)]
    {
        // SAFETY: `map` comes from `map` above: a read-only private map of a file. Its pages were never written, so the
        // ones that are read in again hold the same bytes.
        #[allow(unsafe_code)]
        let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_released_map_still_holds_its_file() {
        let file = std::env::temp_dir().join(format!("eraser-mmap-{}", std::process::id()));
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        let map = super::map(&file).unwrap();
        assert_eq!(&map[..], &bytes[..]);
        super::release(&map);
        assert_eq!(&map[..], &bytes[..]);
        std::fs::remove_file(file).unwrap();
    }
}
