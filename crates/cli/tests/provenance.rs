//! No figure without its model: what a run directory holds is told only of what made it. Each test is named after a
//! report that said what was not so.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, tiny};
use serde_json::Value;

const TRAIN: &str = "train --model model --harm harm.jsonl --help-set help.jsonl --align align.jsonl \
                     --micro-batch 2 --grad-accum 1 --max-length 96 --lr 1e-2 --templates model";
const EVAL: &str =
    "eval --model model --adapter eraser=run/adapter --questions seen=ask.csv --max-new-tokens 2 --out run";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn manifest(dir: &Dir) -> Value {
    json(&dir.text("run/manifest.json"))["artefacts"].clone()
}

/// The rows of attacks of a subject in run/summary.json.
fn rows(dir: &Dir, subject: &str) -> Vec<Value> {
    let summary = json(&dir.text("run/summary.json"));
    let found = summary["subjects"].as_array().unwrap().iter().find(|s| s["name"] == subject).cloned();
    found.unwrap()["attacks"].as_array().unwrap().clone()
}

/// The report of run, made now.
fn report(dir: &Dir) -> String {
    dir.done("report run");
    dir.text("run/report.md")
}

#[test]
fn every_verb_records_what_made_its_artefact() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 3 --out run"));
    dir.done(EVAL);
    let records = manifest(&dir);
    let adapter = &records["adapter"];
    assert_eq!((adapter["verb"].as_str(), adapter["seed"].as_u64()), (Some("train"), Some(42)));
    assert_eq!(adapter["options"]["train"]["gamma"].as_f64(), Some(1.8));
    for input in ["model", "options", "data/harm.jsonl", "data/help.jsonl", "data/align.jsonl"] {
        assert_eq!(adapter["inputs"][input].as_str().map(str::len), Some(64), "{input}");
    }
    assert!(adapter["files"]["adapter/adapter_model.safetensors"].is_string());
    assert!(adapter["fingerprint"].is_string() && adapter["ended"].is_string());
    assert_eq!(records["summary.json"]["verb"], "eval");
    // The sets that it was trained on are there for the report and for durability.
    assert!(dir.path("run/data/harm.jsonl").is_file());
    let subjects = json(&dir.text("run/subjects.json"));
    assert_eq!(subjects[0]["settings"]["steps"], 3);
}

#[test]
fn a_run_made_verb_by_verb_can_be_measured_for_durability() {
    let dir = Dir::with_model();
    assert!(dir.refused("durability run").contains("there is no such directory"));
    dir.write("empty/notes.txt", "");
    assert!(dir.refused("durability empty").contains("no adapter was trained in it"));
    dir.done(&format!("{TRAIN} --steps 3 --out run"));
    assert!(dir.refused("durability run").contains("no evaluation was done in it"));
    dir.done(EVAL);
    let text = dir.done("durability run --steps 1 --pairs 2 --limit 1");
    assert!(text.contains("as trained") && text.contains("Q4_0"), "{text}");
    assert!(dir.path("run/durability.json").is_file());
}

/// The record had the rank of the preset, which weights that are trained in full have not, and was refused.
#[test]
fn weights_trained_in_full_under_a_preset_can_be_measured_for_durability() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --preset strong --full --targets down --layers 1 --steps 1 --out run"));
    dir.done(EVAL);
    let text = dir.done("durability run --steps 1 --pairs 2 --limit 1");
    assert!(text.contains("as trained"), "{text}");
    let attacker = json(&dir.text("run/durability/eraser/fine-tuned/adapter/adapter_config.json"));
    assert_eq!((&attacker["r"], &attacker["rank_pattern"]), (&8.into(), &serde_json::json!({})));
}

/// Two trainings at once destroyed the run while both exited with 0.
#[test]
fn one_training_at_a_time_writes_into_a_directory() {
    let dir = Dir::with_model();
    let mut first = dir.start(&format!("{TRAIN} --steps 2000 --out run"));
    let held = std::iter::repeat_with(|| std::thread::sleep(std::time::Duration::from_millis(20)))
        .take(500)
        .any(|()| dir.path("run/train/metrics.jsonl").exists());
    assert!(held, "the first training never began");
    // Without a flag, the hint was to give one of these, which were refused in turn.
    for flag in ["--force", "--resume", ""] {
        let refused = dir.refused(&format!("{TRAIN} --steps 2000 --out run {flag}"));
        assert!(
            refused.starts_with("exit 2")
                && refused.contains("another eraser process is working in it")
                && !refused.contains("continue it with --resume"),
            "{refused}"
        );
    }
    first.kill().unwrap();
    first.wait().unwrap();
}

/// The sets under a finished adapter were replaced, and the report told of the new rows as those it was trained on.
#[test]
fn sets_that_an_adapter_was_trained_on_are_not_replaced_unasked() {
    let dir = Dir::with_model();
    let answer = |i: usize| format!("{{\"input\":\"how {i}?\",\"output\":\"Put copper wire into the glass lamp.\"}}\n");
    dir.write("answers.jsonl", &(0..3).map(answer).collect::<String>());
    let prepare = "prepare --model model --questions ask.csv --answers-file answers.jsonl --max-new-tokens 4 \
                   --harm-refusals keep --align-answered keep --out run";
    dir.done(prepare);
    dir.done(&format!(
        "{} --steps 3 --allow-swapped --out run",
        TRAIN
            .replace("harm.jsonl", "run/data/harm.jsonl")
            .replace("help.jsonl", "run/data/help.jsonl")
            .replace("align.jsonl", "run/data/align.jsonl")
    ));
    dir.done(prepare);
    let refused = dir.refused(&format!("{prepare} --take 1"));
    assert!(refused.contains("adapter was trained on the sets that are in it"), "{refused}");
    dir.done(&format!("{prepare} --take 1 --force"));
}

/// Another set of the same name in `data/` would make the record a lie.
#[test]
fn a_training_on_other_sets_than_those_of_the_directory_is_refused() {
    let dir = Dir::with_model();
    dir.write("run/data/harm.jsonl", "{\"input\":\"a?\",\"output\":\"b.\"}\n");
    let refused = dir.refused(&format!("{TRAIN} --steps 3 --out run"));
    assert!(refused.contains("holds another set than the one to train on"), "{refused}");
    dir.done(&format!("{TRAIN} --steps 3 --out run --force"));
    assert_eq!(dir.text("run/data/harm.jsonl").lines().count(), 8);
}

/// A later evaluation of one attack dropped the figures of earlier ones, whose answers were there.
#[test]
fn a_later_evaluation_keeps_the_figures_of_earlier_attacks() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 3 --out run"));
    dir.done(&format!("{EVAL} --attacks template --template wrap.txt"));
    dir.done(&format!("{EVAL} --attacks direct"));
    // Each figure has the options of the evaluation that made it.
    let all = json(&dir.text("run/manifest.json"));
    let templates = |figure: &str| {
        let request = all["figures"][figure].to_string();
        all["requests"][request]["options"]["eval"]["templates"].as_array().unwrap().len()
    };
    let [template, direct] = ["template", "direct"].map(|a| templates(&format!("attack/base/{a}/seen/keyword:gcg29")));
    assert_eq!((template, direct), (1, 0));
    let text = report(&dir);
    assert!(text.contains("The figures come from 2 requests"), "{text}");
    assert!(text.contains("base, eraser: template on seen (keyword:gcg29)"), "{text}");
    for subject in ["base", "eraser"] {
        let found: Vec<String> =
            rows(&dir, subject).iter().map(|row| row["attack"].as_str().unwrap().to_owned()).collect();
        assert!(found.iter().any(|a| a.starts_with("template")) && found.contains(&"direct".into()), "{found:?}");
    }
}

/// `bench` of one model and `eval` of another into one directory: both appeared as "base".
#[test]
fn two_models_never_share_a_name() {
    let dir = Dir::with_model();
    tiny::write(&dir.path("other"));
    let tokenizer = dir.text("other/tokenizer_config.json").replace('{', "{\"other\": 1, ");
    dir.write("other/tokenizer_config.json", &tokenizer);
    let config = dir.text("other/config.json").replace("1e-05", "2e-05").replace("1e-5", "2e-5");
    dir.write("other/config.json", &config);
    dir.write("text.txt", "One two three four five six.");
    dir.done("eval --model model --questions unseen=ask.csv --max-new-tokens 2 --out run");
    let refused = dir.refused("bench --model other --text text.txt --out run");
    assert!(refused.starts_with("exit 2") && refused.contains("`base`"), "{refused}");
    let refused = dir.refused("eval --model other --questions unseen=ask.csv --max-new-tokens 2 --out run");
    assert!(refused.starts_with("exit 2") && refused.contains("`base`"), "{refused}");
}

/// f32 scores were reported for bf16: how the weights are held was in no key.
#[test]
fn answers_of_one_type_of_weights_are_not_taken_for_another() {
    let dir = Dir::with_model();
    dir.write("text.txt", "One two three four five six.");
    let scored = |dtype: &str| {
        let flags = format!("bench --model model --text text.txt --base-dtype {dtype} --out {dtype} --json");
        json(&dir.done(&flags))["subjects"][0]["fingerprint"].as_str().unwrap().to_owned()
    };
    assert_ne!(scored("f32"), scored("bf16"));
}

/// Trained, evaluated, trained again for a few steps: the report said that the defence held.
#[test]
fn figures_of_an_earlier_adapter_are_not_told_of_the_present_one() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 3 --out run"));
    dir.done(EVAL);
    let before = dir.done("report run");
    assert!(before.contains("report.html"));
    assert!(!dir.text("run/report.md").contains("not evaluated"), "{}", dir.text("run/report.md"));
    dir.done(&format!("{TRAIN} --steps 5 --out run --force"));
    let text = report(&dir);
    assert!(text.contains("not evaluated since it was trained"), "{text}");
    assert!(!text.contains("the defence held"), "{text}");
    // An evaluation of the base alone took the subject out of subjects.json, and with it the warning.
    dir.done("eval --model model --questions seen=ask.csv --max-new-tokens 2 --out run");
    let text = report(&dir);
    assert!(text.contains("not evaluated since it was trained"), "{text}");
}

/// Answers of 2 tokens were set against the base's of 3, and the report told the difference as the adapter's.
#[test]
fn answers_under_other_settings_are_not_compared() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 3 --out run"));
    dir.done(EVAL);
    let change = |dir: &Dir| rows(dir, "eraser")[0]["asr_change"].clone();
    assert!(change(&dir).is_object());
    dir.done(&format!("{} --no-base", EVAL.replace("--max-new-tokens 2", "--max-new-tokens 3")));
    assert!(change(&dir).is_null(), "{}", change(&dir));
    let text = report(&dir);
    assert!(text.contains("Not compared with the base"), "{text}");
}

/// An adapter that was changed by hand and then evaluated was told for ever not to have been.
#[test]
fn an_adapter_that_was_changed_and_then_evaluated_has_its_figures() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 3 --out run"));
    dir.done(&format!("{TRAIN} --steps 5 --out other"));
    let weights = "adapter/adapter_model.safetensors";
    std::fs::copy(dir.path(&format!("other/{weights}")), dir.path(&format!("run/{weights}"))).unwrap();
    let told = |dir: &Dir| report(dir).contains("not evaluated since it was trained");
    dir.done(EVAL);
    assert!(!told(&dir), "{}", dir.text("run/report.md"));
    std::fs::write(dir.path(&format!("run/{weights}")), "others").unwrap();
    assert!(told(&dir), "{}", dir.text("run/report.md"));
}
