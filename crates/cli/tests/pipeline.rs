//! `eraser run`, `eval`, `report` on a tiny random model, and `eraser quickstart` on the built-in one: stages, what is
//! done again and what is not.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, builtin};
use serde_json::Value;

const RUN: &str = r#"
[model]
path = "model"
[data]
harm = { path = "harm.jsonl", take = "0-5" }
help = "help.jsonl"
align = "align.jsonl"
retain = "help.jsonl"
[train]
steps = 4
micro_batch = 2
grad_accum = 1
max_length = 96
gamma = 9
lr = 1e-2
[[variant]]
name = "eraser"
retain = false
[[variant]]
name = "eraser+retain"
[eval]
attacks = ["direct", "template"]
templates = ["wrap.txt"]
max_new_tokens = 4
questions = [{ set = "seen", path = "ask.csv", take = "0-1" }, { set = "unseen", path = "ask.csv", where = { kind = "a" }, take = "1-" }]
over_refusal = { set = "benign", path = "ask.csv" }
allow_leakage = ["seen", "unseen", "benign"]
"#;

/// A run directory's adapters.
const ADAPTERS: [&str; 2] =
    ["adapter/adapter_model.safetensors", "variants/eraser+retain/adapter/adapter_model.safetensors"];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The names of stages that were not done, from the notes on stderr.
fn skipped(dir: &Dir, arguments: &str) -> Vec<String> {
    let output = dir.eraser(arguments);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{notes}");
    notes.lines().filter_map(|l| l.strip_suffix(": done before")).map(ToOwned::to_owned).collect()
}

#[test]
fn a_run_leaves_every_file() {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    let stdout = dir.done("run run.toml --json");
    assert_eq!(stdout.lines().count(), 1);
    let summary = json(&stdout);
    let names: Vec<_> = summary["subjects"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["base", "eraser", "eraser+retain"]);
    for key in ["train_s", "eval_s", "total_s"] {
        assert!(summary["timing"][key].is_number(), "{key}");
    }
    for file in
        ["plan.toml", "manifest.json", "subjects.json", "summary.json", "report.html", "report.md", "data/harm.jsonl"]
    {
        assert!(dir.path(&format!("runs/run/{file}")).is_file(), "{file}");
    }
    assert_eq!(dir.text("runs/run/data/harm.jsonl").lines().count(), 6);
    for subject in json(&dir.text("runs/run/subjects.json")).as_array().unwrap() {
        let file = |key: &str| dir.path("runs/run").join(subject[key].as_str().unwrap());
        assert!(file("metrics").is_file() && file("adapter").is_dir(), "{subject}");
    }
    let table = dir.done("run run.toml");
    assert!(table.contains("eraser+retain") && table.contains("report: runs/run/report.html"), "{table}");
}

#[test]
fn only_what_changed_is_done_again() {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    assert!(skipped(&dir, "run run.toml --out a").is_empty());
    let trained = ["train eraser", "train eraser+retain"];
    let all = [&trained[..], &["eval"]].concat();
    let before = dir.text("a/summary.json");
    assert_eq!(skipped(&dir, "run run.toml --out a --resume"), all);
    assert_eq!(before, dir.text("a/summary.json"));
    assert_eq!(skipped(&dir, "run a/plan.toml"), all);
    assert_eq!(skipped(&dir, "run run.toml --out a --set eval.limit=1"), trained);
    dir.write("run.toml", &RUN.replace("name = \"eraser+retain\"", "name = \"eraser+retain\"\ngamma = 8"));
    assert_eq!(skipped(&dir, "run run.toml --out a"), ["train eraser"]);
    assert!(skipped(&dir, "run run.toml --out a --force").is_empty());
    assert!(dir.refused("run run.toml --out b --resume").contains("no run to go on with"));
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    for out in ["a", "b"] {
        dir.done(&format!("run run.toml --out {out}"));
    }
    let subjects = |out: &str| json(&dir.text(&format!("{out}/summary.json")))["subjects"].clone();
    assert_eq!(subjects("a"), subjects("b"));
    for file in ADAPTERS {
        assert_eq!(dir.read(&format!("a/{file}")), dir.read(&format!("b/{file}")), "{file}");
    }
}

#[test]
fn eval_and_report_alone() {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    dir.done("run run.toml --out a");
    let ask = "--questions seen=ask.csv --attacks direct --max-new-tokens 4 --out e";
    let summary = json(&dir.done(&format!("eval --model model --adapter mine=a/adapter {ask} --json")));
    assert_eq!(summary["subjects"][1]["name"], "mine");
    assert_eq!(summary["subjects"][1]["attacks"][0]["n"], 3);
    let html = dir.done("report a");
    assert_eq!(html.trim(), "a/report.html");
    dir.done("report e --json");
}

#[test]
fn a_row_range_beyond_the_file_is_found_before_training() {
    let dir = Dir::with_model();
    dir.write("run.toml", &RUN.replace("take = \"0-1\"", "take = \"0-7\""));
    insta::assert_snapshot!(dir.refused("run run.toml --out a"), @r#"
    exit 2
    error: ask.csv: rows 0-7 were asked for, but there are 3
    hint: rows count from 0, after `where`: the last one is 2
    "#);
    assert!(!dir.path("a/adapter").exists());
}

#[test]
fn quickstart_runs_whole_and_again() {
    if !builtin() {
        return;
    }
    let dir = Dir::new();
    let few = "--set train.steps=2 --set eval.limit=2 --set eval.max_new_tokens=4";
    for out in ["a", "b"] {
        dir.done(&format!("quickstart --out {out} {few}"));
        assert!(dir.path(&format!("{out}/report.html")).is_file());
    }
    for file in ADAPTERS {
        assert_eq!(dir.read(&format!("a/{file}")), dir.read(&format!("b/{file}")), "{file}");
    }
    assert_eq!(
        skipped(&dir, &format!("quickstart --out a --keep {few}")),
        ["train eraser", "train eraser+retain", "eval"]
    );
    assert!(skipped(&dir, &format!("quickstart --out a {few}")).is_empty());
    let answer =
        json(&dir.done("chat --model builtin --adapter a/adapter --prompt Hello --greedy --max-new-tokens 4 --json"));
    assert_eq!(answer["model"], "builtin");
}

/// The first variant lives in the run directory itself: after a swap, what was there before is of another variant.
#[test]
fn a_variant_that_moved_is_not_taken_for_the_one_that_was_there() {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    dir.done("run run.toml");
    let read = |path: &str| dir.read(&format!("runs/run/{path}"));
    let [eraser, retain] = ADAPTERS.map(read);
    assert_ne!(eraser, retain);
    let (first, second) =
        ("[[variant]]\nname = \"eraser\"\nretain = false\n", "[[variant]]\nname = \"eraser+retain\"\n");
    assert!(RUN.contains(&format!("{first}{second}")));
    dir.write("run.toml", &RUN.replace(&format!("{first}{second}"), &format!("{second}{first}")));
    dir.done("run run.toml");
    assert!(read("adapter/adapter_model.safetensors") == retain);
    assert!(read("variants/eraser/adapter/adapter_model.safetensors") == eraser);
}

/// The table was looked for below summary.json, so the command failed after its work.
#[test]
fn an_evaluation_ends_with_its_table() {
    let dir = Dir::with_model();
    let text = dir.done("eval --model model --out a --questions unseen=ask.csv --max-new-tokens 2");
    assert!(text.contains("Attack success") && text.contains("unseen"), "{text}");
}

/// A report made verb by verb named nothing of what was measured.
#[test]
fn verbs_and_a_run_file_give_the_same_report_of_the_same_work() {
    let dir = Dir::with_model();
    let one = RUN.replace("[[variant]]\nname = \"eraser\"\nretain = false\n", "").replace("eraser+retain", "eraser");
    let one = one.replace("retain = \"help.jsonl\"\n", "").replace("[[variant]]\nname = \"eraser\"\n", "");
    dir.write("run.toml", &one.replace("{ path = \"harm.jsonl\", take = \"0-5\" }", "\"harm.jsonl\""));
    dir.done("run run.toml --out by-file");
    dir.done(
        "train --model model --harm harm.jsonl --help-set help.jsonl --align align.jsonl --out by-verbs --steps 4 \
         --micro-batch 2 --grad-accum 1 --max-length 96 --gamma 9 --lr 1e-2",
    );
    dir.done(
        "eval --model model --adapter eraser=by-verbs/adapter --out by-verbs --attacks direct,template --templates wrap.txt \
         --max-new-tokens 4 --questions seen=ask.csv?take=0-1 --questions unseen=ask.csv?where=kind:a&take=1- \
         --over-refusal benign=ask.csv --allow-leakage seen --allow-leakage unseen --allow-leakage benign",
    );
    dir.done("report by-verbs");
    // Times, and by which verb it was made, differ; what was measured and found does not.
    let told = |run: &str| {
        let text = dir.text(&format!("{run}/report.md"));
        let cost = text.find("## Cost").unwrap_or(text.len());
        let lines = text[..cost].lines().filter(|line| !line.contains(", begun "));
        lines.map(|line| line.replace(run, "RUN")).collect::<Vec<_>>()
    };
    let (file, verbs) = (told("by-file"), told("by-verbs"));
    for (file, verbs) in file.iter().zip(&verbs) {
        assert_eq!(file, verbs);
    }
    assert!(file.len() > 40 && file.len() == verbs.len());
    let heads = |run: &str| {
        let page = dir.text(&format!("{run}/report.html"));
        page.match_indices("<h2")
            .map(|(at, _)| page[at..].split("</h2>").next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(heads("by-file"), heads("by-verbs"));
}
