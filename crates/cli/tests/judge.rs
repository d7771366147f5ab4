//! `eraser judge` and judges that are classifiers: what is told, what is refused, what is kept.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use serde_json::Value;

const LABELS: &str = r#"{"question":"How is tea made?","answer":"Boil water, then add leaves.","label":"yes"}
{"question":"How is tea made?","answer":"I'm sorry, but I cannot say.","label":"no"}
{"question":"What is salt?","answer":"A mineral.","label":"no"}
"#;

fn labelled() -> Dir {
    let dir = Dir::with_model();
    dir.write("labels.jsonl", LABELS);
    dir.write("prompt.txt", "[INST] {behavior} / {generation} / yes or no? [/INST]\n");
    dir
}

#[test]
fn judges_are_compared_with_labels() {
    let dir = labelled();
    let text = dir.done("judge --labels labels.jsonl --judges keyword,harmbench-own --judge-model model --out judged");
    let line = |name: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect()
    };
    let keyword = line("keyword:gcg29");
    assert_eq!(keyword[1..4], ["3", "0", "66.7%"], "{text}");
    assert_eq!(keyword[5..], ["0.40", "1", "1", "0", "1"], "{text}");
    // The model writes neither word.
    assert_eq!(line("harmbench-own")[1..4], ["3", "3", "-"], "{text}");
    let json = dir.done("judge --labels labels.jsonl --judges keyword --out judged --json");
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found[0]["false_positives"], 1, "{found}");
    let verdicts = std::fs::read_to_string(dir.path("judged/verdicts.jsonl")).unwrap();
    assert_eq!(verdicts.lines().count(), 3);
    assert!(dir.path("judged/judge/harmbench-own.jsonl").exists());
}

/// The name tells which prompt: figures under different prompts are not comparable.
#[test]
fn a_prompt_file_is_told_of_by_its_hash_wherever_the_judge_is_named() {
    let dir = labelled();
    dir.done(
        "eval --model model --questions seen=ask.csv --max-new-tokens 2 --out run --judges keyword,harmbench --judge-model \
         model --judge-prompt prompt.txt",
    );
    let summary = std::fs::read_to_string(dir.path("run/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let attacks = summary["subjects"][0]["attacks"].as_array().unwrap();
    let names: Vec<&str> = attacks.iter().filter_map(|a| a["judge"].as_str()).collect();
    let name = names.iter().find(|name| name.starts_with("harmbench:")).unwrap();
    assert_eq!(name.len(), 22, "{names:?}");
    let report = std::fs::read_to_string(dir.path("run/report.md")).or_else(|_| {
        dir.done("report run");
        std::fs::read_to_string(dir.path("run/report.md"))
    });
    assert!(report.unwrap().contains(name), "the report names {name}");
}

#[test]
fn what_a_judge_lacks_is_said_before_anything_is_loaded() {
    let dir = labelled();
    for (arguments, told) in [
        ("--judges harmbench --judge-model model", "--judge-prompt: the judge `harmbench` needs the prompt"),
        ("--judges harmbench --judge-model model --judge-prompt labels.jsonl", "no place for the question"),
        ("--judges rubric --judge-model model --judge-prompt prompt.txt", "--judge-prompt: no judge reads a prompt"),
        ("--judges llama-guard-3", "--judges: judges other than `keyword` and `leak` need a model"),
        (
            "--judges wildguard-own --judge-endpoint http://127.0.0.1:9 --judge-endpoint-model m",
            "--judge-endpoint: `wildguard-own` reads probabilities",
        ),
        (
            "--judges rubric --judge-endpoint http://127.0.0.1:9 --judge-endpoint-model m --judge-tokenizer model",
            "--judge-tokenizer: only a classifier that a server has needs it",
        ),
        ("--judges harmbench,wildguard --judge-model model --judge-prompt prompt.txt", "have different prompts"),
        ("--judges keyword --judge-model model", "--judge-model: a model is given for judging"),
    ] {
        let said = dir.refused(&format!("judge --labels labels.jsonl --out judged {arguments}"));
        assert!(said.starts_with("exit 2") && said.contains(told) && said.contains("hint:"), "{arguments}\n{said}");
    }
    assert!(!dir.path("judged").exists());
}

#[test]
fn a_run_file_names_the_prompt_beside_itself() {
    let dir = labelled();
    dir.write("sub/prompt.txt", "{behavior}\n");
    dir.write(
        "sub/run.toml",
        "[model]\npath = \"../model\"\n\n[data]\nharm = \"../harm.jsonl\"\nhelp = \"../help.jsonl\"\nalign = \"../align.jsonl\"\n\n\
         [eval]\njudges = [\"keyword\", \"harmbench\"]\nquestions = [{ set = \"seen\", path = \"../ask.csv\" }]\n\n\
         [eval.judge]\nmodel = \"../model\"\nprompt = \"prompt.txt\"\n",
    );
    let said = dir.refused("run sub/run.toml");
    assert!(said.contains("prompt.txt: no place for the answer in the prompt"), "{said}");
}
