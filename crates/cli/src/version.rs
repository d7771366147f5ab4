//! What this binary is. In: what it was built from, and the processor; out: one line, or all of it. Invariant: what the
//! build did not know is left out.

use std::sync::LazyLock;

/// `0.1.0 (commit 1a2b3c4d5e6f of 2026-01-31)`.
static SHORT: LazyLock<String> = LazyLock::new(|| match (option_env!("ERASER_COMMIT"), option_env!("ERASER_DATE")) {
    (Some(commit), Some(date)) => format!("{} (commit {commit} of {date})", env!("CARGO_PKG_VERSION")),
    (Some(commit), None) => format!("{} (commit {commit})", env!("CARGO_PKG_VERSION")),
    _ => env!("CARGO_PKG_VERSION").to_owned(),
});

static LONG: LazyLock<String> = LazyLock::new(|| {
    let features: Vec<&str> = eraser_run::manifest::features().collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    let target = option_env!("ERASER_TARGET").map_or_else(String::new, |target| format!("target: {target}\n"));
    let kernels = eraser_run::machine::kernels().join(", ");
    format!("{}\nfeatures: {features}\n{target}kernels on this machine: {kernels}", *SHORT)
});

/// For `-V`: one line.
pub(crate) fn short() -> &'static str {
    &SHORT
}

/// For `--version`: what it was built with too, and what it computes with on this machine.
pub(crate) fn long() -> &'static str {
    &LONG
}
