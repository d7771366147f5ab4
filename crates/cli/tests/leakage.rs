//! Questions that an adapter was trained on are not measured as new ones. Each test is named after what a report would
//! have said wrongly.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;

const TRAIN: &str = "train --model model --harm harm.jsonl --help-set help.jsonl --align align.jsonl --steps 2 \
                     --micro-batch 2 --grad-accum 1 --max-length 96 --templates model --out run";

/// An adapter in `run`, and a model whose weights cannot be read any more: whatever is refused now is refused before
/// them.
fn hardened() -> Dir {
    let dir = Dir::with_model();
    dir.done(TRAIN);
    dir.write("model/model.safetensors", "no weights");
    dir
}

fn eval(dir: &Dir, flags: &str) -> String {
    dir.refused(&format!("eval --model model --adapter eraser=run/adapter --max-new-tokens 2 --out e {flags}"))
}

/// Trained-on questions under the name `unseen` would show a defence that carries over, whatever it does.
#[test]
fn questions_that_were_trained_on_are_not_unseen() {
    let dir = hardened();
    let refused = eval(&dir, "--questions unseen=ask.csv");
    assert!(refused.starts_with("exit 2"), "{refused}");
    assert!(refused.contains("ask.csv: 3 of 3 questions of `unseen` were trained on; the first, `"), "{refused}");
    assert!(refused.contains("is in run/data/harm.jsonl") && refused.contains("--allow-leakage unseen"), "{refused}");
    // Questions of the align set too, in other spelling, and those that must not be refused.
    dir.write("why.txt", "WHY -- 3\nsomething else?\n");
    let refused = eval(&dir, "--questions seen=ask.csv --over-refusal benign=why.txt");
    assert!(refused.contains("why.txt: question `") && refused.contains("run/data/align.jsonl"), "{refused}");
    assert!(!dir.path("e/eval").exists());

    // Without what was trained on, or allowed by name, it goes on to the weights.
    for flags in [
        "--questions seen=ask.csv",
        "--questions unseen=ask.csv --allow-leakage unseen",
        "--questions unseen=why.txt --no-base --allow-leakage unseen",
    ] {
        let refused = eval(&dir, flags);
        let allowed = !refused.contains("trained on") || refused.contains("trained on, which was allowed");
        assert!(refused.contains("model.safetensors") && allowed, "{refused}");
    }
}

#[test]
fn a_variant_is_held_to_the_sets_of_its_run() {
    let dir = hardened();
    let manifest = dir.text("run/manifest.json").replace("\"adapter\":", "\"variants/b/adapter\":");
    dir.write("run/manifest.json", &manifest);
    std::fs::create_dir_all(dir.path("run/variants/b")).unwrap();
    std::fs::rename(dir.path("run/adapter"), dir.path("run/variants/b/adapter")).unwrap();
    let arguments = "eval --model model --adapter b=run/variants/b/adapter --questions unseen=ask.csv --out e";
    let refused = dir.refused(arguments);
    assert!(refused.contains("is in run/data/harm.jsonl"), "{refused}");
    // Other sets than those that were trained on prove nothing.
    dir.write("run/data/harm.jsonl", "{\"input\":\"a?\",\"output\":\"b.\"}\n");
    let refused = dir.refused(arguments);
    assert!(
        refused.contains("run/data/harm.jsonl holds other rows than those that it was trained on")
            && refused.contains("model.safetensors"),
        "{refused}"
    );
}

/// Seen and unseen figures of one file are the same figures.
#[test]
fn one_file_is_not_two_sets() {
    let dir = hardened();
    let refused = eval(&dir, "--questions seen=ask.csv --questions unseen=ask.csv");
    assert!(refused.starts_with("exit 2"), "{refused}");
    assert!(refused.contains("ask.csv: the question sets `seen` and `unseen` hold the same questions"), "{refused}");
    let refused = eval(&dir, "--questions seen=ask.csv --questions unseen=ask.csv --allow-leakage unseen");
    assert!(refused.contains("model.safetensors"), "{refused}");
}

#[test]
fn near_duplicates_are_told() {
    let dir = Dir::with_model();
    let long = "explain to a beginner how the bread in this village is baked in winter";
    dir.write("harm.jsonl", &(dir.text("harm.jsonl") + &format!("{{\"input\":\"{long}\",\"output\":\"how.\"}}\n")));
    dir.done(TRAIN);
    dir.write("near.txt", &format!("{long}s\nsomething else?\n"));
    let output = dir.eraser(
        "eval --model model --adapter eraser=run/adapter --questions unseen=near.txt --max-new-tokens 2 --out e",
    );
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{notes}");
    let told = "1 of 2 questions of `unseen` are nearly the same as questions of the harm set, which was trained on";
    assert!(notes.contains(told), "{notes}");
}

/// Sets from files were not compared with the questions of the evaluation, prepared ones were.
#[test]
fn a_run_on_sets_from_files_is_held_to_them() {
    let dir = hardened();
    let run = |eval: &str| {
        dir.write(
            "run.toml",
            &format!(
                "[model]\npath = 'model'\n[data]\nharm = 'harm.jsonl'\nhelp = 'help.jsonl'\nalign = 'align.jsonl'\n\
                 [train]\nsteps = 2\n[eval]\nquestions = [{{ set = 'unseen', path = 'ask.csv' }}]\n{eval}"
            ),
        );
        dir.refused("run run.toml --out r")
    };
    let refused = run("");
    assert!(refused.starts_with("exit 2"), "{refused}");
    assert!(refused.contains("3 of 3 questions of `unseen` were trained on"), "{refused}");
    assert!(refused.contains("r/data/harm.jsonl"), "{refused}");
    let refused = run("allow_leakage = ['unseen']\n");
    assert!(refused.contains("model.safetensors"), "{refused}");
}
