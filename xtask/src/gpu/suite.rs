//! `cargo xtask gpu-suite`: what this tool does, on a device, against the CPU; and its speed there beside PyTorch's. In: a
//! device and a binary with support for it; out: an entry for benches/RESULTS.md. Invariant: the first check that fails
//! ends the suite.

use super::shape::{self, Shape};
use crate::peer::{
    Figures, machine,
    process::{Program, number},
    record,
};
use clap::Args;
use eraser_model::{Error, Result};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Options of `cargo xtask gpu-suite`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The device, as `eraser --device` names it
    #[arg(long, value_name = "DEVICE", default_value = "cuda:0")]
    device: String,
    /// The binary, built with the feature of the device
    #[arg(long, value_name = "FILE", default_value = "target/release/eraser")]
    binary: PathBuf,
    /// The test program of the crate `eraser-ops`, built with that feature; without it the operations are not tested one
    /// by one
    #[arg(long, value_name = "FILE")]
    conformance: Option<PathBuf>,
    /// Directory of the built-in model, its questions and sets
    #[arg(long, value_name = "DIR", default_value = "assets/organism")]
    organism: PathBuf,
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

/// Largest difference of a loss on the device from the CPU's, relative.
const LOSS: f64 = 1e-3;

/// Runs the suite.
pub(crate) fn run(options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.work).map_err(Error::failed)?;
    let mut entry = format!("{}; device {}.\n\n", machine::describe(), device_name(options));
    let mut say = |line: String| {
        eprintln!("{line}");
        let _ = writeln!(entry, "- {line}");
    };
    if !options.only_speed {
        if let Some(program) = &options.conformance {
            say(conformance(program, &options.device)?);
        }
        say(same_answers(options)?);
        say(same_steps(options)?);
        say(quickstart(options)?);
        say(server(options)?);
    }
    entry.push_str("\n| model | | ours | PyTorch | ratio |\n| --- | --- | --- | --- | --- |\n");
    for &shape in &options.shapes {
        let rows = speed(options, shape)?;
        eprint!("{rows}");
        entry.push_str(&rows);
    }
    entry.push('\n');
    println!("{entry}");
    if options.record { record(&format!("on {}", options.device), &entry) } else { Ok(()) }
}

/// The device's own name, where the driver's tool is there to tell it.
fn device_name(options: &Options) -> String {
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let found = options.device.strip_prefix("cuda").and_then(|_| Command::new("nvidia-smi").args(query).output().ok());
    let found = found.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    found.filter(|name| !name.is_empty()).unwrap_or_else(|| options.device.clone())
}

fn program(options: &Options, verb: &str, device: &str) -> Program {
    Program::new(&options.binary).arg(verb).arg("--device").arg(device)
}

/// A directory that is not there.
fn fresh(options: &Options, name: &str) -> Result<PathBuf> {
    let dir = options.work.join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(Error::failed)?;
    }
    Ok(dir)
}

fn conformance(program: &Path, device: &str) -> Result<String> {
    let started = Instant::now();
    let output = Command::new(program)
        .args(["conform", "--test-threads", "8"])
        .env("ERASER_TEST_DEVICE", device)
        .output()
        .map_err(|e| Error::request(format!("{}: {e}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find(|line| line.starts_with("test result:")).unwrap_or("no result");
    if !output.status.success() {
        let failed: Vec<&str> =
            text.lines().filter(|line| line.contains("panicked") || line.contains(" FAILED")).collect();
        return Err(Error::failed(format!("operations on {device}: {result}")).hint(failed.join(" | ")));
    }
    Ok(format!(
        "operations against f64 on the CPU and finite differences: {result} {:.0} s",
        started.elapsed().as_secs_f64()
    ))
}

/// Greedy answers and likelihoods of the built-in model, in f32, on the CPU and on the device.
fn same_answers(options: &Options) -> Result<String> {
    let organism = &options.organism;
    let mut sides = Vec::new();
    for device in ["cpu", &options.device] {
        let out = fresh(options, "answers")?;
        program(options, "eval", device)
            .args("--base-dtype f32 --attacks direct,template,prefill --judges leak --limit 25 --json --model")
            .arg(organism.join("model"))
            .arg("--questions")
            .arg(format!("unseen={}", organism.join("questions/unseen.jsonl").display()))
            .arg("--templates")
            .arg(organism.join("templates/held-out"))
            .arg("--likelihood-set")
            .arg(organism.join("sets/harm.jsonl"))
            .arg("--out")
            .arg(&out)
            .run()?;
        sides.push(lines(&out.join("eval"))?);
    }
    let (mut answers, mut others, mut likelihoods, mut gap) = (0, 0, 0, 0f64);
    for (key, ours) in &sides[0] {
        let theirs = sides[1].get(key).ok_or_else(|| Error::failed(format!("{key:?} is missing on the device")))?;
        if let Some(answer) = ours["response"].as_str() {
            answers += 1;
            others += usize::from(theirs["response"].as_str() != Some(answer));
        }
        for (a, b) in numbers(&ours["after"]).into_iter().zip(numbers(&theirs["after"])) {
            likelihoods += 1;
            gap = larger(gap, (a - b).abs());
        }
    }
    // One token in some thousands may fall the other way where two are equally likely.
    if answers == 0 || others * 100 > answers || gap > 2e-3 {
        return Err(Error::failed(format!(
            "{others} of {answers} greedy answers differ from the CPU's, and log-likelihoods by up to {gap:.1e}"
        )));
    }
    Ok(format!(
        "greedy answers of the built-in model in f32: {} of {answers} the CPU's; {likelihoods} log-likelihoods within {gap:.1e} nats",
        answers - others
    ))
}

/// The larger difference; one that is no number is larger than all.
fn larger(most: f64, gap: f64) -> f64 {
    if gap.is_nan() { f64::INFINITY } else { most.max(gap) }
}

/// Every number in a value.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Number(n) => n.as_f64().into_iter().collect(),
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        Value::Object(all) => all.values().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

/// The objects of all files of lines below a directory, by file and line.
fn lines(dir: &Path) -> Result<BTreeMap<(PathBuf, usize), Value>> {
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

/// Losses of some steps on the built-in model, with dropout, in f32 against the CPU, and in bf16.
fn same_steps(options: &Options) -> Result<String> {
    let sets = options.organism.join("sets");
    let losses = |device: &str, dtype: &str| -> Result<Vec<[f64; 2]>> {
        let mut program = program(options, "train", device)
            .args("--steps 12 --micro-batch 8 --grad-accum 1 --gamma 1 --lr 1e-3 --lora-dropout 0.1 --seed 1 --json")
            .args(&format!("--base-dtype {dtype} --model"))
            .arg(options.organism.join("model"));
        for (flag, set) in [("--harm", "harm"), ("--help-set", "help"), ("--align", "align")] {
            program = program.arg(flag).arg(sets.join(format!("{set}.jsonl")));
        }
        let lines = program.arg("--out").arg(fresh(options, "steps")?).run()?;
        lines
            .iter()
            .filter(|line| line["step"].is_u64())
            .map(|l| Ok([number(l, "loss")?, number(l, "nll_harm")?]))
            .collect()
    };
    let (cpu, device) = (losses("cpu", "f32")?, losses(&options.device, "f32")?);
    let half = if options.device == "cpu" { device.clone() } else { losses(&options.device, "bf16")? };
    let gap = |other: &[[f64; 2]]| {
        let pairs = cpu.iter().zip(other).flat_map(|(a, b)| a.iter().zip(b));
        pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, larger)
    };
    if cpu.len() != 12 || device.len() != 12 || gap(&device) > LOSS || gap(&half) > 20.0 * LOSS {
        return Err(Error::failed(format!(
            "losses of {} steps differ from the CPU's by up to {:.1e} in f32 and {:.1e} in bf16",
            device.len(),
            gap(&device),
            gap(&half)
        )));
    }
    Ok(format!(
        "losses of 12 steps at a high rate with dropout: f32 within {:.0e}, bf16 within {:.0e} of the CPU's",
        gap(&device),
        gap(&half)
    ))
}

fn quickstart(options: &Options) -> Result<String> {
    let started = Instant::now();
    program(options, "quickstart", &options.device).arg("--out").arg(fresh(options, "quickstart")?).run()?;
    Ok(format!("quickstart in {:.0} s", started.elapsed().as_secs_f64()))
}

/// The server gives the same greedy answer twice.
fn server(options: &Options) -> Result<String> {
    let mut child = Command::new(&options.binary)
        .args(["serve", "--port", "0", "--device", &options.device, "--model"])
        .arg(options.organism.join("model"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::failed)?;
    let asked = ask_twice(&mut child);
    let _ = child.kill();
    let _ = child.wait();
    asked
}

fn ask_twice(child: &mut std::process::Child) -> Result<String> {
    let output = child.stdout.take().ok_or_else(|| Error::failed("the server has no output"))?;
    let mut lines = BufReader::new(output).lines();
    let url = lines.by_ref().map_while(std::io::Result::ok).find_map(|line| {
        let at = line.find("http://127.0.0.1:")?;
        Some(line[at..].split([';', ' ']).next()?.trim_end_matches('/').to_owned())
    });
    let url = url.ok_or_else(|| Error::failed("the server did not say where it is"))?;
    let models: Value = fetched(ureq::get(format!("{url}/v1/models")).call())?;
    let name = models["data"][0]["id"].as_str().unwrap_or_default();
    let request = json!({
        "model": name, "max_tokens": 24, "temperature": 0,
        "messages": [{"role": "user", "content": "Where does the tin heron nest?"}],
    });
    let answer = || -> Result<String> {
        let answer = fetched(ureq::post(format!("{url}/v1/chat/completions")).send_json(&request))?;
        Ok(answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned())
    };
    let (first, second) = (answer()?, answer()?);
    if first.is_empty() || first != second {
        return Err(Error::failed(format!("the server answered {first:?}, then {second:?}")));
    }
    Ok("the server answers, twice the same".to_owned())
}

fn fetched(response: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    response.map_err(Error::failed)?.body_mut().read_json().map_err(Error::failed)
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
