//! How likely known answers are on the built-in model, token by token, against what PyTorch computed (recorded by
//! tests/fixtures/likelihood.py) and against the log-likelihoods of `bench`; the files: what is measured again and what
//! is not.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod common;

use common::model;
use eraser_data::{Progress, Record};
use eraser_eval::attack::read_templates;
use eraser_eval::likelihood::{Context, Likelihood, Line, likelihood};
use eraser_eval::{Admitted, AnswerSet, EvalOptions, Plan, Subject, Summary, evaluate, key, record};
use eraser_model::{ErrorKind, Model, ScoreRequest, score};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Both sides compute in f32; a token costs up to 25 nats.
const TOLERANCE: f64 = 1e-4;

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/likelihood.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn rows(fixture: &Value) -> Vec<Record> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let row = |row: &Value| Record {
        input: text(row, "input"),
        output: text(row, "output"),
        extra: Map::default(),
        place: String::new(),
    };
    fixture["rows"].as_array().unwrap().iter().map(row).collect()
}

/// The fixture's templates as files in `dir`.
fn templates(fixture: &Value, dir: &Path) -> Vec<PathBuf> {
    let write = |(name, text): (&String, &Value)| {
        let path = dir.join(format!("{name}.txt"));
        std::fs::write(&path, text.as_str().unwrap()).unwrap();
        path
    };
    fixture["templates"].as_object().unwrap().iter().map(write).collect()
}

fn measured(model: &Model, rows: &[Record], contexts: &[Context]) -> Vec<Vec<Likelihood>> {
    likelihood(model, None, rows, contexts, &mut |_| true).unwrap().unwrap()
}

#[test]
fn every_token_costs_what_pytorch_says() {
    let Some(model) = model() else { return };
    let (fixture, dir) = (fixture(), tempfile::tempdir().unwrap());
    let templates = read_templates(&templates(&fixture, dir.path())).map_err(|e| e[0].to_string()).unwrap();
    let contexts = Context::all(templates);
    let rows = rows(&fixture);
    let found = measured(&model, &rows, &contexts);
    assert_eq!(contexts.len(), 3);
    for (context, found) in contexts.iter().zip(&found) {
        let name = context.name();
        let theirs = &fixture["nll"][name.strip_prefix("template:").unwrap_or(name)];
        assert_eq!(found.len(), theirs.as_array().unwrap().len());
        for (i, ours) in found.iter().enumerate() {
            let expected: Vec<f64> = serde_json::from_value(theirs[i].clone()).unwrap();
            assert_eq!((ours.nll.len(), ours.own, ours.cut_off), (expected.len(), expected.len() - 1, false));
            for (a, b) in ours.nll.iter().zip(&expected) {
                assert!((f64::from(*a) - b).abs() < TOLERANCE, "{name} row {i}: {a} {b}");
            }
        }
    }
    // One row at a time: what an answer costs does not depend on what else is measured.
    let alone = measured(&model, &rows[1..2], &contexts[2..]);
    for (a, b) in alone[0][0].nll.iter().zip(&found[2][1].nll) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn an_answer_costs_what_its_log_likelihood_says() {
    let Some(model) = model() else { return };
    let rows = rows(&fixture());
    let found = measured(&model, &rows, &[Context::plain()]);
    let (tokenizer, template) = (&model.tokenizer, model.chat_template().unwrap());
    for (row, found) in rows.iter().zip(&found[0]) {
        let prompt = template.render(&[eraser_model::Message::user(&row.input)], true).unwrap();
        let mut ids = tokenizer.encode(&prompt).unwrap();
        let answer = tokenizer.encode(&row.output).unwrap();
        ids.extend(answer.iter().chain(&tokenizer.eos()));
        let request = ScoreRequest { ids, scored: answer.len() + 1 };
        let scores = score(&model.decoder, None, &[request], &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        assert!((sum(&scores[0]) + sum(&found.nll)).abs() < 1e-3, "{}", row.input);
    }
}

#[test]
fn an_answer_beyond_the_models_positions_is_cut_off_and_said_to_be() {
    let Some(model) = model() else { return };
    let row = |input: String, output: &str| Record {
        input,
        output: output.into(),
        extra: Map::default(),
        place: String::new(),
    };
    let rows = [
        row("Who sulks?".into(), &"a lamp and ".repeat(300)),
        row("a lamp and ".repeat(300), "Poets."),
        row("Who sulks?".into(), "Poets."),
    ];
    let found = &measured(&model, &rows, &[Context::plain()])[0];
    assert!(found[0].cut_off && found[0].own == found[0].nll.len() && found[0].own > 200, "{}", found[0].own);
    assert_eq!((found[1].cut_off, found[1].nll.len(), found[1].after(0)), (true, 0, None));
    assert!(!found[2].cut_off && found[2].after(0).is_some());
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

/// Two sets, of which one takes several rounds, under two templates.
fn options(dir: &Path) -> EvalOptions {
    let fixture = fixture();
    let line = |input: String, output: &Value| serde_json::json!({"input": input, "output": output}).to_string() + "\n";
    let many = (0..70).map(|i| line(format!("Who sulks {i} times?"), &fixture["rows"][i % 3]["output"]));
    std::fs::write(dir.join("seen.jsonl"), many.collect::<String>()).unwrap();
    let few = (0..4).map(|i| line(format!("What is lamp {i}?"), &fixture["rows"][1]["output"]));
    std::fs::write(dir.join("benign.jsonl"), few.collect::<String>()).unwrap();
    let set = |name: &str| AnswerSet { set: name.into(), path: dir.join(format!("{name}.jsonl")) };
    EvalOptions {
        attacks: Vec::new(),
        templates: templates(&fixture, dir),
        likelihood_set: vec![set("seen"), set("benign")],
        likelihood_cuts: vec![0, 5, 20],
        ..EvalOptions::default()
    }
}

fn run(model: &Model, options: &EvalOptions, dir: &Path, progress: &mut dyn Progress) -> eraser_model::Result<Summary> {
    let subjects = [Subject { name: "base".into(), model, adapter: None }];
    let plan = Plan::new(options, &key).map_err(|e| e.into_iter().next().unwrap())?;
    evaluate(&Admitted::new(dir, &subjects, false)?.0, &plan, None, progress)
}

fn file(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("eval/base/likelihood.jsonl")).unwrap()
}

fn lines(dir: &Path) -> Vec<Line> {
    std::str::from_utf8(&file(dir)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn interrupted_anywhere_it_goes_on_and_leaves_the_same_bytes() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let whole = dir.path().join("whole");
    let summary = run(&model, &options, &whole, &mut { ALL }).unwrap();
    let text = String::from_utf8(file(&whole)).unwrap();
    assert_eq!(text.lines().count(), 3 * 74);
    assert!(!text.contains("First tabber"), "the text of an answer is in the file");
    for stop in [1, 2, 4, 7, 9] {
        let part = dir.path().join(format!("part{stop}"));
        let error = run(&model, &options, &part, &mut After(stop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        // A kill in the middle of a line, at worst.
        let path = part.join("eval/base/likelihood.jsonl");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len().saturating_sub(7));
        std::fs::write(&path, bytes).unwrap();
        assert!(path.with_extension("unfinished").exists());
        let again = run(&model, &options, &part, &mut { ALL }).unwrap();
        assert!(file(&part) == file(&whole) && again == summary, "stopped after {stop}");
        assert!(!path.with_extension("unfinished").exists());
    }
}

#[test]
fn what_decides_a_figure_decides_what_is_measured_again() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    run(&model, &options, dir.path(), &mut { ALL }).unwrap();
    let before = lines(dir.path());
    let kept =
        |now: &[Line]| now.iter().filter(|line| before.iter().any(|b| b.fingerprint == line.fingerprint)).count();
    run(&model, &options, dir.path(), &mut { ALL }).unwrap();
    assert_eq!(lines(dir.path()), before);

    let path = &options.likelihood_set[1].path;
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, text.replacen("polishes", "paints", 1)).unwrap();
    run(&model, &options, dir.path(), &mut { ALL }).unwrap();
    assert_eq!(kept(&lines(dir.path())), 3 * 70, "all of the changed file is measured anew, nothing else");
    std::fs::write(path, text).unwrap();

    std::fs::write(&options.templates[0], "Hear: {prompt}").unwrap();
    run(&model, &options, dir.path(), &mut { ALL }).unwrap();
    assert_eq!(kept(&lines(dir.path())), 2 * 74, "the figures of the changed template are gone");

    let cuts = EvalOptions { likelihood_cuts: vec![0, 1], ..options.clone() };
    run(&model, &cuts, dir.path(), &mut { ALL }).unwrap();
    assert_eq!(kept(&lines(dir.path())), 0);

    // A set that is not measured now keeps its lines, and its rows in the summary.
    let one = EvalOptions { likelihood_set: options.likelihood_set[..1].to_vec(), ..options };
    let found = run(&model, &one, dir.path(), &mut { ALL }).unwrap();
    let (found, _) = record(dir.path(), &found).unwrap();
    let sets: std::collections::BTreeSet<_> = found.subjects[0].likelihood.iter().map(|row| row.set.as_str()).collect();
    assert_eq!(sets.into_iter().collect::<Vec<_>>(), ["benign", "seen"]);
}
