//! An adapter whose modules have different ranks and alphas (`rank_pattern`, `alpha_pattern` of PEFT), wherever an
//! adapter is taken: training from it, resuming, export, evaluation.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use candle_core::Device;
use common::{Dir, TRAIN};
use eraser_model::adapter::{Adapter, LoraConfig, Module};
use eraser_model::{ModelConfig, Patterns};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};

const WEIGHTS: &str = "adapter/adapter_model.safetensors";

/// A fresh adapter in `start`: rank 2, or 5 in the last layer; alpha 16, or 40 for two of three modules.
fn begin(dir: &Dir) {
    let patterns =
        Patterns { ranks: vec![(r"layers\.1\..*".into(), 5)], alphas: vec![("q_proj|down_proj".into(), 40.0)] };
    let targets = vec![Module::Q, Module::V, Module::Down];
    let config = LoraConfig { r: 2, alpha: 16.0, dropout: 0.0, targets, layers: None, rslora: false, patterns };
    let model = ModelConfig::from_hf_dir(&dir.path("model")).unwrap();
    Adapter::new(config, &model, 1, &Device::Cpu).unwrap().save(&dir.path("start"), "model").unwrap();
}

#[test]
fn training_from_it_keeps_its_ranks_and_resumes_to_the_same_bytes() {
    let dir = Dir::with_model();
    begin(&dir);
    let go = |more: &str| format!("{TRAIN} --steps 24 --checkpoint-every 5 --init-adapter start --json {more}");
    dir.done(&go("--out whole"));
    let config: Value = serde_json::from_str(&dir.text("whole/adapter/adapter_config.json")).unwrap();
    assert_eq!(config["rank_pattern"], json!({r"layers\.1\..*": 5}));
    assert_eq!(config["alpha_pattern"], json!({"q_proj|down_proj": 40}));
    let mut child = dir.start(&go("--out killed"));
    let stdout = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(stdout.lines().take(7).count(), 7);
    child.kill().unwrap();
    child.wait().unwrap();
    dir.done(&go("--out killed --resume"));
    assert_eq!(dir.read(&format!("whole/{WEIGHTS}")), dir.read(&format!("killed/{WEIGHTS}")));
    let fits = String::from_utf8(dir.eraser("doctor model --adapter whole/adapter").stdout).unwrap();
    assert!(fits.contains("fits: ranks 2 to 5, 6 pairs of matrices"), "{fits}");
}

#[test]
fn every_form_of_it_gives_the_same_answers() {
    let dir = Dir::with_model();
    begin(&dir);
    dir.done(&format!("{TRAIN} --steps 8 --init-adapter start --out a"));
    let export = "export --model model --adapter a/adapter";
    dir.done(&format!("{export} --out lora.gguf --format gguf --adapter-only"));
    dir.done(&format!("{export} --out peft --adapter-only"));
    dir.done(&format!("{export} --out merged"));
    dir.done("export --model model --adapter lora.gguf --out back --adapter-only");
    let answers = |model: &str, adapter: &str, out: &str| {
        let asked = "--questions seen=ask.csv --max-new-tokens 12";
        dir.done(&format!("eval --model {model} {adapter} {asked} --out {out}"));
        let subject = if adapter.is_empty() { "base" } else { "lora" };
        let rows = dir.text(&format!("{out}/eval/{subject}/direct.jsonl"));
        let response = |line: &str| serde_json::from_str::<Value>(line).unwrap()["response"].clone();
        rows.lines().map(response).collect::<Vec<Value>>()
    };
    let own = answers("model", "--adapter lora=a/adapter", "own");
    assert!(!own.is_empty());
    assert_ne!(own, answers("model", "", "base"), "it changes something");
    for adapter in ["lora.gguf", "peft", "back"] {
        assert_eq!(own, answers("model", &format!("--adapter lora={adapter}"), &format!("of-{adapter}")), "{adapter}");
    }
    assert_eq!(own, answers("merged", "", "of-merged"));
}
