//! What the suite checks on a device: operations, recorded families, answers, steps of every method, the quickstart and
//! the server. In: a device and the programs; out: a line for each check. Invariant: what is compared with was computed
//! on the CPU, by this tool or by transformers and PEFT.

use super::suite::{Options, fresh, lines, program};
use eraser_model::{Error, Result};
use eraser_train::METHODS;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// Largest difference of a loss on the device from the CPU's, relative.
const LOSS: f64 = 1e-3;

/// Every operation in f32 and bf16 against f64 on the CPU, outputs and gradients.
pub(super) fn operations(program: &Path, device: &str) -> Result<String> {
    let told = tests(Command::new(program).arg("conform"), device)?;
    Ok(format!("operations against f64 on the CPU and finite differences: {told}"))
}

/// Checkpoints of all families against logits, losses and gradients that transformers and PEFT computed for them. `home`
/// has the test programs of the crate `eraser-model`, and what is recorded under `tests/fixtures`.
pub(super) fn families(home: &Path, device: &str) -> Result<String> {
    let home = home.canonicalize().map_err(|e| Error::request(format!("{}: {e}", home.display())))?;
    let run = |name: &str| tests(Command::new(home.join(name)).env("CARGO_MANIFEST_DIR", &home), device);
    let (llama, others) = (run("families")?, run("layers")?);
    Ok(format!("families against transformers and PEFT, logits, caches and gradients: {llama}; {others}"))
}

/// Runs a test program on a device; what it says of the result.
fn tests(program: &mut Command, device: &str) -> Result<String> {
    let started = Instant::now();
    let name = program.get_program().display().to_string();
    let output = program
        .args(["--test-threads", "8"])
        .env("ERASER_TEST_DEVICE", device)
        .output()
        .map_err(|e| Error::request(format!("{name}: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find(|line| line.starts_with("test result:")).unwrap_or("no result");
    if !output.status.success() {
        let told = |line: &&str| ["panicked", " FAILED", "apart"].iter().any(|word| line.contains(word));
        let failed: Vec<&str> = text.lines().filter(told).collect();
        return Err(Error::failed(format!("{name} on {device}: {result}")).hint(failed.join(" | ")));
    }
    let passed = result.trim_start_matches("test result: ok. ").split(';').next().unwrap_or_default();
    Ok(format!("{passed} in {:.0} s", started.elapsed().as_secs_f64()))
}

/// Greedy answers and likelihoods of the built-in model, in f32, on the CPU and on the device.
pub(super) fn same_answers(options: &Options) -> Result<String> {
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

/// Losses of some steps on the built-in model, with dropout, in f32 against the CPU, and in bf16.
pub(super) fn same_steps(options: &Options) -> Result<String> {
    let flags = "--steps 12 --gamma 1 --lr 1e-3 --lora-dropout 0.1 --base-dtype";
    let losses = |device: &str, dtype: &str| {
        steps(options, device, "eraser", &format!("{flags} {dtype}"), &["loss", "nll_harm"])
    };
    let (cpu, device) = (losses("cpu", "f32")?, losses(&options.device, "f32")?);
    let half = if options.device == "cpu" { device.clone() } else { losses(&options.device, "bf16")? };
    let (single, half) = (apart(&cpu, &device), apart(&cpu, &half));
    if single > LOSS || half > 20.0 * LOSS {
        let what = format!("losses differ from the CPU's by up to {single:.1e} in f32 and {half:.1e} in bf16");
        return Err(Error::failed(what));
    }
    Ok(format!(
        "losses of 12 steps at a high rate with dropout: f32 within {single:.0e}, bf16 within {half:.0e} of the CPU's"
    ))
}

/// Losses and norms of gradients of four steps of each other method in f32 against the CPU.
pub(super) fn every_method(options: &Options) -> Result<String> {
    let gap = |name: &str| -> Result<f64> {
        let flags = "--steps 4 --lr 1e-3 --base-dtype f32";
        let losses = |device: &str| steps(options, device, name, flags, &["loss", "grad_norm"]);
        Ok(apart(&losses("cpu")?, &losses(&options.device)?))
    };
    let (mut worst, mut beyond) = (0.0, Vec::new());
    let names: Vec<&str> = METHODS.iter().map(|method| method.name).filter(|name| *name != "eraser").collect();
    for some in names.chunks(4) {
        // Most of the time goes into starting: four at once.
        let found: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = some.iter().map(|name| scope.spawn(|| gap(name))).collect();
            started.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for (name, found) in some.iter().zip(found) {
            match found {
                Ok(Ok(gap)) if gap <= LOSS => worst = larger(worst, gap),
                Ok(Ok(gap)) => beyond.push(format!("{name} by {gap:.1e}")),
                Ok(Err(error)) => beyond.push(format!("{name}: {error}: {}", error.hints().join(" "))),
                Err(_) => beyond.push(format!("{name}: panicked")),
            }
        }
    }
    if !beyond.is_empty() {
        return Err(Error::failed(format!("losses differ from the CPU's: {}", beyond.join("; "))));
    }
    Ok(format!(
        "losses and norms of gradients of 4 steps of {} other methods in f32: within {worst:.0e} of the CPU's",
        names.len()
    ))
}

/// Terms of the loss and the numbers named, of each step of a training on the built-in model.
fn steps(options: &Options, device: &str, method: &str, flags: &str, keys: &[&str]) -> Result<Vec<Vec<f64>>> {
    let home = &options.organism;
    let mut program = program(options, "train", device)
        .args(flags)
        .args(&format!("--method {method} --micro-batch 8 --grad-accum 1 --seed 1 --json --model"))
        .arg(home.join("model"));
    for (flag, set) in [("--harm", "harm"), ("--help-set", "help"), ("--align", "align")] {
        program = program.arg(flag).arg(home.join(format!("sets/{set}.jsonl")));
    }
    match method {
        "rsft" => program = program.arg("--jailbreaks").arg(home.join("templates/seen")),
        // AdamW makes a small gradient as large as others, so rounding grows with each step of the attack: on the CPU a
        // rate that is a millionth larger moves the losses of four steps by 3e-4 after 16 steps each, by 8e-5 after 2.
        "lat" => program = program.args("--attack-steps 2"),
        _ => (),
    }
    let out = fresh(options, &format!("steps-{method}-{}", device.replace(':', "")))?;
    let lines = program.arg("--out").arg(out).run()?;
    let wanted = |name: &str| keys.contains(&name) || name.starts_with("l_");
    let told = |line: &Value| {
        let object = line.as_object().into_iter().flatten();
        object.filter(|(name, _)| wanted(name)).flat_map(|(_, value)| numbers(value)).collect()
    };
    Ok(lines.iter().filter(|line| line["step"].is_u64()).map(told).collect())
}

/// Largest difference, of the larger of 1 and the value; without values, or with others on one side, none is larger.
fn apart(ours: &[Vec<f64>], theirs: &[Vec<f64>]) -> f64 {
    let lengths = |all: &[Vec<f64>]| all.iter().map(Vec::len).collect::<Vec<_>>();
    if ours.is_empty() || lengths(ours) != lengths(theirs) {
        return f64::INFINITY;
    }
    let pairs = ours.iter().flatten().zip(theirs.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, larger)
}

pub(super) fn quickstart(options: &Options) -> Result<String> {
    let started = Instant::now();
    program(options, "quickstart", &options.device).arg("--out").arg(fresh(options, "quickstart")?).run()?;
    Ok(format!("quickstart in {:.0} s", started.elapsed().as_secs_f64()))
}

/// The server gives the same greedy answer twice.
pub(super) fn server(options: &Options) -> Result<String> {
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
