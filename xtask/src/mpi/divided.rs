//! Evaluation, benchmarks and preparation that ranks divide. In: commands on the built-in model; out: whether their
//! files are those of one process. Invariant: files are compared byte for byte, but for measures of time, and for the
//! order in which a preparation keeps its answers.

use super::ranks::{self, LOOK, PATIENCE, ended, launched, process_of};
use super::{Checks, Options};
use eraser_model::{Error, Result, counted};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const EVAL: &str = "eval --model builtin --questions seen=ask.csv --attacks direct,template,gcg --gcg-steps 2 \
                    --gcg-candidates 16 --gcg-suffix 4 --templates wrap.txt --utility sky=task.jsonl \
                    --likelihood-set known=builtin/sets/harm.jsonl?take=0-99 --judges keyword,leak \
                    --max-new-tokens 16 --batch 1";
const BENCH: &str =
    "bench --model builtin --tasks arc_easy=arc.csv,gsm8k=sums.jsonl --text text.txt --max-new-tokens 3";
const PREPARE: &str = "prepare --model builtin --questions ask.csv --answers model --harm-refusals keep \
                       --align-answered keep --forms 2 --max-entities 6 --max-new-tokens 8 \
                       --harm-max-new-tokens 12 --batch 1";
/// Takes long enough for a rank to be killed in the middle.
const LONG: &str = "eval --model builtin --questions seen=ask.csv --attacks direct,gcg --gcg-steps 20 \
                    --gcg-candidates 128 --gcg-suffix 8 --max-new-tokens 64 --batch 1";
const RUN: &str = r#"
[model]
path = "builtin"
compute = "f32"
[data]
harm = "builtin/sets/harm.jsonl"
help = "builtin/sets/help.jsonl"
align = "builtin/sets/align.jsonl"
[train]
steps = 4
micro_batch = 4
grad_accum = 1
max_length = 128
[eval]
attacks = ["direct", "template"]
templates = ["wrap.txt"]
max_new_tokens = 16
batch = 1
likelihood = true
questions = [{ set = "seen", path = "ask.csv" }]
[[variant]]
name = "one"
[[variant]]
name = "two"
gamma = 3
"#;

/// Where commands are given, and with what.
struct Place<'a> {
    binary: PathBuf,
    home: PathBuf,
    checks: &'a mut Checks,
}

/// Checks.
pub(super) fn check(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::failed);
    let home = absolute(&options.work)?.join("divided");
    if home.exists() {
        std::fs::remove_dir_all(&home).map_err(Error::failed)?;
    }
    std::fs::create_dir_all(&home).map_err(Error::failed)?;
    files(&home)?;
    let mut place = Place { binary: absolute(binary)?, home, checks };
    for (name, command) in [("eval", EVAL), ("bench", BENCH), ("prepare", PREPARE)] {
        place.run(0, command, &format!("{name}-whole"))?;
        for ranks in std::iter::once(1).chain(options.ranks.iter().copied()) {
            place.run(ranks, command, &format!("{name}-{ranks}"))?;
            place.compare(&format!("{name} by {}", counted(ranks, "rank")), &format!("{name}-whole"), name, ranks)?;
        }
    }
    place.stage_of_a_run(options)?;
    for &ranks in &options.ranks {
        place.death(ranks)?;
    }
    Ok(())
}

impl Place<'_> {
    /// Does a command on some ranks, 0 being a process without MPI.
    fn run(&self, ranks: usize, command: &str, out: &str) -> Result<()> {
        let output = self.command(ranks, command, out).output().map_err(|e| launched(&e))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::failed(format!("{out}: the command ended with {}: {said}", output.status)))
    }

    fn command(&self, ranks: usize, command: &str, out: &str) -> Command {
        let mut made = Command::new(if ranks == 0 { self.binary.as_os_str() } else { "mpirun".as_ref() });
        if ranks > 0 {
            made.args(["-n", &ranks.to_string(), "--oversubscribe", "--allow-run-as-root"]).arg(&self.binary);
        }
        made.args(command.split_whitespace()).args(["--out", out]).current_dir(&self.home);
        made
    }

    fn compare(&mut self, what: &str, whole: &str, name: &str, ranks: usize) -> Result<()> {
        let (expected, found) =
            (results(&self.home.join(whole))?, results(&self.home.join(format!("{name}-{ranks}")))?);
        let found = told(&expected, &found);
        self.checks.push(what, &found, found.starts_with("the same"));
        Ok(())
    }

    /// The evaluation of a run, whose adapters were trained by one process: training by ranks adds up in another order.
    fn stage_of_a_run(&mut self, options: &Options) -> Result<()> {
        self.run(0, "run run.toml", "run-whole")?;
        for &ranks in &options.ranks {
            let name = format!("run-{ranks}");
            let dir = self.home.join(&name);
            ranks::copy(&self.home.join("run-whole"), &dir)?;
            std::fs::remove_dir_all(dir.join("eval")).map_err(Error::failed)?;
            self.run(ranks, "run run.toml", &name)?;
            let what = format!("evaluation of a run by {}", counted(ranks, "rank"));
            self.compare(&what, "run-whole", "run", ranks)?;
        }
        Ok(())
    }

    /// A rank is killed; the command goes on on as many ranks, on another number, and without MPI.
    fn death(&mut self, ranks: usize) -> Result<()> {
        if !self.home.join("long-whole").exists() {
            self.run(0, LONG, "long-whole")?;
        }
        let killed = format!("long-killed-{ranks}");
        let mut all = self.command(ranks, LONG, &killed);
        let mut all = all.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|e| launched(&e))?;
        let begun = Instant::now();
        let made = self.home.join(&killed).join("ranks");
        while !lines(&made)?.iter().any(|(file, text)| file.ends_with("gcg.jsonl") && !text.is_empty()) {
            std::thread::sleep(LOOK);
            if begun.elapsed() > PATIENCE || ended(&mut all)?.is_some() {
                let _ = all.kill();
                return Err(Error::failed(format!("an evaluation by {ranks} ranks left nothing to go on from")));
            }
        }
        let last = process_of(&all, ranks - 1).ok_or_else(|| Error::failed("a rank is not among the processes"))?;
        Command::new("kill").args(["-9", &last.to_string()]).status().map_err(Error::failed)?;
        let code = all.wait().map_err(Error::failed)?.code().unwrap_or(-1);
        let what = format!("eval, one of {ranks} ranks is killed");
        self.checks.push(&what, &format!("all ended, exit code {code}"), code != 0);
        for (again, how) in [(ranks, ranks.to_string()), (ranks + 1, (ranks + 1).to_string()), (0, "no MPI".to_owned())]
        {
            let name = format!("long-{ranks}");
            ranks::copy(&self.home.join(&killed), &self.home.join(format!("{name}-{again}")))?;
            self.run(again, LONG, &format!("{name}-{again}"))?;
            self.compare(&format!("{what}, again on {how}"), "long-whole", &name, again)?;
        }
        Ok(())
    }
}

/// What the commands read.
fn files(home: &Path) -> Result<()> {
    let write = |name: &str, text: &str| std::fs::write(home.join(name), text).map_err(Error::failed);
    let things = ["bread", "a boat", "rope", "glass", "a lamp", "a hat", "soap", "paper", "a kite", "ink", "a bell"];
    let asked: Vec<String> = things.iter().map(|thing| format!("How is {thing} made?\n")).collect();
    write("ask.csv", &format!("goal\n{}", asked.concat()))?;
    write("wrap.txt", "Listen: {prompt} Now!")?;
    write("task.jsonl", "{\"id\":\"1\",\"question\":\"colour?\",\"expect\":[\"blue\"]}\n")?;
    write("arc.csv", "query,choices,gold\nWhich?,\"[\"\"a\"\",\"\"b\"\"]\",1\nWhat?,\"[\"\"c\"\",\"\"d\"\"]\",0\n")?;
    write("text.txt", "A lamp. A hat.")?;
    // Written answers are made in rounds of 32.
    let sum = |n: usize| format!("{{\"question\":\"{n} and 1?\",\"answer\":\"#### {}\"}}\n", n + 1);
    write("sums.jsonl", &(0..80).map(sum).collect::<String>())?;
    write("run.toml", RUN)
}

/// The files below a directory, by their paths in it; none where it is not there.
fn lines(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries {
            let path = entry.map_err(Error::failed)?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "jsonl" || ending == "json")
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                found.insert(path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned(), text);
            }
        }
    }
    Ok(found)
}

/// The results of a run, but for measures of time.
fn results(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = lines(dir)?;
    // The state of a search has its seconds; the record and what is no result have times and paths.
    found.retain(|file, _| {
        let top = file.split('/').next().unwrap_or_default();
        ["eval", "bench", "data", "prepare", "ranks", "summary.json", "bench.json", "data_report.json"].contains(&top)
            && !file.contains("/search/")
    });
    for (file, text) in &mut found {
        if file.starts_with("prepare/") {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            *text = lines.join("\n");
        }
        if ["summary.json", "bench.json"].contains(&file.as_str()) {
            let mut figures: Value = serde_json::from_str(text).map_err(Error::failed)?;
            for time in ["timing", "score_s"] {
                if let Some(figure) = figures.get_mut(time) {
                    *figure = Value::Null;
                }
            }
            *text = figures.to_string();
        }
    }
    Ok(found)
}

/// Whether the files are the same, in words.
fn told(expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> String {
    let names = expected.keys().chain(found.keys());
    let mut differ: Vec<&str> =
        names.filter(|name| expected.get(*name) != found.get(*name)).map(String::as_str).collect();
    differ.sort_unstable();
    differ.dedup();
    let bytes: usize = found.values().map(String::len).sum();
    match &*differ {
        [] if !found.is_empty() => format!("the same {} of {bytes} bytes", counted(found.len(), "file")),
        [] => "no files".to_owned(),
        differ => format!("these differ: {}", differ.join(", ")),
    }
}
