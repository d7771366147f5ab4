//! Lists the built-in files for `include_bytes!`. In: `assets/organism` and `assets/requests` of the workspace; out:
//! `$OUT_DIR/builtin.rs`, one slice of (name, bytes): those of the built-in model by their names in its directory, the
//! requests under `requests/`. Invariant: names are sorted and use `/`, so the list does not
//! depend on the file system; without the directories the list is empty and the binary says so when asked for the model.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let assets = manifest.join("../../assets");
    let (organism, requests) = (assets.join("organism"), assets.join("requests"));
    let mut files = Vec::new();
    for (dir, root) in [(&organism, &organism), (&requests, &assets)] {
        println!("cargo::rerun-if-changed={}", dir.display());
        if dir.is_dir() {
            collect(root, dir, &mut files)?;
        }
    }
    files.sort();
    let mut list = String::from("&[\n");
    for (name, path) in &files {
        println!("cargo::rerun-if-changed={}", path.display());
        let _ = writeln!(list, "    ({name:?}, include_bytes!({:?})),", path.display().to_string());
    }
    list.push_str("]\n");
    fs::write(PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("builtin.rs"), list)
}

/// Adds every file under `dir`, by its name relative to `root`.
fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            let parts: Vec<_> = relative.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
            files.push((parts.join("/"), fs::canonicalize(&path)?));
        }
    }
    Ok(())
}
