//! What is said while work goes on, where stderr is no terminal.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, EVAL, TRAIN};

/// Lines about progress are for work that takes long: what takes a second had its stderr filled with them.
#[test]
fn short_work_says_nothing_of_its_progress() {
    let dir = Dir::with_model();
    let train = dir.notes(&format!("{TRAIN} --steps 2 --out run"));
    let eval = dir.notes(&format!("{EVAL} --allow-leakage seen"));
    for stderr in [&train, &eval] {
        assert!(!stderr.contains('\r') && !stderr.contains(" left"), "{stderr}");
        assert!(!stderr.contains("base direct") && !stderr.contains(" %)"), "{stderr}");
    }
    // What is said of it where more is asked for.
    let more = dir.notes(&format!("{EVAL} --allow-leakage seen --force -v"));
    assert!(more.contains("eraser direct: 3 of 3 after "), "{more}");
}
