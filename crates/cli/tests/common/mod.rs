//! Running the binary in a directory of its own.

#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "shared by test crates that use parts of it")]

use assert_cmd::cargo::cargo_bin_cmd;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A scratch directory, removed when dropped.
pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
    /// Runs `eraser` with these arguments in the directory.
    pub fn eraser(&self, arguments: &str) -> Output {
        cargo_bin_cmd!("eraser")
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .env("XDG_CACHE_HOME", self.0.path().join("cache"))
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap()
    }
    /// Exit code and stderr of a command that must print nothing to stdout.
    pub fn refused(&self, arguments: &str) -> String {
        let output = self.eraser(arguments);
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
        format!("exit {}\n{}", output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

/// Whether the repository holds the built-in model; tests that need it say that they were skipped.
pub fn builtin() -> bool {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/organism/config.json").is_file();
    if !found {
        eprintln!("skipped: assets/organism is not there");
    }
    found
}
