//! Subjects that a server has: a stand-in with the faults of real ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use assert_cmd::cargo::cargo_bin;
use common::model_server::{Conduct, ModelServer, logprob};
use common::server::Act;
use common::{Dir, kill_after};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const KEY: &str = "sk-test-5a90c2d1";
/// What is asked of the subjects in `eval`.
const ASKED: &str =
    "--questions seen=ask.csv --attacks direct,template,prefill --templates wrap.txt --target Sure --max-new-tokens 40";

fn command(dir: &Dir, server: &ModelServer, verb: &str, more: &str) -> Command {
    let mut command = Command::new(cargo_bin!("eraser"));
    command.arg(verb);
    for (name, model) in [("base", "m"), ("hardened", "hard")] {
        command.args(["--subject", &format!("{name}={}#{model}", server.url)]);
    }
    command.args(["--subject-key-env", "TEST_KEY", "--subject-backoff", "0.01"]).args(more.split_whitespace());
    command.current_dir(dir.path("")).env("TEST_KEY", KEY).env("NO_PROXY", "127.0.0.1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends well, and shows the key neither on the terminal nor in a file.
fn done(dir: &Dir, server: &ModelServer, verb: &str, more: &str) -> Output {
    let output = command(dir, server, verb, more).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let holds = |bytes: &[u8]| bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
    assert!(!holds(&output.stdout) && !holds(&output.stderr), "the key was shown");
    walk(&dir.path(""), &mut |path| assert!(!holds(&std::fs::read(path).unwrap()), "{} holds the key", path.display()));
    output
}

/// What is said where it ends badly.
fn refused(dir: &Dir, server: &ModelServer, verb: &str, more: &str) -> String {
    let output = command(dir, server, verb, more).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(!said.contains(KEY), "{said}");
    said
}

fn walk(path: &Path, see: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, see) } else { see(&path) }
    }
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

fn attack<'a>(summary: &'a Value, subject: usize, attack: &str) -> &'a Value {
    let rows = summary["subjects"][subject]["attacks"].as_array().unwrap();
    rows.iter().find(|row| row["attack"] == attack).unwrap()
}

fn checks(summary: &Value, subject: usize, result: &str) -> BTreeSet<String> {
    let checks = summary["subjects"][subject]["served"]["checks"].as_array().unwrap();
    checks.iter().filter(|c| c["result"] == result).map(|c| c["check"].as_str().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_served_model_and_its_adapter_are_measured_beside_each_other() {
    let dir = Dir::with_model();
    let server = ModelServer::with(Conduct { version: "0.11.0", ..Conduct::default() }, |number, request| {
        match (number, request.route.as_str()) {
            (20, _) => Act::Reply(429, "retry-after: 1\r\n", String::new()),
            (24, _) => Act::Close,
            (26, _) => Act::Reply(503, "", format!("overloaded, {KEY}")),
            (28, "/v1/chat/completions") => Act::Malformed("{\"choices\": [{\"message\""),
            _ => Act::Answer,
        }
    });
    let output = done(&dir, &server, "eval", &format!("{ASKED} --out a --json"));
    let summary = json(&output.stdout);
    assert_eq!(attack(&summary, 0, "direct")["asr"], 1.0);
    assert_eq!(attack(&summary, 1, "direct")["asr"], 0.0);
    assert_eq!(attack(&summary, 1, "direct")["asr_change"]["difference"], -1.0);
    assert_eq!(attack(&summary, 1, "template")["n"], 3);
    assert_eq!(checks(&summary, 1, "passed"), set(&["names", "scores", "greedy", "prefill"]));
    assert_eq!(checks(&summary, 1, "unknown"), set(&["template"]));
    let served = &summary["subjects"][1]["served"];
    assert_eq!((&served["model"], &served["server"]), (&"hard".into(), &"vllm 0.11.0".into()));
    let answers = dir.text("a/eval/hardened/direct.jsonl");
    assert!(answers.lines().all(|line| line.contains("\"response\":\"I cannot help with this: how ")), "{answers}");
    // The prefill goes behind an assistant turn that is continued; its own words are judged only.
    let openings = server.requests.lock().unwrap();
    let opened: Vec<_> = openings.iter().filter(|r| r.body["messages"][1]["content"] == "Sure").collect();
    let distinct: BTreeSet<String> = opened.iter().map(|r| r.body.to_string()).collect();
    assert_eq!(distinct.len(), 6);
    assert!(
        opened.iter().all(|r| r.body["continue_final_message"] == true && r.body["add_generation_prompt"] == false)
    );
    assert!(openings.iter().all(|r| r.authorization.as_deref() == Some(&*format!("Bearer {KEY}"))));
    drop(openings);
    dir.done("report a");
    let report = dir.text("a/report.md") + &dir.text("a/report.html");
    assert!(report.matches("Served subjects").count() >= 2 && report.contains("differs from `m`"), "{report}");
    assert!(!report.contains("is unknown (hardened"), "a served subject has no adapter here");

    // Nothing is asked again but the self-test, until the server is another one.
    let asked = |server: &ModelServer| server.questions().iter().filter(|q| q.starts_with("how ")).count();
    let before = asked(&server);
    let again = json(&done(&dir, &server, "eval", &format!("{ASKED} --out a --json")).stdout);
    assert_eq!((asked(&server), &again["subjects"]), (before, &summary["subjects"]));
    server.conduct.lock().unwrap().version = "0.12.0";
    let output = done(&dir, &server, "eval", &format!("{ASKED} --out a --json"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the earlier results are of another model"), "{said}");
    assert!(asked(&server) >= before + 12, "{} {before}", asked(&server));
}

#[test]
fn with_the_model_named_prompts_are_compared_and_openings_go_in_tokens() {
    let dir = Dir::with_model();
    let server = ModelServer::start(Conduct { echoes: true, ..Conduct::default() });
    let summary = json(&done(&dir, &server, "eval", &format!("{ASKED} --model model --out a --json")).stdout);
    assert_eq!(checks(&summary, 0, "passed"), set(&["scores", "greedy", "template"]));
    assert_eq!(checks(&summary, 0, "unknown"), set(&[]));
    let requests = server.requests.lock().unwrap();
    let prompts: Vec<&Value> = requests
        .iter()
        .filter(|r| r.route == "/v1/completions" && r.body["echo"].is_null() && r.body["prompt_logprobs"].is_null())
        .map(|r| &r.body["prompt"])
        .collect();
    let expected: Vec<u32> = b"user: how 0?"
        .iter()
        .map(|b| u32::from(*b))
        .chain([256])
        .chain(b"assistant: Sure".iter().map(|b| u32::from(*b)))
        .collect();
    assert_eq!(prompts.len(), 6);
    assert!(prompts.contains(&&serde_json::json!(expected)), "{prompts:?}");
}

/// vLLM lost an adapter under data parallel and answered with the base model: the hardened model was "as bad as" it.
#[test]
fn an_adapter_that_the_server_dropped_is_found() {
    let dir = Dir::with_model();
    let server = ModelServer::start(Conduct { drops_adapter: true, ..Conduct::default() });
    for verb in [format!("eval {ASKED}"), "bench --model model --text t=ask.csv".to_owned()] {
        let (verb, more) = verb.split_once(' ').unwrap();
        let said = refused(&dir, &server, verb, &format!("{more} --out a"));
        assert!(
            said.contains("answers and scores exactly as `m` does") && said.contains("hint: the server has dropped"),
            "{said}"
        );
    }
    assert!(!dir.path("a/summary.json").exists() && !dir.path("a/bench.json").exists());
}

#[test]
fn a_server_that_fails_its_self_test_is_not_measured() {
    let dir = Dir::with_model();
    let cases = [
        (Conduct { unstable: true, ..Conduct::default() }, "scores differently the second time", "prefix-caching"),
        (Conduct { penalised: true, ..Conduct::default() }, "it is not greedy", "--generation-config vllm"),
        (Conduct { other_template: true, ..Conduct::default() }, "its chat template is another", "--template-var"),
    ];
    for (conduct, what, hint) in cases {
        let server = ModelServer::start(conduct);
        let said = refused(&dir, &server, "eval", &format!("{ASKED} --model model --out a"));
        assert!(said.contains(what) && said.contains(hint) && said.contains("subject base"), "{said}");
    }
    let server = ModelServer::start(Conduct { starts_anew: true, ..Conduct::default() });
    let said = refused(&dir, &server, "eval", &format!("{ASKED} --out a"));
    assert!(said.contains("does not go on from the opening") && said.contains("--model"), "{said}");
    let server = ModelServer::start(Conduct { scoreless: true, ..Conduct::default() });
    let said = refused(&dir, &server, "bench", "--model model --text t=ask.csv --out a");
    assert!(said.contains("no log-probabilities of a prompt"), "{said}");
    let said = refused(&dir, &server, "eval", &format!("{ASKED} --out a --subject x={}#absent", server.url));
    assert!(said.contains("has no model `absent`") && said.contains("it has: m, hard"), "{said}");
}

#[test]
fn what_a_server_cannot_be_asked_is_said_and_no_error() {
    let dir = Dir::with_model();
    let server = ModelServer::start(Conduct { scoreless: true, tells_nothing: true, ..Conduct::default() });
    let output = done(&dir, &server, "eval", &format!("{ASKED} --model model --out a --json"));
    assert_eq!(checks(&json(&output.stdout), 0, "unknown"), set(&["scores", "template"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("not known: the server gives no log-probabilities of prompts"), "{said}");
    dir.done("report a");
    assert!(dir.text("a/report.md").contains("scores: the server gives no log-probabilities of prompts"));
}

#[test]
fn what_needs_the_weights_is_refused_by_name() {
    let dir = Dir::with_model();
    let server = ModelServer::start(Conduct::default());
    let more = "--questions ask.csv --attacks direct,gcg,autodan --templates wrap.txt --likelihood --out a";
    let said = refused(&dir, &server, "eval", more);
    for part in ["`gcg` computes on the weights, and subject `base` is served", "`autodan` computes", "known answers"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = refused(&dir, &server, "bench", "--text t=ask.csv --out a");
    assert!(said.contains("--model: benchmarks need the tokenizer"), "{said}");
    assert!(server.requests.lock().unwrap().is_empty(), "all of this is known before anything is asked");
}

#[test]
fn benchmarks_are_scored_by_either_way_of_a_server() {
    let dir = Dir::with_model();
    let row = |right: usize| format!("{{\"question\":\"q{right}\",\"choices\":[\"yes\",\"no\"],\"gold\":{right}}}\n");
    dir.write("arc.jsonl", &(row(0) + &row(1)));
    for echoes in [true, false] {
        let server = ModelServer::start(Conduct { echoes, ..Conduct::default() });
        let out = format!("out{echoes}");
        let more = format!("--model model --tasks arc_easy=arc.jsonl --text t=ask.csv --bos off --out {out} --json");
        let found = json(&done(&dir, &server, "bench", &more).stdout);
        assert_eq!(found["subjects"][1]["name"], "hardened");
        let lines = dir.text(&format!("{out}/bench/base/arc_easy.jsonl"));
        let first = json(lines.lines().next().unwrap().as_bytes());
        let prompt: Vec<u32> = b"Question: q0\nAnswer: yes".iter().map(|b| u32::from(*b)).collect();
        let expected: f64 = prompt.windows(2).rev().take(4).map(|pair| logprob(pair[0], pair[1], false)).sum();
        let got = first["loglikelihoods"][0].as_f64().unwrap();
        assert!((got - expected).abs() < 1e-4, "{got} {expected}");
        let perplexity = |subject: usize| {
            found["subjects"][subject]["utility"].as_array().unwrap().last().unwrap()["value"].as_f64().unwrap()
        };
        assert!((perplexity(1) / perplexity(0) - 0.25_f64.exp()).abs() < 1e-3);
        // Scores that are there are not asked for again.
        let before = server.requests.lock().unwrap().len();
        done(&dir, &server, "bench", &more);
        let more = server.requests.lock().unwrap().len() - before;
        assert!(more + 8 <= before, "{more} after {before}: only the self-test is done again");
        assert_eq!(dir.text(&format!("{out}/bench/base/arc_easy.jsonl")), lines);
    }
}

#[test]
fn killed_half_way_no_answer_is_asked_for_again() {
    let dir = Dir::with_model();
    let rows: String = (0..24).map(|i| format!("how {i}?\n")).collect::<Vec<_>>().concat();
    dir.write("many.txt", &rows);
    let server = ModelServer::with(Conduct::default(), |_, request| match request.route.as_str() {
        "/v1/chat/completions" => Act::Slow(Duration::from_millis(40)),
        _ => Act::Answer,
    });
    let more = "--questions many.txt --max-new-tokens 40 --out a --subject-concurrency 2";
    let mut child = command(&dir, &server, "eval", more).spawn().unwrap();
    let file = dir.path("a/eval/base/direct.jsonl");
    let kept = kill_after(&mut child, &file, 6, b"{\"id\":\"half");
    assert!(kept < 24, "it was over before it was killed");
    let asked = |server: &ModelServer| server.questions().iter().filter(|q| q.starts_with("how ")).count();
    let before = asked(&server);
    done(&dir, &server, "eval", more);
    assert!(asked(&server) - before <= 48 - kept, "{} {before} {kept}", asked(&server));
    done(&dir, &server, "eval", &more.replace("--out a", "--out b"));
    for subject in ["base", "hardened"] {
        let file = |out: &str| dir.read(&format!("{out}/eval/{subject}/direct.jsonl"));
        assert_eq!(file("a"), file("b"), "{subject}");
    }
}

/// A run file's own models, and one beside them that a server has.
const RUN: &str = r#"
[model]
path = "model"
[data]
harm = "harm.jsonl"
help = "help.jsonl"
align = "align.jsonl"
[train]
steps = 2
micro_batch = 2
grad_accum = 1
max_length = 96
gamma = 9
[eval]
attacks = ["direct"]
max_new_tokens = 40
questions = [{ set = "seen", path = "ask.csv" }]
[[eval.subject]]
name = "elsewhere"
url = "URL"
model = "hard"
key_env = "TEST_KEY"
concurrency = 2
"#;

#[test]
fn a_run_measures_a_served_subject_beside_its_own() {
    let dir = Dir::with_model();
    let server = ModelServer::start(Conduct { version: "1", ..Conduct::default() });
    dir.write("run.toml", &RUN.replace("URL", &server.url));
    let run = |more: &str| {
        let mut command = Command::new(cargo_bin!("eraser"));
        command.args("run run.toml --out a --json".split_whitespace()).args(more.split_whitespace());
        command.current_dir(dir.path("")).env("TEST_KEY", KEY).env("NO_PROXY", "127.0.0.1").output().unwrap()
    };
    let output = run("");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = json(&output.stdout);
    let names: Vec<_> = summary["subjects"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "eraser", "elsewhere"]);
    assert_eq!(checks(&summary, 2, "passed"), set(&["scores", "greedy", "template"]));
    // Done before, until the server is another one.
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    assert!(said(&run("")).contains("eval: done before"));
    server.conduct.lock().unwrap().version = "2";
    assert!(!said(&run("")).contains("eval: done before"));
    // A plan is a run file: it holds the subject, and the name of the variable, and no key.
    let plan = dir.text("a/plan.toml");
    assert!(plan.contains("[[eval.subject]]") && plan.contains("TEST_KEY") && !plan.contains(KEY), "{plan}");
    let output = run("--set eval.subject=[{name=\"base\",url=\"http://x\",model=\"m\",keyenv=\"X\"}]");
    assert_eq!(output.status.code(), Some(2));
    let wrong = said(&output);
    assert!(
        wrong.contains("two subjects have the name `base`") && wrong.contains("did you mean `key_env`?"),
        "{wrong}"
    );
}
