//! `cargo xtask load`: many streaming clients of `eraser serve` at once. In: a binary and a model; out: tokens per
//! second of one client and of all, errors, and the server's memory over time. Invariant: clients read what they are
//! sent; one that leaves early is counted by itself.

use crate::peer::{machine, record};
use clap::Args;
use eraser_model::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Options of `cargo xtask load`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Model, as `eraser serve` takes it
    #[arg(long, value_name = "MODEL", default_value = "builtin")]
    model: String,
    /// The binary to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/eraser")]
    binary: PathBuf,
    /// Clients at once
    #[arg(long, value_name = "N", default_value = "64")]
    clients: usize,
    /// Seconds of all clients; one client alone gets a quarter
    #[arg(long, value_name = "S", default_value = "60")]
    seconds: u64,
    /// New tokens of an answer
    #[arg(long, value_name = "N", default_value = "64")]
    new: usize,
    /// Slots of the server
    #[arg(long, value_name = "N", default_value = "64")]
    slots: usize,
    /// Add the result to benches/RESULTS.md
    #[arg(long)]
    record: bool,
}

/// The server, killed when this is dropped.
struct Served {
    child: Child,
    url: String,
    model: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn start(options: &Options) -> Result<Self> {
        let mut child = Command::new(&options.binary)
            .args(["serve", "--json", "--port", "0", "--model", &options.model])
            .args(["--slots", &options.slots.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Error::failed(format!("{}: {e}", options.binary.display())))?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or_else(|| Error::failed("no output"))?;
        BufReader::new(stdout).read_line(&mut line).map_err(Error::failed)?;
        let started: Value = serde_json::from_str(&line).map_err(|e| Error::failed(format!("{line:?}: {e}")))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self { child, url: text(&started["url"]), model: text(&started["models"][0]) })
    }

    /// Resident memory, MB.
    fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).map_err(Error::failed)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.map(|kb| kb / 1024.0).ok_or_else(|| Error::failed("no VmRSS"))
    }

    fn metric(&self, name: &str) -> Result<f64> {
        let text = ureq::get(format!("{}/metrics", self.url)).call().map_err(Error::failed)?.into_body();
        let text = text.into_with_config().read_to_string().map_err(Error::failed)?;
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("eraser_{name} ")));
        value.and_then(|v| v.parse().ok()).ok_or_else(|| Error::failed(format!("no metric {name}")))
    }
}

/// What clients met.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    left: AtomicU64,
    errors: AtomicU64,
    tokens: AtomicU64,
}

/// Measures.
pub(crate) fn run(options: &Options) -> Result<()> {
    let served = Served::start(options)?;
    let rate = |clients: usize, seconds: u64, leave: bool| -> Result<(f64, Seen, Vec<f64>)> {
        let seen = Seen::default();
        let start = Instant::now();
        let end = start + Duration::from_secs(seconds);
        let mut memory = Vec::new();
        std::thread::scope(|scope| {
            for client in 0..clients {
                let (served, seen) = (&served, &seen);
                scope.spawn(move || client_loop(served, seen, options.new, client as u64 + 1, end, leave));
            }
            while Instant::now() < end {
                std::thread::sleep(Duration::from_secs(1));
                memory.extend(served.memory());
            }
        });
        Ok((seen.tokens.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64(), seen, memory))
    };
    let (one, ..) = rate(1, (options.seconds / 4).max(1), false)?;
    let (all, seen, memory) = rate(options.clients, options.seconds, true)?;
    std::thread::sleep(Duration::from_millis(500));
    let (active, waiting) = (served.metric("sequences_active")?, served.metric("sequences_waiting")?);
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let at = |share: usize| {
        memory.get((memory.len() * share / 100).min(memory.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    let mut entry = format!(
        "{}. {} streaming clients for {} s, {} new tokens an answer; a quarter of the clients leave in the middle.\n\n    \
         cargo xtask load --model {} --clients {} --seconds {} --slots {}\n\n",
        machine::describe(),
        options.clients,
        options.seconds,
        options.new,
        options.model,
        options.clients,
        options.seconds,
        options.slots,
    );
    let _ = writeln!(
        entry,
        "| one client | all clients | ratio | answers | left | errors | slots held at the end | MB at 10 %, 50 %, 100 % |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n\
         | {one:.0} tokens/s | {all:.0} tokens/s | {:.2} | {} | {} | {} | {active}, waiting {waiting} | {:.0}, {:.0}, {:.0} |\n",
        all / one,
        count(&seen.answers),
        count(&seen.left),
        count(&seen.errors),
        at(10),
        at(50),
        at(100),
    );
    println!("{entry}");
    if count(&seen.errors) > 0 || active + waiting > 0.0 {
        return Err(Error::failed("clients met errors, or slots were not given back"));
    }
    if options.record { record("many clients of the server", &entry) } else { Ok(()) }
}

fn client_loop(served: &Served, seen: &Seen, new: usize, seed: u64, end: Instant, leave: bool) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut random = seed;
    while Instant::now() < end {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let body = json!({
            "model": served.model, "prompt": "The keeper of the gate", "max_tokens": new, "temperature": 3,
            "seed": random >> 33, "stream": true,
        });
        let leave_after = if leave && random >> 62 == 0 { (random >> 40) as usize % new } else { usize::MAX };
        let Ok(response) = agent.post(format!("{}/v1/completions", served.url)).send_json(&body) else {
            seen.errors.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        if response.status().as_u16() != 200 {
            seen.errors.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let (mut events, mut done) = (0, false);
        for line in BufReader::new(response.into_body().into_reader()).lines().map_while(std::result::Result::ok) {
            if line == "data: [DONE]" {
                done = true;
            } else if line.starts_with("data: ") {
                events += 1;
                seen.tokens.fetch_add(1, Ordering::Relaxed);
                if line.contains("\"error\"") {
                    seen.errors.fetch_add(1, Ordering::Relaxed);
                }
            }
            if events > leave_after {
                break;
            }
        }
        let counter = if done {
            &seen.answers
        } else if events > leave_after {
            &seen.left
        } else {
            &seen.errors
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
