//! `eraser train`, `export` and `chat` on a tiny random model: files, resuming, determinism.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, TRAIN};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::Command;

const SETS: &str = "--model model --harm harm.jsonl --help-set help.jsonl --align align.jsonl --max-length 256 --noise-before 4 \
     --noise-after 2 --gamma 9 --lr 1e-2";
const ADAPTER: &str = "adapter/adapter_model.safetensors";

fn train(more: &str) -> String {
    format!("train {SETS} --micro-batch 2 --grad-accum 2 {more}")
}

/// Samples of at most `length` tokens: those of the plain template have 160.
fn within(length: usize, more: &str) -> String {
    train(more)
        .replace("--max-length 256", &format!("--max-length {length}"))
        .replace("--noise-before 4 --noise-after 2", "")
        .replace("  ", " ")
}

fn json_lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_metrics_line_a_step_and_a_summary() {
    let dir = Dir::with_model();
    let lines = json_lines(&dir.done(&train("--steps 3 --out a --json")));
    assert_eq!(lines.len(), 4);
    for (i, line) in lines[..3].iter().enumerate() {
        assert_eq!(line["step"], i + 1);
        for key in ["epoch", "lr", "loss", "nll_harm", "l_harm", "l_help", "l_align", "grad_norm", "tokens", "seconds"]
        {
            assert!(line[key].is_number(), "{key}: {line}");
        }
    }
    for key in ["tokens_per_s", "tokens", "seconds", "threads", "steps", "capped_share"] {
        assert!(lines[3][key].is_number(), "{key}: {}", lines[3]);
    }
    assert!(dir.path("a/adapter/adapter_config.json").is_file());
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let dir = Dir::with_model();
    dir.done(&train("--steps 3 --out a"));
    dir.done(&train("--steps 3 --out b"));
    for file in [ADAPTER, "adapter/adapter_config.json"] {
        assert_eq!(dir.read(&format!("a/{file}")), dir.read(&format!("b/{file}")), "{file}");
    }
    dir.done(&train("--steps 3 --out c --seed 1"));
    assert_ne!(dir.read(&format!("a/{ADAPTER}")), dir.read(&format!("c/{ADAPTER}")));
}

#[test]
fn a_finished_run_is_not_overwritten() {
    let dir = Dir::with_model();
    dir.done(&train("--steps 2 --out a"));
    let before = dir.read(&format!("a/{ADAPTER}"));
    insta::assert_snapshot!(dir.refused(&train("--steps 2 --out a --seed 1")), @r#"
    exit 2
    error: --out: a holds a finished training run
    hint: continue it with --resume, start again with --force, or name another directory
    "#);
    assert_eq!(before, dir.read(&format!("a/{ADAPTER}")));
    dir.done(&train("--steps 2 --out a --resume"));
    assert_eq!(before, dir.read(&format!("a/{ADAPTER}")));
    dir.done(&train("--steps 2 --out a --seed 1 --force"));
    assert_ne!(before, dir.read(&format!("a/{ADAPTER}")));
}

/// It was removed, and then not found.
#[test]
fn the_adapter_that_training_begins_from_is_not_removed() {
    let dir = Dir::with_model();
    dir.done(&train("--steps 1 --out a"));
    let again = train("--steps 1 --out a --init-adapter a/adapter --force");
    let error = dir.refused(&again);
    assert!(error.contains("--force: a holds the adapter that training begins from"), "{error}");
    assert!(dir.path(&format!("a/{ADAPTER}")).is_file());
    dir.done(&again.replace("--out a", "--out b"));
}

#[test]
fn killed_anywhere_and_resumed_gives_the_same_bytes() {
    let dir = Dir::with_model();
    let go = |more: &str| train(&format!("--steps 24 --checkpoint-every 5 --json {more}"));
    dir.done(&go("--out whole"));
    for lines in [1, 5, 13] {
        let out = format!("--out killed{lines}");
        let mut child = dir.start(&go(&out));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(stdout.lines().take(lines).count(), lines);
        child.kill().unwrap();
        child.wait().unwrap();
        dir.done(&go(&format!("{out} --resume")));
        assert_eq!(dir.read(&format!("whole/{ADAPTER}")), dir.read(&format!("killed{lines}/{ADAPTER}")), "{lines}");
        let steps: Vec<Value> = json_lines(&dir.text(&format!("killed{lines}/train/metrics.jsonl")))
            .iter()
            .map(|m| m["step"].clone())
            .collect();
        assert_eq!(steps, (1..=24).map(Value::from).collect::<Vec<_>>());
    }
}

/// The record of the adapter became one of work that had not ended, and the report said so.
#[test]
fn a_refused_resume_leaves_the_manifest_as_it_was() {
    let dir = Dir::with_model();
    dir.done(&train("--steps 2 --out a"));
    let before = dir.text("a/manifest.json");
    let refused = dir.refused(&train("--steps 2 --out a --resume --seed 7"));
    assert!(refused.contains("seed was 42, is 7"), "{refused}");
    assert_eq!(before, dir.text("a/manifest.json"));
}

#[test]
fn rounds_are_the_same_whether_resumed_or_not() {
    let dir = Dir::with_model();
    let go = |more: &str| train(&format!("--steps 3 --rounds 2 --round-questions 2 --round-tokens 4 --json {more}"));
    dir.done(&go("--out whole"));
    let tally: Value = serde_json::from_str(&dir.text("whole/train/rounds/1/tally.json")).unwrap();
    let count = |key: &str| tally[key].as_u64().unwrap();
    assert_eq!(count("answers"), 6, "two questions, each asked in three ways");
    let parts = ["refused", "degenerate", "incoherent", "known", "added"].map(count);
    assert_eq!(parts.iter().sum::<u64>(), 6);
    let mut child = dir.start(&go("--out killed"));
    // In the second training, after what the model said was kept.
    let stdout = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(stdout.lines().take(5).count(), 5);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(dir.path("killed/train/rounds/1/harm.jsonl").is_file());
    // Three trainings of 3 steps were told as one of 3, and a run that holds rounds only was no run.
    let report = |run: &str| {
        dir.done(&format!("report {run}"));
        dir.text(&format!("{run}/report.md"))
    };
    let text = report("killed");
    assert!(text.contains("This training has not ended") && text.contains("Done so far: 3 "), "{text}");
    let text = report("whole");
    assert!(text.contains("Trained in rounds: 3, 3 and 3 optimiser steps, a number for each of 3 trainings"), "{text}");
    dir.done(&go("--out killed --resume"));
    for file in [ADAPTER, "train/rounds/1/harm.jsonl", "train/rounds/2/harm.jsonl"] {
        assert_eq!(dir.read(&format!("whole/{file}")), dir.read(&format!("killed/{file}")), "{file}");
    }
}

#[cfg(unix)]
#[test]
fn interrupted_saves_and_exits_with_130() {
    let dir = Dir::with_model();
    let go = |more: &str| train(&format!("--steps 400 --checkpoint-every 0 --json {more}"));
    let mut child = dir.start(&go("--out a"));
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    stdout.next().unwrap().unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let done = 1 + stdout.count();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let hints: Vec<&str> = stderr.lines().filter(|l| l.starts_with("hint: ")).collect();
    assert_eq!(hints, ["hint: run the same command with --resume to go on"], "{stderr}");
    assert!(done < 400, "the run was not interrupted");

    let rest = json_lines(&dir.done(&go("--out a --resume")));
    assert_eq!(rest[0]["step"], done + 1);
    dir.done(&go("--out whole"));
    assert_eq!(dir.read(&format!("whole/{ADAPTER}")), dir.read(&format!("a/{ADAPTER}")));
}

#[test]
fn a_merged_export_answers_as_the_adapter_does() {
    let dir = Dir::with_model();
    dir.done(&train("--steps 5 --out a --targets all-linear"));
    let ask = |more: &str| {
        let answer = dir.done(&format!("chat --prompt how-0? --greedy --max-new-tokens 12 --json {more}"));
        json_lines(&answer)
    };
    let adapted = ask("--model model --adapter a/adapter");
    for key in ["model", "subject", "prompt", "response", "tokens", "stopped", "seconds"] {
        assert!(!adapted[0][key].is_null(), "{key}");
    }
    dir.done("export --model model --adapter a/adapter --out merged");
    assert_eq!(ask("--model merged")[0]["response"], adapted[0]["response"]);
    dir.done("export --model model --adapter a/adapter --out again --adapter-only");
    assert_eq!(ask("--model model --adapter again")[0]["response"], adapted[0]["response"]);
    let both = ask("--model model --adapter a/adapter --compare");
    assert_eq!((both.len(), &both[1]["response"]), (2, &adapted[0]["response"]));
    assert_eq!(both[0]["response"], ask("--model model")[0]["response"]);
    dir.done("export --model model --adapter a/adapter --out half --dtype bf16");
    let size = |name: &str| dir.read(&format!("{name}/model.safetensors")).len();
    assert!(size("half") < size("merged") * 6 / 10);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = Dir::with_model();
    let mut child = dir.start(&train("--steps 4 --out a --json"));
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(dir.path(&format!("a/{ADAPTER}")).is_file());
}

#[test]
fn resuming_nothing_is_an_error() {
    let dir = Dir::with_model();
    insta::assert_snapshot!(dir.refused(&train("--steps 2 --out a --resume")), @r"
    exit 2
    error: --resume: a holds no training run to go on with
    hint: leave --resume out to begin one
    ");
    assert!(!dir.path("a").exists());
    dir.done(&train("--steps 2 --out a"));
    std::fs::remove_dir_all(dir.path("a/train/checkpoints")).unwrap();
    let before = dir.read(&format!("a/{ADAPTER}"));
    let refused = dir.refused(&train("--steps 2 --out a --resume"));
    assert!(refused.contains("holds no training run"), "{refused}");
    assert_eq!(before, dir.read(&format!("a/{ADAPTER}")), "a finished adapter is not trained again from the start");
}

/// Each was accepted, and the rest of the run trained something else than its beginning.
#[test]
fn a_run_is_not_resumed_with_another_template_or_base_dtype_or_set() {
    let dir = Dir::with_model();
    dir.write("template.txt", "Q: {} A:");
    dir.write("chat.jinja", "{% for m in messages %}<{{ m.content }}>{% endfor %}");
    let start = "--steps 2 --out a --templates template.txt --chat-template chat.jinja";
    dir.done(&train(start));
    let resume = |more: &str| {
        let refused = dir.refused(&train(&format!("{start} --resume {more}")));
        let (error, hint) = refused.split_once("hint: ").unwrap();
        assert!(hint.starts_with("continue with the settings that the run began with"), "{refused}");
        let (_, changes) = error.split_once("the run began with other settings: ").unwrap();
        changes.trim().to_owned()
    };
    assert_eq!(resume("--base-dtype bf16"), "base_dtype was f32, is bf16 blocks");
    assert_eq!(resume("--alpha 8 --rank 4"), "rank was 8, is 4; alpha was 16.0, is 8.0");
    dir.write("chat.jinja", "{% for m in messages %}[{{ m.content }}]{% endfor %}");
    let changed = resume("");
    assert!(changed.starts_with("chat_template was hash ") && changed.contains(", is hash "), "{changed}");
    dir.write("chat.jinja", "{% for m in messages %}<{{ m.content }}>{% endfor %}");
    dir.write("template.txt", "Question: {} Answer:");
    let changed = resume("");
    assert!(changed.starts_with("the text of the prompt template was hash "), "{changed}");
    dir.write("template.txt", "Q: {} A:");
    let help = dir.text("help.jsonl");
    dir.write("help.jsonl", &help.replace("number 3", "number 9"));
    let changed = resume("");
    assert!(changed.starts_with("the help set was 8 rows with hash "), "{changed}");
    dir.write("help.jsonl", &help);
    dir.done(&train(&format!("{start} --resume")));
}

#[test]
fn more_steps_are_taken_up_where_the_learning_rate_allows_it() {
    let dir = Dir::with_model();
    let constant = |more: &str| train(&format!("--schedule constant {more}"));
    dir.done(&constant("--steps 4 --out whole"));
    dir.done(&constant("--steps 2 --out a"));
    dir.done(&constant("--steps 4 --out a --resume"));
    assert_eq!(dir.read(&format!("whole/{ADAPTER}")), dir.read(&format!("a/{ADAPTER}")));
    let horizons = |out: &str| -> Value {
        let summary: Value = serde_json::from_str(&dir.text(&format!("{out}/train/summary.json"))).unwrap();
        summary["horizons"].clone()
    };
    assert_eq!(horizons("whole"), serde_json::json!([{"from": 0, "steps": 4}]));
    assert_eq!(horizons("a"), serde_json::json!([{"from": 0, "steps": 2}, {"from": 2, "steps": 4}]));
    insta::assert_snapshot!(dir.refused(&constant("--steps 3 --out a --resume")), @r"
    exit 2
    error: steps: 3 are fewer than the 4 that are done
    hint: ask for at least 4, or start again in another directory or with --force
    ");

    dir.done(&train("--steps 2 --out b"));
    insta::assert_snapshot!(dir.refused(&train("--steps 4 --out b --resume")), @r"
    exit 2
    error: steps was 2, is 4: the learning rate depends on it
    hint: --extend continues from step 2 with the learning rate of a run of 4 steps
    hint: with --schedule constant, from the first step on, the number of steps can be changed freely
    ");
    dir.done(&train("--steps 4 --out b --resume --extend"));
    assert_eq!(horizons("b"), serde_json::json!([{"from": 0, "steps": 2}, {"from": 2, "steps": 4}]));
    let rates: Vec<f64> =
        json_lines(&dir.text("b/train/metrics.jsonl")).iter().map(|m| m["lr"].as_f64().unwrap()).collect();
    let cosine = |step: f64, of: f64| 0.005 * (1.0 + (std::f64::consts::PI * step / of).cos());
    let expected = [cosine(0.0, 2.0), cosine(1.0, 2.0), cosine(2.0, 4.0), cosine(3.0, 4.0)];
    assert!(rates.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{rates:?}");
}

/// Nothing supervised read as full forgetting: `nll_harm` 0, exit 0.
#[test]
fn training_in_which_nothing_is_supervised_does_not_start() {
    let dir = Dir::with_model();
    let go = |more: &str| within(10, &format!("--steps 2 --out a {more}"));
    insta::assert_snapshot!(dir.refused(&go("--templates model")), @r"
    exit 2
    error: the harm set (--harm harm.jsonl): not one of 8 samples has a token of its answer within the first 10 tokens: nothing would be learnt
    hint: raise --max-length (in a run file max_length), or shorten the questions or the prompt template
    ");
    assert!(!dir.path("a").exists(), "a refused run leaves nothing");
    // A term without weight may see nothing.
    let refused = dir.refused(&go("--templates model --harm-weight 0"));
    assert!(refused.contains("the help set (--help-set help.jsonl)"), "{refused}");
}

#[test]
fn cut_and_empty_samples_are_counted_and_told() {
    let dir = Dir::with_model();
    // A prompt of the model's template fits, one of the plain form does not, and noise makes some too long.
    let output = dir.eraser(&within(96, "--steps 4 --out a --noise-before 90 --noise-after 0"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let note = "the harm set (--harm harm.jsonl): rows longer than 96 tokens (max_length): 8 of 8, the first at harm.jsonl: line 1; \
                they are cut; samples that the cut leaves without a token of the answer: 8 of 16";
    assert!(stderr.contains(note), "{stderr}");
    let summary: Value = serde_json::from_str(&dir.text("a/train/summary.json")).unwrap();
    let harm = &summary["samples"]["harm"];
    let count = |key: &str| harm[key].as_u64().unwrap();
    assert_eq!(count("samples"), 4 * 4);
    assert!(count("cut") >= count("empty") && count("empty") >= 8 && count("empty") < 16, "{harm}");
    assert!(stderr.contains(" of 16 samples were cut"), "{stderr}");
    assert_eq!(summary["samples"]["help"], serde_json::json!({"samples": 16, "cut": 8, "empty": 8}));
    for line in json_lines(&dir.text("a/train/metrics.jsonl")) {
        // The mean of what there is: about ln 257 for a random model, not half of it.
        assert!(line["nll_harm"].is_null() || line["nll_harm"].as_f64().unwrap() > 4.0, "{line}");
    }
    dir.done(&within(96, "--steps 2 --out b --templates model --noise off --overlong refuse"));
}

#[test]
fn a_row_that_is_too_long_is_found_before_the_first_step() {
    let dir = Dir::with_model();
    let (help, long) = (dir.text("help.jsonl"), "x".repeat(300_000));
    // A blank line: the row is the ninth, on the tenth line.
    dir.write("help.jsonl", &format!("{help}\n{{\"input\":\"what 8?\",\"output\":\"{long}\"}}\n"));
    let go = |length| within(length, "--steps 1 --out a --templates model --noise off --overlong refuse");
    insta::assert_snapshot!(dir.refused(&go(96)), @r"
    exit 2
    error: the help set (--help-set help.jsonl): rows longer than 96 tokens (max_length): 1 of 9, the first at help.jsonl: line 10
    hint: shorten or remove the rows, or raise --max-length up to what the model takes
    hint: --overlong cut trains on what fits, and counts what was cut
    ");
    // The model takes 512: longer rows failed at the step that met them.
    let refused = dir.refused(&go(100_000));
    assert!(refused.contains("longer than 512 tokens (the most that the model takes)"), "{refused}");
    dir.done(&within(100_000, "--steps 9 --out a --templates model --noise off"));
    let summary: Value = serde_json::from_str(&dir.text("a/train/summary.json")).unwrap();
    assert_eq!(summary["samples"]["help"], serde_json::json!({"samples": 36, "cut": 4, "empty": 0}));
}

#[test]
fn swapped_sets_are_refused_unless_allowed() {
    let dir = Dir::with_model();
    let go = |more: &str| {
        train(&format!("--steps 1 {more}"))
            .replace("harm.jsonl", "x")
            .replace("align.jsonl", "harm.jsonl")
            .replace(" x ", " align.jsonl ")
    };
    insta::assert_snapshot!(dir.refused(&go("--out a")), @r"
    exit 2
    error: the harm set (--harm align.jsonl): most of its answers are refusals: 8 of 8
    error: the align set (--align harm.jsonl): most of its answers are not refusals: 8 of 8
    hint: check that the sets are not swapped: the harm set should hold answers that help, the align set refusals
    hint: to train on them as they are, give --allow-swapped (in a run file allow_swapped = true)
    ");
    dir.done(&go("--out a --allow-swapped"));
    // GAM does not read the align set, nor gamma and noise; random answers are not those of the harm set.
    let gam = train("--steps 1 --out b --method gam").replace("align.jsonl", "harm.jsonl");
    dir.done(&gam.replace("--gamma 9", "").replace("--noise-before 4 --noise-after 2", "").replace("  ", " "));
    dir.done(&train("--steps 1 --out c --harm-answers random").replace("--harm harm.jsonl", "--harm align.jsonl"));
}

#[test]
fn gamma_auto_is_what_the_base_model_has_and_a_margin() {
    let dir = Dir::with_model();
    let go = |more: &str| train(&format!("--templates model --noise off {more}")).replace("--gamma 9", "--gamma auto");
    let summary =
        |out: &str| -> Value { serde_json::from_str(&dir.text(&format!("{out}/train/summary.json"))).unwrap() };
    dir.done(&go("--steps 4 --out whole --gamma-margin 0.5"));
    let threshold = summary("whole")["threshold"].clone();
    let number = |value: &Value| value.as_f64().unwrap();
    let nll = number(&threshold["measured"]["nll"]);
    assert_eq!(threshold["measured"]["samples"], 8);
    assert!((number(&threshold["gamma"]) - nll - 0.5).abs() < 1e-9, "{threshold}");
    // The first step starts from the base model.
    let one = "--templates model --noise off --steps 1 --out first --lora-dropout 0";
    dir.done(&train(one).replace("--grad-accum 2", "--grad-accum 4"));
    let first = json_lines(&dir.text("first/train/metrics.jsonl"));
    assert!((number(&first[0]["nll_harm"]) - nll).abs() < 0.01, "{nll} {}", first[0]);
    assert_eq!(summary("whole")["nothing_unlearned"], false);

    // A resumed run keeps it: at step 2 the model has another loss than the base.
    let constant = "--schedule constant --gamma-margin 0.5";
    dir.done(&go(&format!("--steps 2 --out a {constant}")));
    dir.done(&go(&format!("--steps 4 --out a --resume {constant}")));
    dir.done(&go(&format!("--steps 4 --out b {constant}")));
    assert_eq!(summary("a")["threshold"], threshold);
    assert_eq!(dir.read(&format!("a/{ADAPTER}")), dir.read(&format!("b/{ADAPTER}")));
}

#[test]
fn a_hinge_that_is_closed_from_the_first_step_unlearned_nothing() {
    let dir = Dir::with_model();
    let output = dir.eraser(
        &train("--steps 9 --out a --early-stop 1 --help-weight 0 --align-weight 0").replace("--gamma 9", "--gamma 1.8"),
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("nothing was unlearned: "), "{stderr}");
    let summary: Value = serde_json::from_str(&dir.text("a/train/summary.json")).unwrap();
    assert_eq!((&summary["nothing_unlearned"], &summary["capped_share"]), (&true.into(), &1.0.into()));
    assert_eq!(summary["steps"], 2, "`--early-stop 1` stops");
}

/// A GGUF file was no adapter to some verbs, and its figures were of an unknown adapter in the report.
#[test]
fn a_gguf_adapter_is_taken_wherever_an_adapter_is() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 2 --out a"));
    dir.done("export --model model --adapter a/adapter --out run/lora.gguf --format gguf --adapter-only");
    let eval = |adapter: &str, out: &str| {
        let asked = "--questions seen=ask.csv --max-new-tokens 2 --no-base";
        dir.done(&format!("eval --model model --adapter {adapter} {asked} --out {out}"));
        let rows = dir.text(&format!("{out}/eval/lora/direct.jsonl"));
        json_lines(&rows).iter().map(|row| row["response"].clone()).collect::<Vec<Value>>()
    };
    let answers = eval("run/lora.gguf", "run");
    assert!(!answers.is_empty());
    assert_eq!(answers, eval("lora=a/adapter", "peft"));
    dir.done("report run");
    let report = dir.text("run/report.md");
    assert!(!report.contains("Whether the figures are of the adapter in this directory is unknown"), "{report}");
    // Another file under its name would take its figures.
    dir.done("export --model model --adapter a/adapter --out other.gguf --format gguf --adapter-only");
    let mut other = dir.read("other.gguf");
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(dir.path("other.gguf"), other).unwrap();
    let other = "eval --model model --adapter lora=other.gguf --questions seen=ask.csv --no-base --out run";
    let refused = dir.refused(other);
    assert!(refused.contains("in this run `lora` is the adapter run/lora.gguf"), "{refused}");

    dir.done(&format!("{TRAIN} --steps 1 --out more --init-adapter run/lora.gguf"));
    dir.done("export --model model --adapter run/lora.gguf --out peft-again --adapter-only");
    assert!(dir.text("peft-again/adapter_config.json").contains("q_proj"));
    let fits = String::from_utf8(dir.eraser("doctor model --adapter run/lora.gguf").stdout).unwrap();
    assert!(fits.contains("run/lora.gguf fits: rank "), "{fits}");
    let refused = dir.refused(&format!("{TRAIN} --steps 1 --out never --init-adapter ask.csv"));
    assert!(refused.contains("--init-adapter: ask.csv is no directory and no GGUF file"), "{refused}");
}

#[test]
fn a_gguf_export_answers_as_the_adapter_does() {
    let dir = Dir::with_model();
    // The tiny tokenizer splits nothing, which has no name in llama.cpp; split as GPT-2 does it has one.
    let tokenizer = dir.text("model/tokenizer.json");
    assert!(tokenizer.contains("\"use_regex\":false"), "{tokenizer}");
    dir.write("model/tokenizer.json", &tokenizer.replace("\"use_regex\":false", "\"use_regex\":true"));
    dir.done(&train("--steps 5 --out a --targets all-linear"));
    let ask = |more: &str| {
        let answer = dir.done(&format!("chat --prompt how-0? --greedy --max-new-tokens 12 --json {more}"));
        json_lines(&answer)[0]["response"].clone()
    };
    let adapted = ask("--model model --adapter a/adapter");
    dir.done("export --model model --adapter a/adapter --out new/hardened.gguf --format gguf");
    assert_eq!(ask("--model new/hardened.gguf"), adapted);
    dir.done("export --model model --adapter a/adapter --out new/lora.gguf --format gguf --adapter-only");
    assert_eq!(ask("--model model --adapter new/lora.gguf"), adapted);
    dir.done("export --model model --out new/base.gguf --format gguf");
    assert_eq!(ask("--model new/base.gguf --adapter new/lora.gguf"), adapted);
    assert_eq!(ask("--model new/base.gguf"), ask("--model model"));
    dir.done("export --model model --adapter a/adapter --out new/small.gguf --format gguf --dtype q4_k_m");
    assert!(dir.read("new/small.gguf").len() < dir.read("new/hardened.gguf").len() / 2);
    let bytes = dir.read("new/small.gguf");
    let small = "export --model model --adapter a/adapter --out new/small.gguf --format gguf --dtype q4_k_m --force";
    // Rows of 32 and 48 numbers: which types they got was not said.
    insta::assert_snapshot!(dir.done(small), @r"
    new/small.gguf
      Q5_0: 11 tensors: attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up; in place of Q4_K, since rows of 32 are no multiple of 256
      F32: 5 tensors: attn_norm, ffn_norm, output_norm
      Q8_0: 2 tensors: token_embd, attn_v; in place of Q6_K, since rows of 32 are no multiple of 256
      F16: 1 tensor: ffn_down; in place of Q4_K, since rows of 48 are no multiple of 256
      F16: 1 tensor: ffn_down; in place of Q6_K, since rows of 48 are no multiple of 256
    ");
    let told: Value = serde_json::from_str(&dir.done(&format!("{small} --json"))).unwrap();
    assert_eq!(told["types"][0]["in_place_of"]["block"], 256, "{told}");
    assert!(bytes == dir.read("new/small.gguf"), "other bytes the second time");
    let export = "export --model model --adapter a/adapter";
    insta::assert_snapshot!(dir.refused(&format!("{export} --out new/small.gguf --format gguf")), @r"
    exit 2
    error: --out: new/small.gguf is there already
    hint: name another one, or write over it by --force
    ");
    // A directory that was made for an export that failed looked like one.
    let refused = dir.refused("export --model model --adapter ask.csv --out deep/new");
    assert!(refused.starts_with("exit 2") && !dir.path("deep").exists(), "{refused}");
    dir.write("model/tokenizer.json", &tokenizer);
    let refused = dir.refused(&format!("{export} --out deep/new/a.gguf --format gguf"));
    assert!(refused.contains("has no name in llama.cpp") && !dir.path("deep").exists(), "{refused}");
    // A device was replaced by a file.
    let refused = dir.refused(&format!("{export} --out /dev/null --format gguf --force"));
    assert!(refused.contains("/dev/null is no regular file"), "{refused}");
    insta::assert_snapshot!(dir.refused(&format!("{export} --out new --format gguf")), @r"
    exit 2
    error: --out: new is a directory
    hint: GGUF is one file: --out new/hardened.gguf
    ");
    insta::assert_snapshot!(dir.refused(&format!("{export} --out q --dtype q8_0")), @r"
    exit 2
    error: --dtype: q8_0 is a type of GGUF files
    hint: add --format gguf, or choose f32, f16 or bf16
    ");
}
