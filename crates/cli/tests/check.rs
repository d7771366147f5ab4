//! `eraser check`: what a gate lets through, what it stops, and what it cannot decide.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, EVAL, TRAIN};
use serde_json::Value;
use std::process::Output;

fn measured() -> Dir {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 2 --out run"));
    dir.done(EVAL);
    dir
}

/// Conditions hold spaces.
fn check(dir: &Dir, conditions: &[&str]) -> (i32, String) {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("eraser");
    command.args(["check", "run"]).current_dir(dir.path("."));
    for condition in conditions {
        command.args(["--fail-if", condition]);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[test]
fn a_condition_that_holds_fails_and_one_that_does_not_passes() {
    let dir = measured();
    let list = dir.done("check run");
    let value = |name: &str| {
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    for name in ["base.asr.seen", "asr.seen", "asr.seen.direct", "refusal.plain", "degenerate", "verdict"] {
        assert!(!value(name).is_empty(), "{name}: {list}");
    }
    assert_eq!(check(&dir, &["asr.seen >= 0"]).0, 1);
    let (code, text) = check(&dir, &["asr.seen.low < 0", "base.asr.seen.high > 100%"]);
    assert_eq!((code, text.as_str()), (0, "passed: 2 conditions checked on eraser, base, none holds\n"));
    let asr = value("asr.seen");
    let (code, text) = check(&dir, &["asr.seen < 0", "asr.seen >= 0%"]);
    assert!(code == 1 && text.lines().count() == 1, "{text}");
    assert!(text.starts_with(&format!("error: check failed: eraser: asr.seen >= 0%, measured {asr}")), "{text}");
    let verdict = value("verdict");
    assert_eq!(check(&dir, &[&format!("verdict != {verdict}")]).0, 0);
    let output = dir.eraser("check run --json --fail-if degenerate>=0");
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["passed"] == false && found["conditions"][0]["holds"] == true, "{found}");
    assert!(found["subjects"][1]["figures"][0]["value"].is_number(), "{found}");
}

#[test]
fn what_cannot_be_decided_is_a_wrong_request_and_never_passes() {
    let dir = measured();
    for (condition, told) in [
        ("asr.sen > 5%", "did you mean asr.seen?"),
        ("over_refusal > 5%", "`over_refusal` was not measured on eraser"),
        ("asr.seen", "a condition is NAME OP VALUE"),
        // It passed with 28 % measured.
        ("asr.seen > 5", "did you mean 5%?"),
        ("asr.seen.direct.change < -150%", "never beyond 100%"),
    ] {
        let (code, text) = check(&dir, &[condition]);
        assert!(code == 2 && text.contains(told), "{condition}: {text}");
    }
    let refused = dir.refused("check run --subject erasr --fail-if asr.seen>0.5");
    assert!(refused.starts_with("exit 2") && refused.contains("did you mean eraser?"), "{refused}");
    let refused = dir.refused("check model --fail-if asr.seen>0.5");
    assert!(refused.starts_with("exit 2") && refused.contains("not a run directory"), "{refused}");
}

/// A gate that looked at summary.json alone let an edited figure through, and one of an adapter that was replaced.
#[test]
fn figures_that_were_changed_or_are_of_another_adapter_never_pass() {
    let dir = measured();
    let summary = dir.text("run/summary.json");
    dir.write("run/summary.json", &format!("{summary}\n"));
    let (code, text) = check(&dir, &["asr.seen > 100%"]);
    assert!(code == 2 && text.contains("`summary.json` was changed after it had been written"), "{text}");
    dir.write("run/summary.json", &summary);
    let answers = dir.text("run/eval/eraser/direct.jsonl");
    dir.write("run/eval/eraser/direct.jsonl", &answers.replace("\"response\":\"", "\"response\":\"x"));
    assert_eq!(check(&dir, &["asr.seen > 100%"]).0, 2);
    dir.write("run/eval/eraser/direct.jsonl", &answers);
    assert_eq!(check(&dir, &["asr.seen > 100%"]).0, 0);
    let manifest = dir.text("run/manifest.json");
    std::fs::remove_file(dir.path("run/manifest.json")).unwrap();
    assert_eq!(check(&dir, &["asr.seen > 100%"]).0, 2);
    dir.write("run/manifest.json", &manifest);
    dir.done(&format!("{TRAIN} --steps 3 --out run --force"));
    let (code, text) = check(&dir, &["asr.seen > 100%"]);
    assert!(code == 2 && text.contains("are of an earlier adapter"), "{text}");
}
