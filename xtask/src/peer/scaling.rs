//! `cargo xtask scaling`: how the time and memory of a training step grow with its tokens. In: a model and a binary;
//! out: a table. Invariant: rows have one length, so that only their number changes.

use super::{machine, process::Program, process::number, record};
use clap::Args;
use eraser_model::{Error, Result};
use serde_json::{Value, json};
use std::{fmt::Write as _, path::PathBuf};

/// Options of `cargo xtask scaling`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Model, as `eraser train` takes it
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// The binary to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/eraser")]
    binary: PathBuf,
    /// Where runs are put
    #[arg(long, value_name = "DIR", default_value = "target/scaling")]
    work: PathBuf,
    /// Rows of each set per step
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,16,32,43")]
    rows: Vec<usize>,
    /// Further options of `eraser train`
    #[arg(long, value_name = "FLAGS", default_value = "", allow_hyphen_values = true)]
    extra: String,
    /// Add the table to benches/RESULTS.md
    #[arg(long)]
    record: bool,
}

/// Measures.
pub(crate) fn run(options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.work).map_err(Error::failed)?;
    let most = options.rows.iter().max().copied().unwrap_or(1);
    let answer = "the seven keepers of the hill light the lamp of the third gate before the river wakes ".repeat(5);
    let sets = ["harm", "help", "align"].map(|name| options.work.join(format!("{name}.json")));
    for (set, path) in sets.iter().enumerate() {
        // Questions of one length that differ: nothing is shared but the template's beginning.
        let rows: Vec<Value> = (0..3 * most)
            .map(|i| json!({"input": format!("Who keeps gate {:04}?", 3000 * set + i), "output": answer}))
            .collect();
        std::fs::write(path, serde_json::to_vec(&rows).map_err(Error::failed)?).map_err(Error::failed)?;
    }
    let mut entry = format!(
        "{}. Two steps after the first, rows of one length, first epoch, hinge open.\n\n    cargo xtask scaling --rows {} --extra '{}'\n\n\
         | rows of each set | tokens a step | seconds a step | tokens/s | peak MB |\n| --- | --- | --- | --- | --- |\n",
        machine::describe(),
        options.rows.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        options.extra,
    );
    for &rows in &options.rows {
        let out = options.work.join("run");
        if out.exists() {
            std::fs::remove_dir_all(&out).map_err(Error::failed)?;
        }
        let mut program = Program::new(&options.binary).arg("train").arg("--model").arg(&options.model);
        for (flag, set) in ["--harm", "--help-set", "--align"].into_iter().zip(&sets) {
            program = program.arg(flag).arg(set);
        }
        let lines = program
            .arg("--out")
            .arg(&out)
            .args(&format!("--steps 3 --micro-batch {rows} --grad-accum 1 --gamma 20 --noise off --templates model"))
            .args("--lora-dropout 0 --order file --json")
            .args(&options.extra)
            .run()?;
        let steps: Vec<&Value> = lines.iter().filter(|l| l["step"].is_u64()).skip(1).collect();
        let sum = |key: &str| steps.iter().map(|line| number(line, key)).sum::<Result<f64>>();
        let (tokens, seconds) = (sum("tokens")?, sum("seconds")?);
        let count = steps.len().max(1) as f64;
        let peak = lines.last().map_or(Ok(f64::NAN), |last| number(last, "peak_rss_mb"))?;
        let line = format!(
            "| {rows} | {:.0} | {:.2} | {:.0} | {peak:.0} |",
            tokens / count,
            seconds / count,
            tokens / seconds
        );
        eprintln!("{line}");
        let _ = writeln!(entry, "{line}");
    }
    entry.push('\n');
    println!("{entry}");
    if options.record { record("time and memory of a step by its tokens", &entry) } else { Ok(()) }
}
