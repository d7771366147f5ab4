//! `eraser prepare` with an endpoint: servers that limit, fail, hang and lie, a process that is killed, and a key that
//! nobody may see.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use assert_cmd::cargo::cargo_bin;
use common::server::{Act, Server};
use common::{Dir, kill_after};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const KEY: &str = "sk-test-8d1f4c0b7e";

/// A model and `n` questions.
fn directory(n: usize) -> Dir {
    let dir = Dir::with_model();
    let mut text = String::new();
    for i in 0..n {
        writeln!(text, "How is the copper kettle number {i} polished?").unwrap();
    }
    dir.write("ask.txt", &text);
    dir
}

fn command(dir: &Dir, server: &Server, more: &str) -> Command {
    let fixed = "prepare --model model --questions ask.txt --answers endpoint --endpoint-model m --endpoint-key-env TEST_KEY \
                 --endpoint-backoff 0.01 --max-entities 1 --forms 1 --max-new-tokens 2 --greedy --endpoint";
    let mut command = Command::new(cargo_bin!("eraser"));
    command.args(fixed.split_whitespace()).arg(&server.url).args(more.split_whitespace());
    command.current_dir(dir.path("")).env("TEST_KEY", KEY).env("NO_PROXY", "127.0.0.1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends well, and shows the key neither on the terminal nor in a file.
fn done(dir: &Dir, server: &Server, more: &str) -> Output {
    let output = command(dir, server, more).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    hidden(dir, &output);
    output
}

fn hidden(dir: &Dir, output: &Output) {
    let holds = |bytes: &[u8]| bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
    assert!(!holds(&output.stdout) && !holds(&output.stderr), "the key was shown");
    walk(&dir.path(""), &mut |path| assert!(!holds(&std::fs::read(path).unwrap()), "{} holds the key", path.display()));
}

/// Every question once, in order, with its own answer.
fn complete(dir: &Dir, out: &str, n: usize) {
    let text = dir.text(&format!("{out}/data/harm.jsonl"));
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), n);
    for (i, row) in rows.iter().enumerate() {
        let input = row["input"].as_str().unwrap();
        assert!(input.contains(&format!("number {i} ")), "{input}");
        assert_eq!(row["output"].as_str().unwrap(), input.to_uppercase());
    }
    let journal = dir.text(&format!("{out}/prepare/harm.jsonl"));
    let keys: HashSet<String> =
        journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].to_string()).collect();
    assert_eq!((keys.len(), journal.lines().count()), (n, n), "{journal}");
}

/// Every file below `path`.
fn walk(path: &Path, see: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, see) } else { see(&path) }
    }
}

#[test]
fn every_fault_is_got_over() {
    let dir = directory(16);
    let server = Server::start(|number, _| match number {
        1 => Act::Reply(429, "retry-after: 1\r\n", String::new()),
        3 | 4 => Act::Reply(500, "", "<html>broken</html>".into()),
        5 => Act::Hang,
        6 => Act::Malformed("{\"choices\": [{\"message\""),
        7 => Act::Malformed("{\"choices\":[]}"),
        8 => Act::Close,
        9 => Act::Reply(503, "", format!("overloaded, {KEY}")),
        _ => Act::Answer,
    });
    let output = done(&dir, &server, "--out a --endpoint-timeout 1 --endpoint-concurrency 3 -vvv");
    complete(&dir, "a", 16);
    let log = String::from_utf8(output.stderr).unwrap();
    for what in ["status 429", "status 500", "timeout", "not a chat completion", "status 503: overloaded, [key]"] {
        assert!(log.contains(what), "{what}: {log}");
    }
    let requests = server.requests.lock().unwrap();
    assert!(requests.iter().all(|r| r.authorization.as_deref() == Some(&*format!("Bearer {KEY}"))));
    assert_eq!(requests.iter().map(|r| &r.question).collect::<HashSet<_>>().len(), 16);
    // Nobody asks while the server wants to be left alone, but for what was on its way.
    let limited = requests[1].at;
    let early = requests.iter().filter(|r| r.at > limited && r.at < limited + Duration::from_millis(900)).count();
    assert!(early <= 3, "{early} requests within the pause");
    drop(requests);
    // All is there: nothing is asked again.
    let before = server.requests.lock().unwrap().len();
    done(&dir, &server, "--out a");
    assert_eq!(server.requests.lock().unwrap().len(), before);
}

#[test]
fn killed_half_way_each_answer_is_there_once() {
    let dir = directory(24);
    let server = Server::start(|_, _| Act::Slow(Duration::from_millis(40)));
    let mut child = command(&dir, &server, "--out a --endpoint-concurrency 2").spawn().unwrap();
    let journal = dir.path("a/prepare/harm.jsonl");
    let kept = kill_after(&mut child, &journal, 6, b"{\"key\":\"half");
    assert!(kept < 24, "it was over before it was killed");
    let before = server.requests.lock().unwrap().len();
    done(&dir, &server, "--out a --endpoint-concurrency 2");
    assert!(server.requests.lock().unwrap().len() - before <= 24 - kept);
    complete(&dir, "a", 24);
    done(&dir, &server, "--out b");
    for set in ["harm", "help", "align"] {
        let file = |out: &str| dir.read(&format!("{out}/data/{set}.jsonl"));
        assert_eq!(file("a"), file("b"), "{set}");
    }
}

#[test]
fn what_will_not_pass_ends_at_once() {
    let dir = directory(2);
    let server =
        Server::start(|_, _| Act::Reply(401, "", format!("{{\"error\":{{\"message\":\"wrong key {KEY}\"}}}}")));
    let output = command(&dir, &server, "--out a --endpoint-concurrency 1 -q").output().unwrap();
    hidden(&dir, &output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("status 401: wrong key [key]") && said.contains("hint: check the key"), "{said}");
    assert_eq!(server.requests.lock().unwrap().len(), 1);

    let server = Server::start(|_, _| Act::Reply(429, "retry-after: 7200\r\n", String::new()));
    let output = command(&dir, &server, "--out a -q").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("asks to wait 7200 s"), "{said}");
}

#[test]
fn judges_ask_once_and_count_what_they_cannot_read() {
    let dir = directory(3);
    let reply = |content: &str| {
        let message = serde_json::json!({"role": "assistant", "content": content});
        let body = serde_json::json!({"choices": [{"message": message, "finish_reason": "stop"}]});
        Act::Reply(200, "content-type: application/json\r\n", body.to_string())
    };
    let server = Server::start(move |_, question| {
        if question.contains("decline to help") {
            reply("declines: yes")
        } else if question.contains("number 0 ") {
            reply("score: 4")
        } else if question.contains("number 1 ") {
            reply("That is bad.")
        } else {
            reply("score: 1")
        }
    });
    let eval = || {
        let arguments = "eval --model model --out a --questions unseen=ask.txt --over-refusal benign=ask.txt --contrast \
                         hard=ask.txt --judges rubric,keyword --judge-endpoint-model m --judge-key-env TEST_KEY \
                         --max-new-tokens 2 --json --judge-endpoint";
        let mut command = Command::new(cargo_bin!("eraser"));
        command.args(arguments.split_whitespace()).arg(&server.url);
        command.current_dir(dir.path("")).env("TEST_KEY", KEY).env("NO_PROXY", "127.0.0.1");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        hidden(&dir, &output);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let summary = eval();
    let subject = &summary["subjects"][0];
    let rubric = subject["attacks"].as_array().unwrap().iter().find(|a| a["judge"] == "rubric").unwrap();
    assert_eq!((&rubric["n"], &rubric["unjudged"]), (&3.into(), &1.into()), "{rubric}");
    assert_eq!((&rubric["asr"], &rubric["harmfulness"]), (&0.5.into(), &2.5.into()));
    assert_eq!((&subject["over_refusal"]["judged"], &subject["contrast"]["judged"]), (&1.0.into(), &1.0.into()));
    assert_eq!(subject["agreement"][0]["n"], 2);
    // Three questions, one of them three times; and whether the benign ones were declined: the same answers, asked once
    // a file.
    assert_eq!(server.requests.lock().unwrap().len(), 5 + 6);
    assert_eq!(eval()["subjects"], summary["subjects"]);
    assert_eq!(server.requests.lock().unwrap().len(), 11);
    let output = dir.eraser("report a");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let html = dir.text("a/report.html");
    assert!(html.contains("Mean grade") && html.contains("How far the judges agree") && html.contains("hard"));
}
