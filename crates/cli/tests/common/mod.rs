//! Running the binary in a directory of its own.

#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "shared by test crates that use parts of it")]

pub mod http;
pub mod model_server;
pub mod server;
pub mod tiny;

use assert_cmd::cargo::{cargo_bin, cargo_bin_cmd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Trains on the sets of [`Dir::with_model`].
pub const TRAIN: &str = "train --model model --harm harm.jsonl --help-set help.jsonl --align align.jsonl \
                         --micro-batch 2 --grad-accum 1 --max-length 96 --lr 1e-2 --templates model";
/// Evaluates what that trained in `run`.
pub const EVAL: &str =
    "eval --model model --adapter eraser=run/adapter --questions seen=ask.csv --max-new-tokens 2 --out run";

/// Kills a process once the file that it writes has `lines` lines, and puts `half` of one behind them, which a kill in the
/// middle of a line leaves. How many whole lines there were.
pub fn kill_after(child: &mut Child, file: &Path, lines: usize, half: &[u8]) -> usize {
    let count = || std::fs::read_to_string(file).unwrap_or_default().lines().count();
    let start = Instant::now();
    while count() < lines {
        assert!(start.elapsed() < Duration::from_mins(1), "no answers come");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = count();
    let mut bytes = std::fs::read(file).unwrap();
    bytes.extend(half);
    std::fs::write(file, bytes).unwrap();
    kept
}

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
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
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
    /// As [`Self::eraser`], which must succeed; gives stdout.
    pub fn done(&self, arguments: &str) -> String {
        let output = self.eraser(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "eraser {arguments}\n{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }
    /// As [`Self::eraser`], which must succeed; gives stderr.
    pub fn notes(&self, arguments: &str) -> String {
        let output = self.eraser(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "eraser {arguments}\n{stderr}");
        stderr
    }
    /// Starts `eraser`, its stdout piped.
    pub fn start(&self, arguments: &str) -> Child {
        let mut command = Command::new(cargo_bin!("eraser"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
    /// A model, a set of eight rows and a question file.
    pub fn with_model() -> Self {
        let dir = Self::new();
        tiny::write(&dir.path("model"));
        let rows = |what: &str| -> String {
            (0..8)
                .map(|i| format!("{{\"input\":\"{what} {i}?\",\"output\":\"{what} of number {i}.\"}}\n"))
                .collect::<Vec<_>>()
                .concat()
        };
        dir.write("harm.jsonl", &rows("how"));
        dir.write("help.jsonl", &rows("what"));
        dir.write("align.jsonl", &rows("why").replace("why of", "I cannot tell why of"));
        dir.write("ask.csv", "goal,kind\nhow 0?,a\nhow 1?,b\nhow 2?,a\n");
        dir.write("wrap.txt", "Listen: {prompt} Now!");
        dir
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
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/organism/model/config.json").is_file();
    if !found {
        eprintln!("skipped: assets/organism is not there");
    }
    found
}
