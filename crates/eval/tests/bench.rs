//! `bench` on the built-in model against what lm-evaluation-harness computed for the same items (recorded by
//! tests/fixtures/bench.py), and its files: what is scored again and what is not.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod common;

use candle_core::Device;
use common::model;
use eraser_data::Progress;
use eraser_eval::bench::{ItemScore, Plan, TaskRows, TextFile};
use eraser_eval::{Admitted, BenchOptions, BenchSummary, Subject, bench, key};
use eraser_model::adapter::Module;
use eraser_model::{Adapter, ErrorKind, LoraConfig, Model, Patterns, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Log-likelihoods are sums over up to twenty tokens, in f32 on both sides.
const TOLERANCE: f64 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bench").join(name)
}

fn rows(task: &str) -> TaskRows {
    TaskRows { task: task.into(), path: fixture(&format!("{task}.jsonl")), ..TaskRows::default() }
}

fn items(dir: &Path, subject: &str, task: &str) -> Vec<ItemScore> {
    let text = std::fs::read_to_string(dir.join("bench").join(subject).join(format!("{task}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Stops when it was asked so many times.
struct After(usize);

impl Progress for After {
    fn tick(&mut self, _: &str, _: usize, _: usize) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

const ALL: After = After(usize::MAX);

/// Scores in `dir`.
fn run(
    subjects: &[Subject<'_>],
    options: &BenchOptions,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<BenchSummary> {
    let plan = Plan::new(options, &key).map_err(|e| e.into_iter().next().unwrap())?;
    bench(&Admitted::new(dir, subjects, false)?.0, &plan, progress)
}

fn base(model: &Model) -> Subject<'_> {
    Subject { name: "base".into(), model, adapter: None }
}

#[test]
fn every_task_equals_the_harness_item_by_item() {
    let Some(model) = model() else { return };
    let harness: Value = serde_json::from_slice(&std::fs::read(fixture("harness.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // Those of TOFU and MUSE are no tasks of the harness.
    let of_harness = |task: &&str| !task.starts_with("tofu") && !task.starts_with("muse");
    let all: Vec<&str> = eraser_eval::bench::tasks().filter(of_harness).collect();
    let examples = |task: &str| fixture(&format!("{task}.dev.jsonl"));
    let with_examples = |task: &&str| TaskRows { examples: Some(examples(task)), ..rows(task) };
    let (shown, plain): (Vec<&str>, Vec<&str>) = all.into_iter().partition(|task| examples(task).exists());
    assert_eq!(shown, ["gsm8k", "mmlu", "mmlu_pro"]);
    for (tasks, shots) in
        [(plain.iter().map(|task| rows(task)).collect(), 0), (shown.iter().map(with_examples).collect(), 2)]
    {
        let options = BenchOptions { tasks, shots, max_new_tokens: Some(24), ..BenchOptions::default() };
        run(&[base(&model)], &options, dir.path(), &mut { ALL }).unwrap();
        for task in &options.tasks {
            let theirs = harness[&task.task]["items"].as_array().unwrap();
            let ours = items(dir.path(), "base", &task.task);
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(theirs) {
                let expected: Vec<f64> = serde_json::from_value(theirs["loglikelihoods"].clone()).unwrap();
                assert_eq!(ours.loglikelihoods.len(), expected.len(), "{}", task.task);
                for (a, b) in ours.loglikelihoods.iter().zip(&expected) {
                    assert!((a - b).abs() < TOLERANCE, "{} row {}: {a} {b}", task.task, ours.id);
                }
                assert_eq!(ours.text.as_deref(), theirs.get("text").and_then(Value::as_str), "{}", task.task);
                for (metric, value) in theirs["metrics"].as_object().unwrap() {
                    assert!((ours.metrics[metric] - value.as_f64().unwrap()).abs() < 1e-4, "{} {metric}", task.task);
                }
            }
        }
    }
}

#[test]
fn an_adapter_is_compared_with_the_base_and_scores_are_kept() {
    let Some(model) = model() else { return };
    let (targets, patterns) = (vec![Module::Q, Module::V], Patterns::default());
    let config = LoraConfig { r: 2, alpha: 4.0, dropout: 0.0, targets, layers: None, rslora: false, patterns };
    let adapter = Adapter::new(config, &model.config, 1, &Device::Cpu).unwrap();
    let subjects = [base(&model), Subject { name: "idle".into(), model: &model, adapter: Some(&adapter) }];
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("t.txt");
    std::fs::write(&text, "The lamp is lit. ".repeat(20)).unwrap();
    let options = BenchOptions {
        tasks: vec![rows("arc_easy"), rows("truthfulqa_mc2")],
        texts: vec![TextFile { name: "lamps".into(), path: text }],
        window: 32,
        ..BenchOptions::default()
    };
    let first = run(&subjects, &options, dir.path(), &mut { ALL }).unwrap();
    assert_eq!(BenchSummary::read(dir.path()).unwrap().as_ref(), Some(&first));
    let windows = items(dir.path(), "base", "lamps");
    let (sum, tokens) = windows.iter().fold((0.0, 0), |(s, n), w| (s + w.loglikelihoods[0], n + w.tokens[0]));
    let perplexity = first.subjects[0].utility.iter().find(|u| u.metric == "perplexity").unwrap().value.unwrap();
    assert!(windows.len() > 2 && (perplexity - (-sum / tokens as f64).exp()).abs() < 1e-9);
    // A new adapter changes nothing, and says so with the interval that no change leaves.
    let found: Vec<_> =
        first.differences.iter().map(|d| (d.task.as_str(), d.metric.as_str(), d.method.as_str())).collect();
    assert_eq!(
        found,
        [
            ("arc_easy", "acc", "bonett-price"),
            ("arc_easy", "acc_norm", "bonett-price"),
            ("truthfulqa_mc2", "mc2", "bootstrap"),
            ("lamps", "perplexity", "bootstrap")
        ]
    );
    assert!(first.differences.iter().all(|d| d.difference.unwrap().abs() < 1e-4 && d.subject == "idle"));
    let again = run(&subjects, &options, dir.path(), &mut { ALL }).unwrap();
    assert_eq!((first.scored, again.scored, &again.subjects), (2 * (3 + 2 + windows.len()), 0, &first.subjects));
    // A changed item is scored again, and only its task's.
    let moved = dir.path().join("arc.jsonl");
    let changed = std::fs::read_to_string(fixture("arc_easy.jsonl")).unwrap().replace("vlidevoth", "the lamp");
    std::fs::write(&moved, changed).unwrap();
    let options = BenchOptions { tasks: vec![TaskRows { path: moved, ..rows("arc_easy") }], ..options };
    assert_eq!(run(&subjects, &options, dir.path(), &mut { ALL }).unwrap().scored, 2 * 3);
}

#[test]
fn a_stopped_run_goes_on_to_the_same_scores() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = BenchOptions { tasks: vec![rows("arc_easy"), rows("gsm8k")], shots: 1, ..BenchOptions::default() };
    let run = |name: &str, progress: &mut dyn Progress| {
        run(&[base(&model)], &options, &dir.path().join(name), progress).map(|s| s.subjects)
    };
    let whole = run("whole", &mut { ALL }).unwrap();
    for stop in 1..5 {
        let error = run("stopped", &mut After(stop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    }
    assert_eq!(run("stopped", &mut { ALL }).unwrap(), whole);
    for task in ["arc_easy", "gsm8k"] {
        let read = |name: &str| items(&dir.path().join(name), "base", task);
        assert_eq!(read("stopped"), read("whole"));
    }
}
