//! `eraser train`, `export` and `chat` on a tiny random model: files, resuming, determinism.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::Command;

const SETS: &str =
    "--model model --harm harm.jsonl --help-set help.jsonl --align align.jsonl --max-length 96 --gamma 9 --lr 1e-2";
const ADAPTER: &str = "adapter/adapter_model.safetensors";

fn train(more: &str) -> String {
    format!("train {SETS} --micro-batch 2 --grad-accum 2 {more}")
}

fn json_lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_metrics_line_a_step_and_a_summary() {
    let dir = Dir::with_model();
    let lines = json_lines(&dir.done(&train("--steps 3 --out a --json")));
    assert_eq!(lines.len(), 4);
    for (i, line) in lines[..3].iter().enumerate() {
        assert_eq!(line["step"], i + 1);
        for key in ["epoch", "lr", "loss", "nll_harm", "l_harm", "l_help", "l_align", "grad_norm", "tokens", "seconds"]
        {
            assert!(line[key].is_number(), "{key}: {line}");
        }
    }
    for key in ["tokens_per_s", "tokens", "seconds", "threads", "steps", "capped_share"] {
        assert!(lines[3][key].is_number(), "{key}: {}", lines[3]);
    }
    assert!(dir.path("a/adapter/adapter_config.json").is_file());
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let dir = Dir::with_model();
    dir.done(&train("--steps 3 --out a"));
    dir.done(&train("--steps 3 --out b"));
    for file in [ADAPTER, "adapter/adapter_config.json"] {
        assert_eq!(dir.read(&format!("a/{file}")), dir.read(&format!("b/{file}")), "{file}");
    }
    dir.done(&train("--steps 3 --out c --seed 1"));
    assert_ne!(dir.read(&format!("a/{ADAPTER}")), dir.read(&format!("c/{ADAPTER}")));
}

#[test]
fn a_finished_run_is_not_overwritten() {
    let dir = Dir::with_model();
    dir.done(&train("--steps 2 --out a"));
    let before = dir.read(&format!("a/{ADAPTER}"));
    insta::assert_snapshot!(dir.refused(&train("--steps 2 --out a --seed 1")), @r#"
    exit 2
    error: --out: a holds a finished training run
    hint: go on with it by --resume, begin again by --force, or name another directory
    "#);
    assert_eq!(before, dir.read(&format!("a/{ADAPTER}")));
    dir.done(&train("--steps 2 --out a --resume"));
    assert_eq!(before, dir.read(&format!("a/{ADAPTER}")));
    dir.done(&train("--steps 2 --out a --seed 1 --force"));
    assert_ne!(before, dir.read(&format!("a/{ADAPTER}")));
}

#[test]
fn killed_anywhere_and_resumed_gives_the_same_bytes() {
    let dir = Dir::with_model();
    let go = |more: &str| train(&format!("--steps 24 --checkpoint-every 5 --json {more}"));
    dir.done(&go("--out whole"));
    for lines in [1, 5, 13] {
        let out = format!("--out killed{lines}");
        let mut child = dir.start(&go(&out));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(stdout.lines().take(lines).count(), lines);
        child.kill().unwrap();
        child.wait().unwrap();
        dir.done(&go(&format!("{out} --resume")));
        assert_eq!(dir.read(&format!("whole/{ADAPTER}")), dir.read(&format!("killed{lines}/{ADAPTER}")), "{lines}");
        let steps: Vec<Value> = json_lines(&dir.text(&format!("killed{lines}/train/metrics.jsonl")))
            .iter()
            .map(|m| m["step"].clone())
            .collect();
        assert_eq!(steps, (1..=24).map(Value::from).collect::<Vec<_>>());
    }
}

#[cfg(unix)]
#[test]
fn interrupted_saves_and_exits_with_130() {
    let dir = Dir::with_model();
    let go = |more: &str| train(&format!("--steps 400 --checkpoint-every 0 --json {more}"));
    let mut child = dir.start(&go("--out a"));
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    stdout.next().unwrap().unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let done = 1 + stdout.count();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let hints: Vec<&str> = stderr.lines().filter(|l| l.starts_with("hint: ")).collect();
    assert_eq!(hints, ["hint: run the same command with --resume to go on"], "{stderr}");
    assert!(done < 400, "the run was not interrupted");

    let rest = json_lines(&dir.done(&go("--out a --resume")));
    assert_eq!(rest[0]["step"], done + 1);
    dir.done(&go("--out whole"));
    assert_eq!(dir.read(&format!("whole/{ADAPTER}")), dir.read(&format!("a/{ADAPTER}")));
}

#[test]
fn a_merged_export_answers_as_the_adapter_does() {
    let dir = Dir::with_model();
    dir.done(&train("--steps 5 --out a --targets all-linear"));
    let ask = |more: &str| {
        let answer = dir.done(&format!("chat --prompt how-0? --greedy --max-new-tokens 12 --json {more}"));
        json_lines(&answer)
    };
    let adapted = ask("--model model --adapter a/adapter");
    for key in ["model", "subject", "prompt", "response", "tokens", "stopped", "seconds"] {
        assert!(!adapted[0][key].is_null(), "{key}");
    }
    dir.done("export --model model --adapter a/adapter --out merged");
    assert_eq!(ask("--model merged")[0]["response"], adapted[0]["response"]);
    dir.done("export --model model --adapter a/adapter --out again --adapter-only");
    assert_eq!(ask("--model model --adapter again")[0]["response"], adapted[0]["response"]);
    let both = ask("--model model --adapter a/adapter --compare");
    assert_eq!((both.len(), &both[1]["response"]), (2, &adapted[0]["response"]));
    assert_eq!(both[0]["response"], ask("--model model")[0]["response"]);
    dir.done("export --model model --adapter a/adapter --out half --dtype bf16");
    let size = |name: &str| dir.read(&format!("{name}/model.safetensors")).len();
    assert!(size("half") < size("merged") * 6 / 10);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = Dir::with_model();
    let mut child = dir.start(&train("--steps 4 --out a --json"));
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(dir.path(&format!("a/{ADAPTER}")).is_file());
}

#[test]
fn resuming_nothing_is_an_error() {
    let dir = Dir::with_model();
    insta::assert_snapshot!(dir.refused(&train("--steps 2 --out a --resume")), @r"
    exit 2
    error: --resume: a holds no training run to go on with
    hint: leave --resume out to begin one
    ");
    assert!(!dir.path("a").exists());
    dir.done(&train("--steps 2 --out a"));
    std::fs::remove_dir_all(dir.path("a/train/checkpoints")).unwrap();
    let before = dir.read(&format!("a/{ADAPTER}"));
    let refused = dir.refused(&train("--steps 2 --out a --resume"));
    assert!(refused.contains("holds no training run"), "{refused}");
    assert_eq!(before, dir.read(&format!("a/{ADAPTER}")), "a finished adapter is not trained again from the start");
}

/// Each was accepted, and the rest of the run trained something else than its beginning.
#[test]
fn a_run_is_not_resumed_with_another_template_or_base_dtype_or_set() {
    let dir = Dir::with_model();
    dir.write("template.txt", "Q: {} A:");
    dir.write("chat.jinja", "{% for m in messages %}<{{ m.content }}>{% endfor %}");
    let start = "--steps 2 --out a --templates template.txt --chat-template chat.jinja";
    dir.done(&train(start));
    let resume = |more: &str| {
        let refused = dir.refused(&train(&format!("{start} --resume {more}")));
        let (error, hint) = refused.split_once("hint: ").unwrap();
        assert!(hint.starts_with("go on with the settings that the run began with"), "{refused}");
        let (_, changes) = error.split_once("the run began with other settings: ").unwrap();
        changes.trim().to_owned()
    };
    assert_eq!(resume("--base-dtype bf16"), "base_dtype was f32, is bf16 blocks");
    assert_eq!(resume("--alpha 8 --rank 4"), "rank was 8, is 4; alpha was 16.0, is 8.0");
    dir.write("chat.jinja", "{% for m in messages %}[{{ m.content }}]{% endfor %}");
    let changed = resume("");
    assert!(changed.starts_with("chat_template was hash ") && changed.contains(", is hash "), "{changed}");
    dir.write("chat.jinja", "{% for m in messages %}<{{ m.content }}>{% endfor %}");
    dir.write("template.txt", "Question: {} Answer:");
    let changed = resume("");
    assert!(changed.starts_with("the text of the prompt template was hash "), "{changed}");
    dir.write("template.txt", "Q: {} A:");
    let help = dir.text("help.jsonl");
    dir.write("help.jsonl", &help.replace("number 3", "number 9"));
    let changed = resume("");
    assert!(changed.starts_with("the help set was 8 rows with hash "), "{changed}");
    dir.write("help.jsonl", &help);
    dir.done(&train(&format!("{start} --resume")));
}

#[test]
fn more_steps_are_taken_up_where_the_learning_rate_allows_it() {
    let dir = Dir::with_model();
    let constant = |more: &str| train(&format!("--schedule constant {more}"));
    dir.done(&constant("--steps 4 --out whole"));
    dir.done(&constant("--steps 2 --out a"));
    dir.done(&constant("--steps 4 --out a --resume"));
    assert_eq!(dir.read(&format!("whole/{ADAPTER}")), dir.read(&format!("a/{ADAPTER}")));
    let horizons = |out: &str| -> Value {
        let summary: Value = serde_json::from_str(&dir.text(&format!("{out}/train/summary.json"))).unwrap();
        summary["horizons"].clone()
    };
    assert_eq!(horizons("whole"), serde_json::json!([{"from": 0, "steps": 4}]));
    assert_eq!(horizons("a"), serde_json::json!([{"from": 0, "steps": 2}, {"from": 2, "steps": 4}]));
    insta::assert_snapshot!(dir.refused(&constant("--steps 3 --out a --resume")), @r"
    exit 2
    error: steps: 3 are fewer than the 4 that are done
    hint: ask for at least 4, or begin again in another directory or with --force
    ");

    dir.done(&train("--steps 2 --out b"));
    insta::assert_snapshot!(dir.refused(&train("--steps 4 --out b --resume")), @r"
    exit 2
    error: steps was 2, is 4: the learning rate depends on it
    hint: --extend goes on from step 2 with the learning rate of a run of 4 steps
    hint: with --schedule constant, from the first step on, the number of steps can be changed freely
    ");
    dir.done(&train("--steps 4 --out b --resume --extend"));
    assert_eq!(horizons("b"), serde_json::json!([{"from": 0, "steps": 2}, {"from": 2, "steps": 4}]));
    let rates: Vec<f64> =
        json_lines(&dir.text("b/train/metrics.jsonl")).iter().map(|m| m["lr"].as_f64().unwrap()).collect();
    let cosine = |step: f64, of: f64| 0.005 * (1.0 + (std::f64::consts::PI * step / of).cos());
    let expected = [cosine(0.0, 2.0), cosine(1.0, 2.0), cosine(2.0, 4.0), cosine(3.0, 4.0)];
    assert!(rates.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{rates:?}");
}
