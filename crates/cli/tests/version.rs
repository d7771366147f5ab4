//! `eraser --version`: what was built, and what it computes with.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;

#[test]
fn a_version_says_what_was_built_and_what_it_computes_with() {
    let dir = Dir::new();
    let short = dir.done("-V");
    assert!(short.starts_with("eraser 0.") && short.lines().count() == 1, "{short}");
    let long = dir.done("--version");
    assert!(long.starts_with(short.trim_end()), "{long}");
    for line in ["\nfeatures: ", "\ntarget: ", "\nkernels on this machine: "] {
        assert!(long.contains(line), "{line}: {long}");
    }
    assert!(dir.done("run -V").contains("0."));
}
