//! `eraser doctor`: what is said of sound models, and of models that each lack one thing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, TRAIN, builtin};
use serde_json::Value;

/// Exit code and stdout.
fn doctor(dir: &Dir, arguments: &str) -> (i32, String) {
    let output = dir.eraser(&format!("doctor {arguments}"));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_sound_model_has_no_error() {
    let dir = Dir::with_model();
    let (code, text) = doctor(&dir, "model");
    assert_eq!(code, 0, "{text}");
    for told in ["ok       machine", "kernels", "family Llama", "1 file of weights", "texts come back as they were"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(text.contains("\"user: Hello, who are you?<|end|>assistant: \""), "{text}");
    assert!(text.contains("an answer ends with a stop token") && text.contains("nats per token"), "{text}");
    // It is random: guessing is as good.
    assert!(text.contains("warning  forward pass"), "{text}");
    dir.done(&format!("{TRAIN} --steps 2 --out run"));
    let (code, text) = doctor(&dir, "model --adapter run/adapter");
    assert!(code == 0 && text.contains("run/adapter fits: rank "), "{text}");
    let output = dir.eraser("doctor model --json");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["findings"].as_array().unwrap().iter().all(|f| f["level"] != "error"), "{found}");
}

#[test]
fn the_built_in_model_is_sound() {
    if builtin() {
        let dir = Dir::new();
        let (code, text) = doctor(&dir, "builtin");
        assert!(code == 0 && !text.contains("error  "), "{text}");
    }
}

#[test]
fn each_fault_is_named_with_what_to_do() {
    let with = |change: &dyn Fn(&Dir)| {
        let dir = Dir::with_model();
        change(&dir);
        doctor(&dir, "model")
    };
    let replace = |dir: &Dir, file: &str, from: &str, to: &str| {
        let text = dir.text(file);
        assert!(text.contains(from), "{file} has no {from}");
        dir.write(file, &text.replace(from, to));
    };
    let config = "model/config.json";
    let (code, text) = with(&|dir| replace(dir, config, "{", "{\"clever_norm\":true,"));
    assert!(code == 0 && text.contains("warning  config") && text.contains("`clever_norm`"), "{text}");
    let (code, text) = with(&|dir| replace(dir, config, "\"model_type\":\"llama\"", "\"model_type\":\"mamba\""));
    assert!(code == 1 && text.contains("error    config") && text.contains("hint: "), "{text}");
    let (code, text) = with(&|dir| replace(dir, config, "\"num_hidden_layers\":2", "\"num_hidden_layers\":3"));
    assert!(code == 1 && text.contains("error    weights") && text.contains("is missing"), "{text}");
    let (code, text) = with(&|dir| std::fs::remove_file(dir.path("model/tokenizer.json")).unwrap());
    assert!(code == 1 && text.contains("no tokenizer.json"), "{text}");
    let (code, text) = with(&|dir| std::fs::remove_file(dir.path("model/chat_template.jinja")).unwrap());
    assert!(code == 1 && text.contains("error    chat template") && text.contains("--chat-template"), "{text}");
    let (code, text) = with(&|dir| replace(dir, "model/chat_template.jinja", "assistant: ", "<|assistant|>"));
    assert!(code == 0 && text.contains("no tokens of the tokenizer: <|assistant|>"), "{text}");
    let (code, text) = with(&|dir| replace(dir, "model/chat_template.jinja", "<|end|>", ""));
    assert!(code == 0 && text.contains("an answer ends without a special token"), "{text}");
    let (code, text) = with(&|dir| std::fs::remove_file(dir.path("model/model.safetensors")).unwrap());
    assert!(code == 1 && text.contains("error    files") && text.contains("no file of weights"), "{text}");
    let dir = Dir::with_model();
    let (code, text) = doctor(&dir, "model --adapter model");
    assert!(code == 1 && text.contains("error    adapter"), "{text}");
    assert!(dir.refused("doctor none").starts_with("exit 2"));
}

/// NaN in a weight made every figure of it NaN, and no message.
#[test]
fn weights_that_are_not_finite_are_an_error() {
    let dir = Dir::with_model();
    let path = dir.path("model/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    // The last values of the file are those of the final norm.
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let (code, text) = doctor(&dir, "model");
    assert!(code == 1 && text.contains("error"), "{text}");
}
