//! `eraser chat` with its lines piped in.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use assert_cmd::cargo::cargo_bin_cmd;
use common::Dir;
use serde_json::Value;

/// Exit code, the prompts that were answered, and stderr.
fn chat(dir: &Dir, more: &str, lines: &str) -> (i32, Vec<String>, String) {
    let mut command = cargo_bin_cmd!("eraser");
    command.args("chat --model model --max-new-tokens 2 --greedy".split(' ')).args(more.split_whitespace());
    let output = command.current_dir(dir.path("")).write_stdin(lines).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let prompt = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["prompt"].as_str()?.to_owned());
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), told.lines().filter_map(prompt).collect(), stderr)
}

#[test]
fn commands_are_not_sent_and_what_two_slashes_begin_is() {
    let dir = Dir::with_model();
    let (code, prompts, stderr) =
        chat(&dir, "--json", "Why?\n\n/reset\n/system Be brief.\nHow?\n//etc/hosts?\n/system\n/quit\nNever?\n");
    assert_eq!(
        (code, prompts.as_slice()),
        (0, ["Why?", "How?", "/etc/hosts?"].map(str::to_owned).as_slice()),
        "{stderr}"
    );
    assert_eq!(stderr, "", "a program reads");
    let (code, _, stderr) = chat(&dir, "", "/help\n/reset\n/system Be brief.\n/system\n");
    assert_eq!(code, 0);
    for said in
        ["/system TEXT  set", "\nthe conversation begins again\n", "the system prompt is set;", "there is no system"]
    {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
}

/// `/rest` went to the model as a question, and so did every other slip.
#[test]
fn a_command_that_there_is_not_ends_a_piped_conversation() {
    let dir = Dir::with_model();
    let (code, prompts, stderr) = chat(&dir, "--json", "Why?\n/rest\nHow?\n");
    assert_eq!((code, prompts), (2, vec!["Why?".to_owned()]));
    assert!(stderr.starts_with("error: stdin:2: there is no command /rest\nhint: did you mean /reset?\n"), "{stderr}");
    assert!(stderr.contains("hint: to send it to the model, write //rest\n"), "{stderr}");
}

/// Both answers are generated together: each is what its speaker says alone, and is remembered by it alone.
#[test]
fn compared_answers_are_those_of_each_alone() {
    let dir = Dir::with_model();
    dir.write("set.jsonl", "{\"input\": \"Why?\", \"output\": \"No!\"}\n");
    let sets = "--harm set.jsonl --help-set set.jsonl --align set.jsonl --allow-swapped";
    dir.done(&format!("train -m model {sets} --steps 3 --lr 1e-1 --out run"));
    let told = |more: &str| {
        let mut command = cargo_bin_cmd!("eraser");
        command.args("chat --model model --max-new-tokens 12 --greedy --json".split(' ')).args(more.split_whitespace());
        let output = command.current_dir(dir.path("")).write_stdin("Why?\nHow?\n").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            ["subject", "prompt", "response", "tokens", "stopped"].map(|key| value[key].clone())
        };
        String::from_utf8(output.stdout).unwrap().lines().map(line).collect::<Vec<_>>()
    };
    let (base, hardened) = (told(""), told("--adapter run/adapter"));
    let both = told("--adapter run/adapter --compare");
    let in_turn: Vec<_> = base.into_iter().zip(hardened).flat_map(|(base, hardened)| [base, hardened]).collect();
    assert_eq!(both, in_turn);
    assert_ne!(both[0][2], both[1][2], "the adapter changes nothing");
}
