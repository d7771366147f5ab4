//! `eraser align` on a tiny random model, and the method `sft` in `eraser train`: files, what is learnt, errors.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use serde_json::Value;

const HOW: &str = "--max-length 256 --micro-batch 2 --grad-accum 1 --steps 2";

/// Questions without answers, questions with refusals, and benign requests in two forms.
fn directory() -> Dir {
    let dir = Dir::with_model();
    dir.write("refused.csv", "Behavior,Safe_Response\nhow 3?,I cannot say.\nhow 4?,\"Sorry, no.\"\n");
    dir.write("alpaca.json", r#"[{"instruction":"what 1?","input":"a b","output":"One."}]"#);
    dir.write("plain.jsonl", "{\"prompt\":\"what 2?\",\"response\":\"Two.\"}\n");
    dir
}

fn rows(dir: &Dir, file: &str) -> Vec<Value> {
    dir.text(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn align(more: &str) -> String {
    format!(
        "align --model model --refusals ask.csv --refusals refused.csv --benign alpaca.json --benign plain.jsonl {HOW} {more}"
    )
}

#[test]
fn refusals_and_benign_answers_become_an_adapter_that_can_be_merged() {
    let dir = directory();
    let output = dir.done(&align("--out a --json"));
    let step: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    assert!(step["l_align"].is_number() && step["l_help"].is_number() && step["nll_harm"].is_null(), "{step}");

    let refusals = rows(&dir, "a/data/align.jsonl");
    assert_eq!(refusals.len(), 5);
    assert!(refusals[..3].iter().all(|row| !row["output"].as_str().unwrap().is_empty()), "{refusals:?}");
    assert_eq!((&refusals[3]["input"], &refusals[3]["output"]), (&"how 3?".into(), &"I cannot say.".into()));
    let benign = rows(&dir, "a/data/help.jsonl");
    assert_eq!(benign[0]["input"], "what 1?\n\na b");
    assert_eq!(benign[1]["output"], "Two.");
    let manifest: Value = serde_json::from_str(&dir.text("a/manifest.json")).unwrap();
    assert_eq!(manifest["artefacts"]["adapter"]["verb"], "align");

    dir.done("export --model model --adapter a/adapter --out merged");
    assert!(dir.path("merged/model.safetensors").is_file());
    // What it was taught to refuse is not measured as new.
    let refused = dir.refused("eval --model model --adapter a/adapter --questions unseen=ask.csv --out e");
    assert!(refused.contains("were trained on"), "{refused}");
}

/// The file was read and left out.
#[test]
fn what_is_kept_is_a_term_of_the_loss() {
    let dir = directory();
    let output = dir.done(&align("--keep plain.jsonl --retain-weight 2 --out a --json"));
    let step: Value = serde_json::from_str(output.lines().nth(1).unwrap()).unwrap();
    let sum = ["l_help", "l_align"].iter().map(|key| step[key].as_f64().unwrap()).sum::<f64>();
    let kept = step["l_retain"].as_f64().unwrap();
    assert!((step["loss"].as_f64().unwrap() - sum - 2.0 * kept).abs() < 1e-6, "{step}");
    assert_eq!(rows(&dir, "a/data/retain.jsonl")[0]["input"], "what 2?");
}

#[test]
fn the_seed_decides_which_refusal_a_question_gets() {
    let dir = directory();
    for (out, seed) in [("a", 1), ("b", 1), ("c", 2)] {
        dir.done(&align(&format!("--seed {seed} --out {out}")));
    }
    let adapter = "adapter/adapter_model.safetensors";
    assert_eq!(dir.read(&format!("a/{adapter}")), dir.read(&format!("b/{adapter}")));
    assert_eq!(dir.text("a/data/align.jsonl"), dir.text("b/data/align.jsonl"));
    assert_ne!(dir.text("a/data/align.jsonl"), dir.text("c/data/align.jsonl"));

    dir.write("texts.txt", "I cannot, not ever.\n");
    dir.done(&align("--refusal-texts texts.txt --out d"));
    let drawn = rows(&dir, "d/data/align.jsonl");
    assert!(drawn[..3].iter().all(|row| row["output"] == "I cannot, not ever."), "{drawn:?}");
}

#[test]
fn everything_wrong_with_the_files_is_said_at_once() {
    let dir = directory();
    dir.write("open.jsonl", "{\"prompt\":\"what 5?\"}\n");
    dir.write("texts.txt", "\n");
    let arguments =
        "align --model model --refusals none.csv --refusal-texts texts.txt --benign open.jsonl --rank 0 --out a";
    insta::assert_snapshot!(dir.refused(arguments), @r#"
    exit 2
    error: --refusal-texts: texts.txt: no rows
    error: --refusals: none.csv: No such file or directory (os error 2)
    hint: check the path; it is taken relative to the current directory
    error: --benign: open.jsonl: row 0 ("what 5?") has no answer
    hint: an answer is a column output, response, answer or completion
    error: --rank: must be from 1 to 65536
    "#);
    dir.write("told.jsonl", "{\"prompt\":\"how 5?\",\"response\":\"Take two.\"}\n");
    insta::assert_snapshot!(dir.refused("align --model model --refusals told.jsonl --benign plain.jsonl --out a"), @r"
    exit 2
    error: the align set (--refusals told.jsonl): most of its answers are not refusals: 1 of 1
    hint: check that the sets are not swapped: the harm set should hold answers that help, the align set refusals
    hint: to train on them as they are, give --allow-swapped (in a run file allow_swapped = true)
    ");
    assert!(!dir.path("a").exists());
}

#[test]
fn sft_needs_no_harm_set_and_says_which_sets_it_needs() {
    let dir = directory();
    dir.done(&format!("train --model model --method sft --help-set help.jsonl --align align.jsonl {HOW} --out a"));
    assert!(!dir.path("a/data/harm.jsonl").exists());
    insta::assert_snapshot!(dir.refused("train --model model --method sft --harm harm.jsonl --out b"), @r"
    exit 2
    error: --help-set: is missing: method `sft` learns from the help set
    error: --align: is missing: method `sft` learns from the align set
    hint: name the file that holds it
    ");
    insta::assert_snapshot!(dir.refused("train --model model --out b"), @r"
    exit 2
    error: --harm: is missing: method `eraser` learns from the harm set
    error: --help-set: is missing: method `eraser` learns from the help set
    error: --align: is missing: method `eraser` learns from the align set
    hint: name the file that holds it
    ");
}
