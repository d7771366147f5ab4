//! Tells the binary what it is built from and for. In: the checkout; out: `ERASER_TARGET`, `ERASER_DATE` of the commit and
//! `ERASER_COMMIT`, with `+changes` when tracked files differ from the commit. Invariant: a source that is not a checkout
//! has neither date nor commit. Looked at again when a commit is made.

use std::path::Path;
use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    println!("cargo::rerun-if-changed=build.rs");
    if let Ok(target) = std::env::var("TARGET") {
        println!("cargo::rustc-env=ERASER_TARGET={target}");
    }
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    if let Some(date) = git(&["show", "-s", "--format=%cs", "HEAD"]) {
        println!("cargo::rustc-env=ERASER_DATE={date}");
    }
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    println!("cargo::rustc-env=ERASER_COMMIT={commit}{}", if changed { "+changes" } else { "" });
}
