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
    assert!(code == 1 && text.contains("error    files") && text.contains("there is no model.safetensors"), "{text}");
    let dir = Dir::with_model();
    let (code, text) = doctor(&dir, "model --adapter model");
    assert!(code == 1 && text.contains("error    adapter"), "{text}");
    assert!(dir.refused("doctor none").starts_with("exit 2"));
}

/// Exit code and lines for a model whose files were changed.
fn changed(change: &dyn Fn(&Dir), arguments: &str) -> (i32, String) {
    let dir = Dir::with_model();
    change(&dir);
    doctor(&dir, arguments)
}

/// A file of the model with `from` replaced.
fn replaced(file: &str, from: &str, to: &str) -> impl Fn(&Dir) {
    move |dir| {
        let text = dir.text(file);
        assert!(text.contains(from), "{file} has no {from}");
        dir.write(file, &text.replace(from, to));
    }
}

/// They were told under `weights`, and hid what was wrong with the weights.
#[test]
fn faults_of_tokenizer_and_template_are_told_as_theirs() {
    let text = |file: &str, text: &str| {
        let (file, text) = (file.to_owned(), text.to_owned());
        move |dir: &Dir| drop(dir.write(&file, &text))
    };
    let (code, told) = changed(&text("model/tokenizer.json", "{"), "model");
    assert!(code == 1 && told.contains("error    tokenizer  "), "{told}");
    assert!(told.contains("ok       weights    held as f32") && !told.contains("error    weights"), "{told}");
    let (code, told) = changed(&text("model/chat_template.jinja", "{% if %}"), "model");
    assert!(code == 1 && told.contains("error    chat template  "), "{told}");
    assert!(told.contains("ok       weights") && !told.contains("error    weights"), "{told}");
    // One fault was told twice.
    let (code, told) = changed(&text("model/chat_template.jinja", "{{ raise_exception('no') }}"), "model");
    assert!(code == 1 && told.matches("error  ").count() == 1, "{told}");
    // An id that the embedding has no row for was told for every text.
    let (code, told) = changed(&replaced("model/tokenizer.json", "\"a\":97,", "\"a\":997,"), "model");
    assert!(code == 1 && told.matches("error    tokenizer").count() == 1, "{told}");
    assert!(told.contains("a sentence, lines of code: the text holds the token"), "{told}");
    let both = |dir: &Dir| {
        dir.write("model/tokenizer.json", "{");
        replaced("model/config.json", "\"num_hidden_layers\":2", "\"num_hidden_layers\":3")(dir);
    };
    let (_, told) = changed(&both, "model");
    assert!(told.contains("error    tokenizer  ") && told.contains("error    weights    "), "{told}");
    let ends = replaced("model/config.json", "\"eos_token_id\":256", "\"eos_token_id\":999");
    let (code, told) = changed(&ends, "model");
    assert!(code == 1 && told.contains("config.json: `eos_token_id` 999 is beyond the vocabulary of 257"), "{told}");
}

/// A file of the configuration that says something else than the weights, or too little, was taken without a word.
#[test]
fn what_the_configuration_says_besides_the_weights_is_told() {
    let config = "model/config.json";
    let (code, told) = changed(&replaced(config, "\"model_type\":\"llama\",", ""), "model");
    assert!(code == 0 && told.contains("warning  config         config.json has no `model_type`"), "{told}");
    let says = "{\"quantization_config\":{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true},";
    let (code, told) = changed(&replaced(config, "{", says), "model");
    assert!(
        code == 0 && told.contains("warning  weights        model: `quantization_config` says bitsandbytes"),
        "{told}"
    );
    let (code, told) = changed(&replaced(config, "LlamaForCausalLM", "LlamaForSequenceClassification"), "model");
    assert!(code == 1 && told.contains("this class has no head that writes text"), "{told}");
    let (code, told) = changed(&|_| (), "model --think-end </thought>");
    assert!(code == 0 && told.contains("warning  chat template  "), "{told}");
    let named = "{\"eos_token\":\"<|nothing|>\"}";
    let (_, nothing) = changed(&|dir| drop(dir.write("model/tokenizer_config.json", named)), "model");
    assert!(nothing.contains("warning  tokenizer      `eos_token` \"<|nothing|>\" is no token"), "{nothing}");
    assert!(told.contains("the end of thoughts \"</thought>\" is neither in it nor in the vocabulary"), "{told}");
}

/// An adapter of alpha 0 was exported for llama.cpp, which applies it in full.
#[test]
fn an_adapter_without_effect_is_told_and_not_written_for_llama_cpp() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 1 --out run"));
    let config = dir.text("run/adapter/adapter_config.json");
    assert!(config.contains("\"lora_alpha\": 16"), "{config}");
    for (alpha, told) in
        [("0", "`lora_alpha` is 0: the adapter changes nothing"), ("-8", "is subtracted from the base")]
    {
        dir.write(
            "run/adapter/adapter_config.json",
            &config.replace("\"lora_alpha\": 16", &format!("\"lora_alpha\": {alpha}")),
        );
        let (code, text) = doctor(&dir, "model --adapter run/adapter");
        assert!(code == 0 && text.contains("warning  adapter") && text.contains(told), "{text}");
        let refused = dir.refused("export -m model -a run/adapter -o new/a.gguf --format gguf --adapter-only");
        assert!(
            refused.starts_with("exit 2") && refused.contains(&format!("`lora_alpha` {alpha} cannot be written")),
            "{refused}"
        );
        assert!(!dir.path("new").exists(), "an empty directory is left");
        dir.done("export -m model -a run/adapter -o peft --adapter-only --force");
    }
}

/// NaN in a weight made every figure of it NaN, and no message; then the message named a type as the reason.
#[test]
fn weights_that_are_not_finite_are_an_error_that_names_the_tensor() {
    let dir = Dir::with_model();
    let path = dir.path("model/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    // The last values of the file are those of the final norm.
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let (code, text) = doctor(&dir, "model");
    assert!(code == 1 && text.contains("error    forward pass"), "{text}");
    assert!(text.contains("tensor `model.norm.weight` holds values that are not finite"), "{text}");
    assert!(!text.contains("--compute"), "{text}");
    // Chat answered nothing, and an export wrote it or advised another type.
    let said = dir.notes("chat --model model --prompt hi --max-new-tokens 2");
    assert!(said.contains("the network computes NaN") && said.contains("eraser doctor"), "{said}");
    // Split as GPT-2 does the tokenizer has a name in llama.cpp.
    replaced("model/tokenizer.json", "\"use_regex\":false", "\"use_regex\":true")(&dir);
    for kind in ["--out new/hf --dtype f16", "--out new/a.gguf --format gguf --dtype f32"] {
        let refused = dir.refused(&format!("export --model model {kind}"));
        assert!(refused.contains("it holds the value NaN") && refused.contains("eraser doctor"), "{kind}: {refused}");
        assert!(!refused.contains("write f32") && !dir.path("new").exists(), "{kind}: {refused}");
    }
}

/// Such a weight is infinite in 16 bits, and was written.
#[test]
fn a_weight_that_is_too_large_for_sixteen_bits_is_not_written_in_them() {
    let dir = Dir::with_model();
    let path = dir.path("model/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&1e5f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let refused = dir.refused("export --model model --out half --dtype f16");
    assert!(refused.contains("tensor `model.norm.weight`: the value 100000 is too large for f16"), "{refused}");
    assert!(!dir.path("half").exists(), "an empty directory is left");
    dir.done("export --model model --out whole --dtype bf16");
}

/// The directory above the model was told to be without files.
#[test]
fn a_model_in_a_directory_of_the_one_that_was_named_is_pointed_to() {
    let dir = Dir::with_model();
    let (code, text) = doctor(&dir, ".");
    assert!(code == 1 && text.contains("hint: the model is in a directory of it: pass ./model"), "{text}");
    let marked = [&b"\xef\xbb\xbf"[..], &dir.read("model/config.json")].concat();
    std::fs::write(dir.path("model/config.json"), marked).unwrap();
    let (_, text) = doctor(&dir, "model");
    assert!(text.contains("begins with a byte-order mark"), "{text}");
}
