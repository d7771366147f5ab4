//! `cargo xtask peer`: `eraser train` against the published recipe in PyTorch and PEFT. In: the peer's sets; out:
//! tokens per second and peak memory of both in turn, and how far their losses are apart. Invariant: both start from
//! the same adapter and see the same rows in the same order.

use super::{Figures, Sides, machine, process::number, record};
use clap::{Args, ValueEnum};
use eraser_model::{Error, Result, counted};
use serde_json::Value;
use std::{fmt::Write as _, path::PathBuf};

/// Options of `cargo xtask peer`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    sides: Sides,
    /// What to compare
    #[arg(long, value_enum, value_delimiter = ',', default_value = "response")]
    cases: Vec<Case>,
    /// Optimiser steps that are timed; the first is not counted
    #[arg(long, value_name = "N", default_value = "20")]
    steps: usize,
    /// Further options of `eraser train`
    #[arg(long, value_name = "FLAGS", default_value = "", allow_hyphen_values = true)]
    extra: String,
}

/// What both sides do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// KL over answers: a first epoch, a second one, and one with the hinge closed
    Response,
    /// The same with adapters on the upper half of the layers
    Upper,
    /// KL over all positions, first epoch
    All,
}

/// One way that we run a case.
struct Mode {
    name: &'static str,
    gamma: f64,
    /// Epochs run before the timed one.
    warm: bool,
}

const COLD: Mode = Mode { name: "first epoch, hinge open", gamma: 3.5, warm: false };
const WARM: Mode = Mode { name: "second epoch, hinge open", gamma: 3.5, warm: true };
const CLOSED: Mode = Mode { name: "second epoch, hinge closed", gamma: 1.0, warm: true };

impl Case {
    fn modes(self) -> &'static [Mode] {
        match self {
            Self::Response => &[COLD, WARM, CLOSED],
            Self::Upper => &[COLD, WARM],
            Self::All => &[COLD],
        }
    }

    fn scope(self) -> &'static str {
        if self == Self::All { "all" } else { "response" }
    }
}

/// What one process reported.
#[derive(Default)]
struct Side {
    tokens_per_s: Figures,
    memory: Figures,
    /// Share of the rate of a plain product; ours only.
    efficiency: Figures,
}

/// Runs the cases.
pub(crate) fn run(options: &Options) -> Result<()> {
    options.sides.check()?;
    let mut entry = format!(
        "{}. {} of each side in turn, {} timed. SmolLM2-135M-Instruct in {}, micro-batch 4, one step per \
         micro-batch, tokens counted without padding.\n\n    cargo xtask peer --precision {} --cases {} --steps {} --repeats {} \
         --extra '{}'\n\n| case | ours, tokens/s | PyTorch + PEFT | ratio | ours, peak MB | PyTorch + PEFT | share of the product's rate |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        machine::describe(),
        counted(options.sides.repeats, "run"),
        counted(options.steps, "step"),
        options.sides.precision.name(),
        options.sides.precision.name(),
        options
            .cases
            .iter()
            .filter_map(ValueEnum::to_possible_value)
            .map(|v| v.get_name().to_owned())
            .collect::<Vec<_>>()
            .join(","),
        options.steps,
        options.sides.repeats,
        options.extra,
    );
    let mut differences = String::new();
    for &case in &options.cases {
        let (rows, text) = compare(options, case)?;
        entry.push_str(&rows);
        differences.push_str(&text);
    }
    entry.push('\n');
    entry.push_str(&differences);
    entry.push('\n');
    println!("{entry}");
    if options.sides.record { record("training against PyTorch + PEFT", &entry) } else { Ok(()) }
}

fn compare(options: &Options, case: Case) -> Result<(String, String)> {
    let sets = sets(options)?;
    let layers = config_layers(options)?;
    let upper = (case == Case::Upper).then(|| format!("{}-{}", layers / 2, layers - 1));
    let init = options.sides.work.join(format!("init-{case:?}").to_lowercase());
    let mut peer_side = Side::default();
    let mut ours: Vec<Side> = case.modes().iter().map(|_| Side::default()).collect();
    let precision = options.sides.precision;
    let mut differences = String::new();
    for turn in 0..options.sides.repeats {
        let peer = peer(options, case, &sets, &init, upper.as_deref(), turn)?;
        peer_side.tokens_per_s.0.push(number(last(&peer)?, "tokens_per_s")?);
        peer_side.memory.0.push(number(last(&peer)?, "peak_rss_mb")?);
        for (mode, side) in case.modes().iter().zip(&mut ours) {
            let before = machine::products(precision)?;
            let lines = own(options, case, mode, &sets, &init)?;
            let product = f64::midpoint(before, machine::products(precision)?);
            let skipped = 1 + if mode.warm { options.steps } else { 0 };
            let steps: Vec<&Value> = lines.iter().filter(|l| l["step"].is_u64()).skip(skipped).collect();
            let sum = |key: &str| steps.iter().map(|line| number(line, key)).sum::<Result<f64>>();
            let seconds = sum("seconds")?;
            side.tokens_per_s.0.push(sum("tokens")? / seconds);
            side.memory.0.push(number(last(&lines)?, "peak_rss_mb")?);
            side.efficiency.0.push(sum("gflop")? / seconds / product);
            eprintln!(
                "{case:?}, {}: {:.1} tokens/s, a product {product:.0} GFLOP/s",
                mode.name,
                sum("tokens")? / seconds
            );
            if turn == 0 && mode.gamma == COLD.gamma && !mode.warm {
                differences = apart(&peer, &lines)?;
            }
        }
    }
    let mut rows = String::new();
    for (mode, side) in case.modes().iter().zip(&ours) {
        let _ = writeln!(
            rows,
            "| {case:?}, {} | {} | {} | {} | {} | {} | {} |",
            mode.name,
            side.tokens_per_s.show(0),
            peer_side.tokens_per_s.show(0),
            side.tokens_per_s.ratios(&peer_side.tokens_per_s).show(2),
            side.memory.show(0),
            peer_side.memory.show(0),
            side.efficiency.show(2),
        );
    }
    Ok((rows, format!("{case:?}: {differences}\n")))
}

/// The largest differences of the two sides' losses over the first steps.
fn apart(peer: &[Value], ours: &[Value]) -> Result<String> {
    let (mut nll, mut loss, mut kl, mut steps) = (0f64, 0f64, 0f64, 0);
    for (theirs, ours) in peer.iter().zip(ours).filter(|(theirs, _)| theirs["step"].is_u64()) {
        let gap = |theirs_key: &str, key: &str| -> Result<(f64, f64)> {
            let (a, b) = (number(theirs, theirs_key)?, number(ours, key)?);
            Ok(((a - b).abs(), a.abs()))
        };
        let (difference, size) = gap("ce_harm", "nll_harm")?;
        nll = nll.max(difference / size);
        let (difference, size) = gap("loss", "loss")?;
        loss = loss.max(difference / size);
        kl = kl.max(gap("l_help", "l_help")?.0).max(gap("l_align", "l_align")?.0);
        steps += 1;
    }
    Ok(format!(
        "over {steps} steps, nll_harm within {nll:.1e} and loss within {loss:.1e} relative, KL terms within {kl:.1e}."
    ))
}

fn last(lines: &[Value]) -> Result<&Value> {
    lines.last().ok_or_else(|| Error::failed("a side printed nothing"))
}

/// As many rows of each set as the steps see once.
fn sets(options: &Options) -> Result<Vec<PathBuf>> {
    let rows = 4 * options.steps;
    let cut = |name: &str| {
        let from = options.sides.scripts.join("sets").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&from).map_err(|e| Error::request(format!("{}: {e}", from.display())))?;
        let mut all: Vec<Value> = serde_json::from_str(&text).map_err(Error::failed)?;
        let whole = all.clone();
        while all.len() < rows && !whole.is_empty() {
            all.extend_from_slice(&whole);
        }
        all.truncate(rows);
        let to = options.sides.work.join(format!("{name}.json"));
        std::fs::write(&to, serde_json::to_vec(&all).map_err(Error::failed)?).map_err(Error::failed)?;
        Ok(to)
    };
    ["harm_standin", "help", "align"].into_iter().map(cut).collect()
}

fn config_layers(options: &Options) -> Result<usize> {
    Ok(eraser_model::ModelConfig::from_hf_dir(&options.sides.model)?.num_layers)
}

fn peer(
    options: &Options,
    case: Case,
    sets: &[PathBuf],
    init: &PathBuf,
    upper: Option<&str>,
    turn: usize,
) -> Result<Vec<Value>> {
    let mut program = options.sides.peer("eraser_torch.py").arg("--model").arg(&options.sides.model);
    for (flag, set) in ["--harm", "--help-set", "--align"].into_iter().zip(sets) {
        program = program.arg(flag).arg(set);
    }
    program = program.args(&format!("--gamma {} --kl-scope {} --steps {}", COLD.gamma, case.scope(), options.steps));
    if let (Some(layers), true) = (upper, turn == 0) {
        program = program.arg("--layers").arg(layers);
    }
    let start = if turn == 0 { "--save-init" } else { "--init-adapter" };
    program.arg(start).arg(init).run()
}

fn own(options: &Options, case: Case, mode: &Mode, sets: &[PathBuf], init: &PathBuf) -> Result<Vec<Value>> {
    let out = options.sides.work.join("run");
    if out.exists() {
        std::fs::remove_dir_all(&out).map_err(Error::failed)?;
    }
    let mut program = options.sides.ours("train").arg("--out").arg(&out);
    for (flag, set) in ["--harm", "--help-set", "--align"].into_iter().zip(sets) {
        program = program.arg(flag).arg(set);
    }
    let steps = options.steps * if mode.warm { 2 } else { 1 };
    program
        .args(&format!("--gamma {} --kl-scope {} --steps {steps}", mode.gamma, case.scope()))
        .args("--micro-batch 4 --grad-accum 1 --noise off --templates model --lr 2e-5 --schedule constant")
        .args("--lora-dropout 0 --max-length 512 --order file --json --init-adapter")
        .arg(init)
        .args(&options.extra)
        .run()
}
