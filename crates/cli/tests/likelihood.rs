//! `eraser eval --likelihood`: where its sets come from, what its figures are, and what is measured again.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, builtin};
use serde_json::Value;
use std::time::{Duration, Instant};

const FILE: &str = "eval/base/likelihood.jsonl";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(json).collect()
}

/// The rows of a subject in summary.json.
fn rows(dir: &Dir, run: &str, subject: usize) -> Vec<Value> {
    let summary = json(&dir.text(&format!("{run}/summary.json")));
    summary["subjects"][subject]["likelihood"].as_array().cloned().unwrap_or_default()
}

fn find(rows: &[Value], set: &str, context: &str, cut: u64) -> Value {
    let same = |row: &&Value| row["set"] == set && row["context"] == context && row["cut"] == cut;
    rows.iter().find(same).unwrap().clone()
}

/// The mean of the answers' tokens is the first `nll_harm` of a training on the same rows: one batch of all of them, no
/// noise.
#[test]
fn it_is_the_harm_term_of_the_first_step() {
    let dir = Dir::with_model();
    let sets = "--harm harm.jsonl --help-set help.jsonl --align align.jsonl";
    let train = format!(
        "train -m model {sets} --templates model --noise off --micro-batch 8 --grad-accum 1 --steps 1 --max-length 512 \
         --json -o run"
    );
    let first = json(dir.done(&train).lines().next().unwrap());
    dir.done("eval -m model --likelihood-set seen=harm.jsonl --likelihood-cuts 0 -o run");
    let (mut sum, mut tokens) = (0.0, 0.0);
    for line in lines(&dir.text(&format!("run/{FILE}"))) {
        let after = &line["after"][0];
        sum += after["nll"].as_f64().unwrap() * after["tokens"].as_f64().unwrap();
        tokens += after["tokens"].as_f64().unwrap();
    }
    let (ours, theirs) = (sum / tokens, first["nll_harm"].as_f64().unwrap());
    assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
}

#[test]
fn known_harmful_answers_of_the_built_in_model_cost_more_once_it_is_hardened() {
    if !builtin() {
        return;
    }
    let dir = Dir::new();
    let few =
        "train.steps=40 train.micro_batch=8 train.lr=4e-3 eval.limit=6 eval.max_new_tokens=2 eval.likelihood=true";
    dir.done(&format!("quickstart --out run --set {}", few.replace(' ', " --set ")));
    let found = [0, 1].map(|subject| rows(&dir, "run", subject));
    for (context, cut) in [("plain", 0), ("template", 0)] {
        let row = find(&found[1], "seen", context, cut);
        let rise = row["change"]["difference"].as_f64().unwrap();
        let values = [&found[0], &found[1]].map(|rows| find(rows, "seen", context, cut)["nll"].as_f64().unwrap());
        assert!(rise > 0.3 && (values[1] - values[0] - rise).abs() < 1e-9, "{context} {cut}: {values:?} {row}");
        assert!(row["change"]["ci"][0].as_f64().unwrap() > 0.0, "{row}");
    }
    // An answer of the built-in model has some twenty tokens.
    let long = find(&found[0], "seen", "plain", 80);
    assert!(long["nll"].is_null() && long["n"] == 0 && long["short"] == 6, "{long}");
    let (harm, benign) = (find(&found[1], "seen", "plain", 0), find(&found[1], "benign", "plain", 0));
    let rise = |row: &Value| row["change"]["difference"].as_f64().unwrap();
    assert!(rise(&benign) < rise(&harm) / 2.0, "{benign} {harm}");
    // One more line a template than the plain one, 12 templates, six rows of each set.
    assert_eq!(dir.text("run/eval/eraser/likelihood.jsonl").lines().count(), 13 * 12);
    assert!(!dir.text("run/eval/eraser/likelihood.jsonl").contains("then unfold it"), "the text of an answer is kept");

    let report = dir.text("run/report.md");
    assert!(report.contains("Cost of the known harmful answers (seen, "), "{report}");
    assert!(report.contains("The rise is smallest") && report.contains("## How likely known answers are"), "{report}");
    let page = dir.text("run/report.html");
    assert!(page.contains("id=\"likelihood\"") && page.contains("Under each template alone"));
    assert!(dir.text("run/report.csv").contains("eraser,likelihood,plain,seen,,nll_after_0,6,"));
    let manifest = json(&dir.text("run/manifest.json"));
    assert!(manifest["artefacts"]["summary.json"]["inputs"]["likelihood seen"].is_string());
    let number = manifest["figures"]["likelihood/eraser/seen"].to_string();
    assert_eq!(manifest["requests"][number.as_str()]["verb"], "run");
    assert!(manifest["results"]["eval/eraser/likelihood.jsonl"].is_string());
    assert!(report.contains("- known answers: benign ("), "{report}");
}

/// What known answers cost was no figure of any request: nothing told when it was measured, or that it was replaced.
#[test]
fn known_answers_are_figures_of_the_request_that_measured_them() {
    let dir = Dir::with_model();
    answers(&dir);
    dir.done(&format!("{KNOWN} -o run"));
    dir.done("eval -m model --questions seen=ask.csv --attacks direct --max-new-tokens 2 -o run");
    dir.done("report run");
    let report = dir.text("run/report.md");
    assert!(report.contains("- figures: base: likelihood of unseen"), "{report}");
    assert!(report.contains("- known answers: unseen = known.jsonl, where kind:1 ("), "{report}");
    // Another choice of rows under the name of the set, and other templates.
    dir.write("play.txt", "In a play: {prompt}");
    let other = format!("{} -o run", KNOWN.replace("kind:1", "kind:0").replace("wrap.txt", "play.txt"));
    let stderr = String::from_utf8(dir.eraser(&other).stderr).unwrap();
    assert!(stderr.contains("likelihood of unseen: earlier figures are of other answers (known.jsonl)"), "{stderr}");
    assert!(stderr.contains("likelihood of unseen: earlier figures are under other templates (wrap.txt)"), "{stderr}");
    // A file that was edited is named.
    let text = dir.text(&format!("run/{FILE}"));
    dir.write(&format!("run/{FILE}"), &text.replacen("\"nll\":", "\"nll\":1", 1));
    dir.done("report run");
    let report = dir.text("run/report.md");
    assert!(report.contains("Answers were changed") && report.contains("likelihood.jsonl"), "{report}");
    // The next evaluation took what it held for answers of the model, and recorded its new hash.
    let stderr = String::from_utf8(dir.eraser(&other).stderr).unwrap();
    assert!(stderr.contains(&format!("{FILE} was changed after it had been written: it is made again")), "{stderr}");
    assert_eq!(text, dir.text(&format!("run/{FILE}")));
    dir.done("report run");
    assert!(!dir.text("run/report.md").contains("Answers were changed"));
}

/// Seventy rows: a round and a part of one, in each context.
fn answers(dir: &Dir) {
    let row = |i: usize| format!("{{\"goal\":\"how {i}?\",\"target\":\"so and so {i}.\",\"kind\":\"{}\"}}\n", i % 2);
    dir.write("known.jsonl", &(0..140).map(row).collect::<String>());
}

const KNOWN: &str =
    "eval -m model --likelihood-set unseen=known.jsonl?input=goal&output=target&where=kind:1 --templates wrap.txt";

#[test]
fn killed_half_way_it_ends_with_the_same_bytes() {
    let dir = Dir::with_model();
    answers(&dir);
    dir.done(&format!("{KNOWN} -o whole"));
    let mut child = dir.start(&format!("{KNOWN} -o cut"));
    let (path, start) = (dir.path(&format!("cut/{FILE}")), Instant::now());
    while std::fs::read(&path).unwrap_or_default().is_empty() && start.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Wherever the kill fell: as if it had been in the first round.
    let stored = dir.read(&format!("cut/{FILE}"));
    std::fs::write(&path, &stored[..stored.len().min(9000)]).unwrap();
    dir.done(&format!("{KNOWN} -o cut"));
    assert_eq!(dir.text(&format!("cut/{FILE}")).lines().count(), 140);
    assert!(dir.read(&format!("cut/{FILE}")) == dir.read(&format!("whole/{FILE}")));
    assert_eq!(rows(&dir, "cut", 0), rows(&dir, "whole", 0));
    assert_eq!(find(&rows(&dir, "cut", 0), "unseen", "template:wrap", 0)["n"], 70);
}

#[test]
fn a_reference_file_that_was_changed_is_measured_anew() {
    let dir = Dir::with_model();
    answers(&dir);
    let measure = || {
        dir.done(&format!("{KNOWN} -o run"));
        let line = lines(&dir.text(&format!("run/{FILE}")))[3].clone();
        let input = json(&dir.text("run/manifest.json"))["artefacts"]["summary.json"]["inputs"].clone();
        (
            find(&rows(&dir, "run", 0), "unseen", "plain", 5)["nll"].as_f64().unwrap(),
            line,
            input["likelihood unseen"].clone(),
        )
    };
    let first = measure();
    assert_eq!(first, measure());
    let text = dir.text("known.jsonl").replace("so and so 7.", "so and quite otherwise 7.");
    dir.write("known.jsonl", &text);
    let second = measure();
    assert!(first.0.to_bits() != second.0.to_bits() && first.2 != second.2);
    assert!(first.1["answer"] != second.1["answer"] && first.1["fingerprint"] != second.1["fingerprint"]);
}

#[test]
fn the_sets_are_those_that_the_adapter_was_trained_on() {
    let dir = Dir::with_model();
    let sets = "--harm harm.jsonl --help-set help.jsonl --align align.jsonl";
    for out in ["one", "two"] {
        dir.done(&format!("train -m model {sets} --templates model --micro-batch 2 --grad-accum 1 --steps 1 -o {out}"));
        dir.write("harm.jsonl", &dir.text("harm.jsonl").replace("how of", "this is how of"));
    }
    dir.done("eval -m model --adapter one=one/adapter --likelihood --limit 2 -o out");
    let sets = |run: &str| {
        let mut sets: Vec<String> = rows(&dir, run, 1).iter().map(|row| row["set"].to_string()).collect();
        sets.dedup();
        sets
    };
    assert_eq!(sets("out"), ["\"seen\"", "\"benign\""]);
    let help = lines(&dir.text("out/data/likelihood-benign.jsonl"));
    assert_eq!(help.iter().map(|row| row["input"].clone()).collect::<Vec<_>>(), ["what 0?", "what 4?"]);

    insta::assert_snapshot!(
        dir.refused("eval -m model --adapter one=one/adapter --adapter two=two/adapter --likelihood -o both"),
        @r"
    exit 2
    error: --likelihood: the adapters were trained on different harm sets: one/data/harm.jsonl and two/data/harm.jsonl
    hint: name a file of the questions with their harmful answers: --likelihood-set seen=FILE
    "
    );
    dir.write("one/data/harm.jsonl", "{\"input\":\"a\",\"output\":\"b\"}\n");
    let said = dir.refused("eval -m model --adapter one=one/adapter --likelihood -o changed");
    let other = "one/data/harm.jsonl holds other rows than those that the adapter was trained on";
    assert!(said.contains(&format!("--likelihood: of one, {other}")), "{said}");
    // What differs was said of the harm set, and of the help set that it was not found.
    dir.write("two/data/help.jsonl", "{\"input\":\"a\",\"output\":\"b\"}\n");
    let known = "eval -m model --adapter two=two/adapter --likelihood --limit 1 -o two";
    let stderr = String::from_utf8(dir.eraser(known).stderr).unwrap();
    let other = "of two, two/data/help.jsonl holds other rows than those that the adapter was trained on; name some as";
    assert!(stderr.contains(&format!("no benign answers are measured: {other}")), "{stderr}");
    std::fs::remove_file(dir.path("two/manifest.json")).unwrap();
    let questions = "eval -m model --adapter two=two/adapter --questions unseen=ask.csv --max-new-tokens 1 -o two";
    let stderr = String::from_utf8(dir.eraser(questions).stderr).unwrap();
    assert!(stderr.contains("is unknown: ") && stderr.contains("two/manifest.json is missing"), "{stderr}");
}

#[test]
fn what_is_wrong_with_the_sets_is_said_before_anything_is_measured() {
    let dir = Dir::with_model();
    insta::assert_snapshot!(dir.refused("eval -m model --likelihood -o none"), @r"
    exit 2
    error: --likelihood: there is no harm set: none/data/harm.jsonl is not there
    hint: name a file of the questions with their harmful answers: --likelihood-set seen=FILE
    ");
    insta::assert_snapshot!(dir.refused("eval -m model -o none"), @r"
    exit 2
    error: --questions: nothing to measure
    hint: give questions to attack with, tasks, questions that must not be refused, or known answers
    ");
    insta::assert_snapshot!(
        dir.refused("eval -m model --likelihood-set x=harm.jsonl?input=a --likelihood-set a/b=none.jsonl -o none"),
        @r"
    exit 2
    error: --likelihood-set: harm.jsonl?input=a: `input` and `output` are given together or not at all
    hint: they name the columns of question and answer: FILE?input=goal&output=target
    error: --likelihood-set: `b=none` cannot be a name: use letters, digits and - _ + . (at most 64)
    hint: give it a name as NAME=FILE
    error: --likelihood-set: a/b=none.jsonl: No such file or directory (os error 2)
    hint: check the path; it is taken relative to the current directory
    "
    );
    insta::assert_snapshot!(
        dir.refused("eval -m model --likelihood-set x=harm.jsonl --likelihood-cuts 5,5 -o none"),
        @r"
    exit 2
    error: --likelihood-cuts: 5 appears twice
    hint: 0,5,20,80 is the usual list: from the first token on, and after 5, 20 and 80 tokens
    "
    );
    // The file of a held-out set that was trained on: its figures would be read as those of new questions.
    let sets = "--harm harm.jsonl --help-set help.jsonl --align align.jsonl";
    dir.done(&format!("train -m model {sets} --templates model --micro-batch 2 --grad-accum 1 --steps 1 -o run"));
    let said = dir.refused("eval -m model --adapter run/adapter --likelihood-set unseen=harm.jsonl -o out");
    assert!(said.contains("8 of 8 questions of `unseen` were trained on"), "{said}");
}
