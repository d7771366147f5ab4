//! Hardens the built-in model in this process, as `eraser quickstart` does, with few steps and few questions.
//!
//!     cargo run --release --example harden

use eraser_run::plan::{Overrides, RunPlan};
use eraser_run::study::Question;
use eraser_run::{Earlier, Failure, Watch, builtin, run, table};
use std::path::Path;

/// Prints the notes of the stages, and lets them work.
struct Lines;

impl Watch for Lines {
    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

fn main() -> Result<(), Failure> {
    eraser_ops::threads::init(None);
    let out = std::env::temp_dir().join("eraser-harden");
    let set = ["train.steps=100", "eval.limit=5"].map(String::from);
    let overrides = Overrides { out: Some(&out), set: &set, ..Overrides::default() };
    let plan = RunPlan::parse(Path::new("organism.toml"), builtin::RUN_FILE, &overrides)?;
    let no_study: Option<Question<'_>> = None;
    let written = run(&plan, Earlier::Removed, no_study, &mut Lines)?;
    println!("{}\nreport: {}", table(&plan.dir)?, written.html.display());
    Ok(())
}
