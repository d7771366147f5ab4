//! `eraser plan`: what a run would do, what is made already, and how long it takes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, builtin};
use serde_json::Value;
use std::time::Instant;

const RUN: &str = r#"
[model]
path = "model"
[data]
harm = "harm.jsonl"
help_set = "help.jsonl"
align = "align.jsonl"
[train]
steps = 3
micro_batch = 2
grad_accum = 1
max_length = 96
templates = "model"
[eval]
attacks = ["direct", "template"]
templates = ["wrap.txt"]
judges = ["keyword"]
max_new_tokens = 4
questions = [{ set = "seen", path = "ask.csv" }]
"#;

fn step<'a>(plan: &'a Value, stage: &str, name: &str) -> &'a Value {
    let steps = plan["steps"].as_array().unwrap();
    steps.iter().find(|s| s["stage"] == stage && s["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn a_plan_says_what_is_done_and_leaves_no_file() {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    let text = dir.done("plan run.toml --out run");
    for told in [
        "train eraser",
        "3 steps of 6 rows",
        "eval base",
        "(direct 3, template 3)",
        " tokens",
        "in all ",
        "on this machine",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let quick = dir.done("run run.toml --out run --dry-run --no-timing");
    assert!(quick.contains("3 steps of 6 rows") && !quick.contains("in all"), "{quick}");
    assert!(!dir.path("run").exists());
}

#[test]
fn what_is_made_already_is_not_counted_again() {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    dir.done("run run.toml --out run");
    let before = dir.text("run/manifest.json");
    let plan: Value = serde_json::from_str(&dir.done("plan run.toml --out run --json")).unwrap();
    assert_eq!(step(&plan, "train", "eraser")["todo"], "done", "{plan}");
    assert_eq!(step(&plan, "eval", "base")["todo"], "done", "{plan}");
    let plan: Value = serde_json::from_str(&dir.done("plan run.toml --out run --json --set train.steps=5")).unwrap();
    assert_eq!(step(&plan, "train", "eraser")["todo"], "new", "{plan}");
    assert_eq!(dir.text("run/manifest.json"), before);
}

#[test]
fn answers_of_a_preparation_are_counted() {
    let dir = Dir::with_model();
    let goals = (0..12).map(|i| format!("how to open lock {i}?\n")).collect::<Vec<_>>().concat();
    dir.write("goals.csv", &format!("goal\n{goals}"));
    dir.done("init model --questions goals.csv --templates wrap.txt");
    let plan: Value = serde_json::from_str(&dir.done("plan run.toml --json --no-timing")).unwrap();
    let what = |name: &str| step(&plan, "prepare", name)["what"].as_str().unwrap_or_default().to_owned();
    assert_eq!(what("align"), "8 answers of at most 96 tokens");
    assert_eq!(what("retain"), "400 answers of at most 96 tokens");
    assert!(what("help").ends_with("to 24 answers of at most 96 tokens"), "{plan}");
    assert!(plan["seconds"].is_null(), "{plan}");
    let refused = dir.refused("plan none.toml");
    assert!(refused.starts_with("exit 2"), "{refused}");
}

/// A retain set with running text could not be planned once it was prepared.
#[test]
fn a_prepared_set_with_running_text_is_read_again() {
    let dir = Dir::with_model();
    let goals = (0..12).map(|i| format!("how to open lock {i}?\n")).collect::<Vec<_>>().concat();
    dir.write("goals.csv", &format!("goal\n{goals}"));
    dir.write("text.txt", &format!("{}\n", "Store the seed in the shed, and then rest. ".repeat(4)));
    dir.done("init model --questions goals.csv --templates wrap.txt --retain-text text.txt");
    for set in ["harm", "help", "align"] {
        dir.write(&format!("run/data/{set}.jsonl"), "{\"input\":\"who 1?\",\"output\":\"the guard\"}\n");
    }
    dir.write("run/data/retain.jsonl", "{\"input\":\"who 1?\",\"output\":\"a\"}\n{\"text\":\"Store the seed.\"}\n");
    let plan: Value = serde_json::from_str(&dir.done("plan run.toml --out run --json --no-timing")).unwrap();
    assert!(step(&plan, "train", "eraser")["what"].is_string(), "{plan}");
}

/// The estimate of a run of the built-in model, against what the run takes.
#[test]
#[ignore = "it times this machine: `cargo test -p eraser --test plan -- --ignored`, with nothing else running"]
fn the_estimate_is_within_a_factor_of_two_of_the_truth() {
    if !builtin() {
        return;
    }
    let dir = Dir::new();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/organism.toml");
    let run = format!("{} --out run --set train.steps=20 --set eval.limit=4", file.display());
    let plan: Value = serde_json::from_str(&dir.done(&format!("plan {run} --json"))).unwrap();
    let start = Instant::now();
    dir.done(&format!("run {run}"));
    let truth = start.elapsed().as_secs_f64();
    let [low, high] = [0, 1].map(|end| plan["seconds"][end].as_f64().unwrap());
    eprintln!("estimated {low:.1} to {high:.1} s, took {truth:.1} s");
    assert!(low / 2.0 < truth && truth < 2.0 * high, "estimated {low:.1} to {high:.1} s, took {truth:.1} s: {plan}");
}
