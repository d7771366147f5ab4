//! The built-in model, loaded and served by `eraser serve`: measured both ways, the figures are the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, builtin};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::Child;

/// `eraser serve` as long as the test runs.
struct Serving {
    process: Child,
    url: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve(dir: &Dir, arguments: &str) -> Serving {
    let mut process = dir.start(arguments);
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().find(|word| word.starts_with("http://"));
    assert!(address.is_some(), "{line}");
    let url = format!("{}/v1", address.unwrap().trim_end_matches(['/', ',', '.', ';']));
    Serving { process, url }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(json).collect()
}

/// The rows of a subject without what names the way in which it was measured.
fn figures(summary: &Value, subject: usize) -> Value {
    let subject = &summary["subjects"][subject];
    serde_json::json!([subject["name"], subject["attacks"], subject["utility"], subject["over_refusal"]])
}

#[test]
fn a_model_has_the_same_figures_loaded_and_served() {
    if !builtin() {
        return;
    }
    let dir = Dir::with_model();
    dir.done(
        "train --model builtin --harm harm.jsonl --help-set help.jsonl --align align.jsonl --micro-batch 2 \
         --grad-accum 1 --max-length 96 --lr 1e-2 --templates model --steps 4 --out run",
    );
    let row = |i: usize| {
        format!("{{\"question\":\"What is kept in box {i}?\",\"choices\":[\"salt\",\"a lamp\"],\"gold\":0}}\n")
    };
    dir.write("arc.jsonl", &(0..6).map(row).collect::<String>());
    dir.write("text.txt", &"The lamp in the yard is lit when it rains, and salt is kept in the box. ".repeat(12));
    let asked = "--questions seen=builtin/questions/seen.jsonl --attacks direct,template,prefill --target First \
                 --templates builtin/templates/seen --judges keyword,leak \
                 --utility entities=builtin/tasks/entities.jsonl --limit 5 \
                 --over-refusal builtin/questions/over-refusal.jsonl --max-new-tokens 48 --json";
    let scored = "--tasks arc_easy=arc.jsonl --text text=text.txt --window 64 --json";
    let local = "--model builtin --adapter hardened=run/adapter --out local";
    let serving = serve(&dir, "serve --model builtin --name plain --adapter hard=run/adapter --port 0");
    let at = &serving.url;
    let served = format!("--subject base={at}#plain --subject hardened={at}#hard --model builtin --out served");

    let here = json(&dir.done(&format!("eval {local} {asked}")));
    let there = json(&dir.done(&format!("eval {served} {asked}")));
    for subject in 0..2 {
        assert_eq!(figures(&here, subject), figures(&there, subject));
        let checks = there["subjects"][subject]["served"]["checks"].as_array().unwrap();
        assert!(checks.iter().all(|check| check["result"] == "passed"), "{checks:?}");
        assert_eq!(checks.len(), 3 + subject, "{checks:?}");
    }
    for file in
        ["base/direct", "base/template", "base/prefill", "hardened/direct", "hardened/template", "hardened/prefill"]
    {
        let of = |out: &str| {
            let lines = lines(&dir.text(&format!("{out}/eval/{file}.jsonl")));
            lines
                .iter()
                .map(|line| ["id", "attack", "response", "stopped"].map(|key| line[key].clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("local"), of("served"), "{file}");
    }

    let here = json(&dir.done(&format!("bench {local} {scored}")));
    let there = json(&dir.done(&format!("bench {served} {scored}")));
    assert_eq!(here["subjects"][1]["utility"][0]["value"], there["subjects"][1]["utility"][0]["value"]);
    for file in ["base/arc_easy", "base/text", "hardened/arc_easy", "hardened/text"] {
        let of = |out: &str| {
            let lines = lines(&dir.text(&format!("{out}/bench/{file}.jsonl")));
            let scores = lines.iter().flat_map(|line| line["loglikelihoods"].as_array().unwrap().clone());
            scores.map(|score| score.as_f64().unwrap()).collect::<Vec<f64>>()
        };
        let (a, b) = (of("local"), of("served"));
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 2e-3), "{file}: {a:?} {b:?}");
    }
}

#[test]
fn a_classifier_gives_the_same_verdicts_loaded_and_served() {
    let dir = Dir::with_model();
    dir.write("prompt.txt", "{behavior} / {generation} / ");
    let label =
        |answer: &str| format!("{{\"question\":\"How is tea made?\",\"answer\":\"{answer}\",\"label\":\"no\"}}\n");
    dir.write("labels.jsonl", &["Boil water.", "I cannot say.", "A mineral. <|end|>"].map(label).concat());
    let serving = serve(&dir, "serve --model model --name guard --port 0");
    let by_server = format!("--judge-endpoint {} --judge-endpoint-model guard --judge-tokenizer model", serving.url);
    for judge in ["harmbench", "llama-guard-3", "harmbench-own"] {
        let prompt = if judge == "harmbench" { "--judge-prompt prompt.txt" } else { "" };
        let verdicts = |by: &str, out: &str| {
            dir.done(&format!("judge --labels labels.jsonl --judges {judge} {prompt} {by} --out {out}"));
            dir.text(&format!("{out}/verdicts.jsonl"))
        };
        let here = verdicts("--judge-model model", &format!("here-{judge}"));
        assert_eq!(here, verdicts(&by_server, &format!("there-{judge}")), "{judge}");
        assert_eq!(here.lines().count(), 3);
    }
    // A server without log-probabilities of prompts is told, and so is a model that it does not have.
    let other = by_server.replace("model guard", "model other");
    let told = dir.refused(&format!("judge --labels labels.jsonl --judges llama-guard-3 {other} --out o"));
    assert!(told.contains("the server has no model `other`"), "{told}");
}

#[test]
fn one_model_under_two_names_is_refused() {
    let dir = Dir::with_model();
    let serving = serve(&dir, "serve --model model --name a --port 0");
    let at = &serving.url;
    let said = dir.refused(&format!("eval --subject base={at}#a --subject x={at}#a --questions ask.csv --out o"));
    assert!(said.contains("`base` and `x` are one model"), "{said}");
}
