//! Benchmarks of unlearning on the built-in model against what transformers, `rouge_score`, scipy and scikit-learn gave
//! for the same rows (recorded by tests/fixtures/unlearning.py).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::model;
use eraser_data::Progress;
use eraser_eval::bench::{ItemScore, Plan, TaskRows};
use eraser_eval::{Admitted, BenchOptions, BenchSummary, Subject, bench, key};
use eraser_model::Model;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Of a figure: what the fixtures are held to.
const TOLERANCE: f64 = 1e-3;

struct Always;

impl Progress for Always {
    fn tick(&mut self, _: &str, _: usize, _: usize) -> bool {
        true
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/unlearning").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn rows(task: &str, name: &str, examples: Option<&str>) -> TaskRows {
    let file = |name: &str| fixture(&format!("{name}.jsonl"));
    TaskRows { task: task.into(), path: file(name), examples: examples.map(file), preamble: None }
}

fn run(model: &Model, tasks: Vec<TaskRows>, retain_log: Option<&Path>, dir: &Path) -> BenchSummary {
    let retain_log = retain_log.map(Path::to_owned);
    let options = BenchOptions { tasks, retain_log, max_new_tokens: Some(24), ..BenchOptions::default() };
    let plan = Plan::new(&options, &key).map_err(|errors| format!("{errors:?}")).unwrap();
    let base = [Subject { name: "base".into(), model, adapter: None }];
    bench(&Admitted::new(dir, &base, false).unwrap().0, &plan, &mut Always).unwrap()
}

fn items(dir: &Path, task: &str) -> Vec<ItemScore> {
    let text = std::fs::read_to_string(dir.join("bench/base").join(format!("{task}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn figure(bench: &BenchSummary, task: &str, metric: &str) -> Option<f64> {
    bench.subjects[0].utility.iter().find(|u| u.task == task && u.metric == metric)?.value
}

fn near(what: &str, found: Option<f64>, wanted: f64) {
    assert!(found.is_some_and(|found| (found - wanted).abs() < TOLERANCE), "{what}: {found:?} {wanted}");
}

/// Every value and text is that of `theirs`.
fn compare(dir: &Path, task: &str, theirs: &Value) {
    let (ours, theirs) = (items(dir, task), theirs.as_array().unwrap());
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        for (metric, value) in &ours.metrics {
            let wanted = theirs[metric].as_f64().unwrap();
            // Ratios may be large.
            let scale = if metric == "ratio" { wanted } else { 1.0 };
            near(&format!("{task} row {} {metric}", ours.id), Some(value / scale), wanted / scale);
        }
        assert_eq!(ours.text.as_deref(), theirs.get("text").and_then(Value::as_str), "{task} row {}", ours.id);
    }
}

#[test]
fn tofu_is_as_the_field_computes_it() {
    let Some(model) = model() else { return };
    let expected = expected();
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (dir.path().join("log"), dir.path().join("out"));
    let logged = vec![rows("tofu_forget", "log", None), rows("tofu_holdout", "log_holdout", None)];
    let alone = run(&model, logged, None, &log);
    assert_eq!(figure(&alone, "tofu", "forget_quality"), None, "nothing to compare with");
    assert!(figure(&alone, "tofu", "privleak").is_some());
    let sets = ["forget", "holdout", "retain", "real_authors", "world_facts"];
    let tasks: Vec<TaskRows> = sets.iter().map(|set| rows(&format!("tofu_{set}"), set, None)).collect();
    let found = run(&model, tasks.clone(), Some(&log), &out);
    for set in sets {
        compare(&out, &format!("tofu_{set}"), &expected["sets"][set]);
    }
    for metric in ["forget_quality", "model_utility", "privleak"] {
        near(metric, figure(&found, "tofu", metric), expected[metric].as_f64().unwrap());
    }
    let metrics = |task: &str| {
        let of_task = found.subjects[0].utility.iter().filter(|u| u.task == task);
        of_task.map(|u| u.metric.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        metrics("tofu_forget"),
        "probability rougeL_recall truth_ratio extraction_strength exact_memorization",
        "parts of other figures are none of their own"
    );
    // The same scores, compared with a model that knows nothing.
    let found = run(&model, tasks, None, &out);
    assert_eq!(found.scored, 0);
    near("privleak", figure(&found, "tofu", "privleak"), expected["privleak_alone"].as_f64().unwrap());
}

#[test]
fn muse_is_as_its_authors_compute_it() {
    let Some(model) = model() else { return };
    let expected = expected();
    let dir = tempfile::tempdir().unwrap();
    // As its authors publish them: a list of texts, not of rows.
    let lines = std::fs::read_to_string(fixture("muse_other_texts.jsonl")).unwrap();
    let texts: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].take()).collect();
    let list = dir.path().join("holdout.json");
    std::fs::write(&list, serde_json::to_string(&texts).unwrap()).unwrap();
    let tasks = vec![
        rows("muse_verbmem", "muse_verbmem", None),
        rows("muse_knowmem_forget", "muse_knowmem", Some("muse_knowmem_icl")),
        rows("muse_forget", "muse_texts", None),
        TaskRows { path: list, ..rows("muse_holdout", "muse_other_texts", None) },
    ];
    let found = run(&model, tasks, None, dir.path());
    let names = ["verbmem", "knowmem", "texts", "other_texts"];
    for (task, name) in ["muse_verbmem", "muse_knowmem_forget", "muse_forget", "muse_holdout"].iter().zip(names) {
        compare(dir.path(), task, &expected["muse"][name]);
    }
    near("privleak", figure(&found, "muse", "privleak"), expected["muse_privleak"].as_f64().unwrap());
}

#[test]
fn a_retain_log_of_other_rows_is_refused() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    run(&model, vec![rows("tofu_forget", "retain", None)], None, dir.path());
    let refused = |tasks: Vec<TaskRows>, log: &Path| {
        let options = BenchOptions { tasks, retain_log: Some(log.into()), ..BenchOptions::default() };
        Plan::new(&options, &key).err().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let error = refused(vec![rows("tofu_forget", "forget", None)], dir.path());
    assert!(error.contains("tofu_forget.jsonl: 3 items, and the task has 5"), "{error}");
    let error = refused(vec![rows("muse_forget", "muse_texts", None)], dir.path());
    assert!(error.contains("muse_forget.jsonl"), "{error}");
    let error = refused(vec![rows("tofu_retain", "retain", None)], dir.path());
    assert!(error.contains("no task is measured that is compared with a retain model"), "{error}");
    let options =
        BenchOptions { tasks: vec![rows("muse_knowmem_retain", "muse_knowmem", None)], ..BenchOptions::default() };
    let error = Plan::new(&options, &key).err().unwrap()[0].to_string();
    assert!(error.contains("the rows of its examples are missing"), "{error}");
    let examples = TaskRows { examples: Some(fixture("retain.jsonl")), ..rows("tofu_retain", "retain", None) };
    let options = BenchOptions { tasks: vec![examples], shots: 1, ..BenchOptions::default() };
    let error = Plan::new(&options, &key).err().unwrap()[0].to_string();
    assert!(error.contains("nothing is put before the rows of this task"), "{error}");
}
