//! `cargo xtask gpu-suite`: what this tool does, on a device, against the CPU; and its speed there beside PyTorch's. In: a
//! device and a binary with support for it; out: an entry for benches/RESULTS.md. Invariant: a check that fails fails
//! the suite, after all of it has run.

use super::checks;
use super::shape::{self, Shape};
use crate::peer::{
    Figures, machine,
    process::{Program, number},
    record,
};
use clap::Args;
use eraser_model::{Error, Result};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Options of `cargo xtask gpu-suite`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The device, as `eraser --device` names it
    #[arg(long, value_name = "DEVICE", default_value = "cuda:0")]
    pub(super) device: String,
    /// The binary, built with the feature of the device
    #[arg(long, value_name = "FILE", default_value = "target/release/eraser")]
    pub(super) binary: PathBuf,
    /// The test program of the crate `eraser-ops`, built with that feature; without it the operations are not tested one
    /// by one
    #[arg(long, value_name = "FILE")]
    conformance: Option<PathBuf>,
    /// Directory of the test programs `families` and `layers` of the crate `eraser-model`, built with that feature, and of
    /// their `tests/fixtures`
    #[arg(long, value_name = "DIR")]
    families: Option<PathBuf>,
    /// Directory of the built-in model, its questions and sets
    #[arg(long, value_name = "DIR", default_value = "assets/organism")]
    pub(super) organism: PathBuf,
    /// Shapes of random models whose speed is measured: `WIDTHxLAYERSxHEADSxKV_HEADSxMLP_WIDTH`
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "576x30x9x3x1536,2048x16x32x8x8192")]
    shapes: Vec<Shape>,
    /// Samples of each set in a step
    #[arg(long, value_name = "N", default_value = "16")]
    rows: usize,
    /// Steps that are timed, after two that are not
    #[arg(long, value_name = "N", default_value = "8")]
    steps: usize,
    /// Python with torch, transformers and peft, to measure PyTorch on the same device
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// The script that it runs
    #[arg(long, value_name = "FILE", default_value = "benches/gpu_torch.py")]
    script: PathBuf,
    /// Leave the checks out
    #[arg(long)]
    only_speed: bool,
    /// How often each side is timed, in turn
    #[arg(long, value_name = "N", default_value = "3")]
    repeats: usize,
    /// Where models and runs are put
    #[arg(long, value_name = "DIR", default_value = "target/gpu")]
    work: PathBuf,
    /// Add the result to benches/RESULTS.md
    #[arg(long)]
    record: bool,
}

/// New tokens of each answer where generation is timed.
const NEW_TOKENS: usize = 128;

/// Runs the suite.
pub(crate) fn run(options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.work).map_err(Error::failed)?;
    let mut entry = format!("{}; device {}.\n\n", machine::describe(), device_name(options));
    let mut failed = Vec::new();
    let mut say = |told: Result<String>| {
        let line = told.unwrap_or_else(|error| {
            failed.push(error.to_string());
            format!("FAILED: {error}: {}", error.hints().join(" "))
        });
        eprintln!("{line}");
        let _ = writeln!(entry, "- {line}");
    };
    if !options.only_speed {
        let operations = options.conformance.as_ref().map(|program| checks::operations(program, &options.device));
        operations.into_iter().for_each(&mut say);
        let families = options.families.as_ref().map(|home| checks::families(home, &options.device));
        families.into_iter().for_each(&mut say);
        say(checks::same_answers(options));
        say(checks::same_steps(options));
        say(checks::every_method(options));
        say(checks::quickstart(options));
        say(checks::server(options));
    }
    entry.push_str("\n| model | | ours | PyTorch | ratio |\n| --- | --- | --- | --- | --- |\n");
    for &shape in &options.shapes {
        let rows = speed(options, shape)?;
        eprint!("{rows}");
        entry.push_str(&rows);
    }
    entry.push('\n');
    println!("{entry}");
    if !failed.is_empty() {
        return Err(Error::failed(failed.join("; ")));
    }
    if options.record { record(&format!("on {}", options.device), &entry) } else { Ok(()) }
}

/// The device's own name, where the driver's tool is there to tell it.
fn device_name(options: &Options) -> String {
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let found = options.device.strip_prefix("cuda").and_then(|_| Command::new("nvidia-smi").args(query).output().ok());
    let found = found.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    found.filter(|name| !name.is_empty()).unwrap_or_else(|| options.device.clone())
}

pub(super) fn program(options: &Options, verb: &str, device: &str) -> Program {
    Program::new(&options.binary).arg(verb).arg("--device").arg(device)
}

/// A directory that is not there.
pub(super) fn fresh(options: &Options, name: &str) -> Result<PathBuf> {
    let dir = options.work.join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(Error::failed)?;
    }
    Ok(dir)
}

/// The objects of all files of lines below a directory, by file and line.
pub(super) fn lines(dir: &Path) -> Result<BTreeMap<(PathBuf, usize), Value>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).map_err(Error::failed)? {
            let path = entry.map_err(Error::failed)?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ext| ext == "jsonl") {
                let text = std::fs::read_to_string(&path).map_err(Error::failed)?;
                for (i, line) in text.lines().enumerate() {
                    let name = path.strip_prefix(dir).unwrap_or(&path).to_path_buf();
                    found.insert((name, i), serde_json::from_str(line).map_err(Error::failed)?);
                }
            }
        }
    }
    Ok(found)
}

/// Rows of the table: a random model's training steps and generation, ours and PyTorch's in turn.
fn speed(options: &Options, shape: Shape) -> Result<String> {
    let model = options.work.join(format!("model-{shape}"));
    if !model.join("model.safetensors").exists() {
        shape.write(&model, &options.organism.join("model"))?;
    }
    let sets = shape::sets(&options.organism.join("sets"), &options.work.join("sets"))?;
    let mut ours: [Figures; 2] = <[Figures; 2]>::default();
    let mut theirs: [Figures; 2] = <[Figures; 2]>::default();
    for _ in 0..options.repeats {
        ours[0].0.push(train(options, &model, &sets)?);
        ours[1].0.push(generate(options, &model, &sets[0])?);
        let Some(python) = &options.python else { continue };
        let lines = Program::new(python)
            .arg(&options.script)
            .arg(&model)
            .args(&format!("--rows {} --steps {} --new {NEW_TOKENS} --sets", options.rows, options.steps + 2))
            .arg(options.work.join("sets"))
            .run()?;
        let last = lines.last().ok_or_else(|| Error::failed("PyTorch printed nothing"))?;
        theirs[0].0.push(number(last, "train")?);
        theirs[1].0.push(number(last, "generate")?);
    }
    let mut rows = String::new();
    let what = ["training, tokens/s", "greedy answers, new tokens/s"];
    for ((what, ours), theirs) in what.iter().zip(&ours).zip(&theirs) {
        let ratio = if theirs.0.is_empty() { String::new() } else { ours.ratios(theirs).show(1) };
        let theirs = if theirs.0.is_empty() { "not measured".to_owned() } else { theirs.show(0) };
        let _ = writeln!(
            rows,
            "| {shape} ({:.2}B), {} rows | {what} | {} | {theirs} | {ratio} |",
            shape.billions(),
            options.rows,
            ours.show(0)
        );
    }
    Ok(rows)
}

fn train(options: &Options, model: &Path, sets: &[PathBuf; 3]) -> Result<f64> {
    let mut program = program(options, "train", &options.device).arg("--model").arg(model);
    for (flag, set) in ["--harm", "--help-set", "--align"].into_iter().zip(sets) {
        program = program.arg(flag).arg(set);
    }
    let lines = program
        .args("--kl-scope response --gamma 20 --noise off --templates model --lr 2e-5 --schedule constant --lora-dropout 0")
        .args(&format!("--steps {} --micro-batch {}", options.steps + 2, options.rows))
        .args("--grad-accum 1 --max-length 512 --order file --targets q_proj,v_proj --json --out")
        .arg(fresh(options, "train")?)
        .run()?;
    let steps: Vec<&Value> = lines.iter().filter(|line| line["step"].is_u64()).skip(2).collect();
    let sum = |key: &str| steps.iter().map(|line| number(line, key)).sum::<Result<f64>>();
    Ok(sum("tokens")? / sum("seconds")?)
}

/// New tokens a second behind the first of each answer: what a run takes longer than one of a single new token, so that
/// loading and prompts do not count.
fn generate(options: &Options, model: &Path, set: &Path) -> Result<f64> {
    let run = |new: usize| -> Result<[f64; 2]> {
        let out = fresh(options, "generate")?;
        let told = program(options, "eval", &options.device)
            .args("--attacks direct --judges keyword --json --model")
            .arg(model)
            .args(&format!("--limit {0} --batch {0} --max-new-tokens {new} --questions", options.rows))
            .arg(format!("unseen={}?column=input", set.display()))
            .arg("--out")
            .arg(&out)
            .run()?;
        let told = told.last().ok_or_else(|| Error::failed("eval printed nothing"))?;
        let tokens = lines(&out.join("eval"))?.values().map(|line| number(line, "tokens")).sum::<Result<f64>>()?;
        Ok([tokens, number(&told["timing"], "eval_s")?])
    };
    let ([few, little], [many, long]) = (run(1)?, run(NEW_TOKENS)?);
    Ok((many - few) / (long - little).max(1e-3))
}
