//! `cargo xtask peer-score`: multiple-choice scoring against Hugging Face in lm-evaluation-harness's own request order.
//! In: items as `{"query", "choices", "gold"}`; out: items per second of both in turn. Invariant: both score the same
//! items and agree on every accuracy, else the comparison fails.

use super::{Figures, Precision, Sides, machine, process::number, record};
use clap::Args;
use eraser_model::{Error, Result, counted};
use serde_json::Value;
use std::path::PathBuf;

/// Options of `cargo xtask peer-score`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    sides: Sides,
    /// ARC-Easy as JSONL of query, choices, gold
    #[arg(long, value_name = "FILE")]
    items: PathBuf,
    /// Items
    #[arg(long, value_name = "N", default_value = "200")]
    n: usize,
    /// Batch size of the peer
    #[arg(long, value_name = "N", default_value = "8")]
    batch: usize,
}

/// Runs both sides.
pub(crate) fn run(options: &Options) -> Result<()> {
    options.sides.check()?;
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for _ in 0..options.sides.repeats {
        let (rate, accuracies) = own(options)?;
        eprintln!("ours: {rate:.2} items/s");
        ours.0.push(rate);
        let peer = options
            .sides
            .peer("score_torch.py")
            .arg("--model")
            .arg(&options.sides.model)
            .arg("--items")
            .arg(&options.items)
            .args(&format!("--n {} --batch {}", options.n, options.batch))
            .run()?;
        let peer = peer.last().ok_or_else(|| Error::failed("the peer printed nothing"))?;
        let rate = number(peer, "items_per_s")?;
        eprintln!("peer: {rate:.2} items/s");
        theirs.0.push(rate);
        let reference = [number(peer, "acc")?, number(peer, "acc_norm")?];
        // In bf16 an item whose choices are nearly equally likely is decided by rounding.
        let bound = if options.sides.precision == Precision::F32 { 1e-9 } else { 0.02 };
        if accuracies.iter().zip(reference).any(|(a, b)| (a - b).abs() > bound) {
            return Err(Error::failed(format!("acc and acc_norm are {accuracies:?}, the peer's {reference:?}")));
        }
    }
    let precision = options.sides.precision;
    let entry = format!(
        "{}. {}. ARC-Easy, the first {} items, {} of each side in turn; acc and acc_norm {} in every run.\n\n    cargo xtask peer-score \
         --precision {} --n {} --batch {}\n\n| | items/s | ratio |\n| --- | --- | --- |\n| ours | {} | |\n| Hugging Face, batch {} | {} | {} |\n\n",
        machine::describe(),
        precision.name(),
        options.n,
        counted(options.sides.repeats, "run"),
        if precision == Precision::F32 { "equal" } else { "within 0.02" },
        precision.name(),
        options.n,
        options.batch,
        ours.show(2),
        options.batch,
        theirs.show(2),
        ours.ratios(&theirs).show(2),
    );
    println!("{entry}");
    if options.sides.record { record("scoring against Hugging Face", &entry) } else { Ok(()) }
}

/// Items per second, loading not counted, as the peer counts; and acc, `acc_norm`.
fn own(options: &Options) -> Result<(f64, Vec<f64>)> {
    let out = options.sides.work.join("score");
    let lines = options
        .sides
        .ours("bench")
        .arg("--task")
        .arg(format!("arc_easy={}", options.items.display()))
        .args(&format!("--limit {} --force --json --out", options.n))
        .arg(&out)
        .run()?;
    let found = lines.last().ok_or_else(|| Error::failed("the binary printed nothing"))?;
    let rate = number(found, "scored")? / number(found, "score_s")?;
    let rows = found["subjects"][0]["utility"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok((rate, rows.iter().filter_map(|row: &Value| row["value"].as_f64()).collect()))
}
