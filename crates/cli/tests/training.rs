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
