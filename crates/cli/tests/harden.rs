//! `eraser harden` and `eraser init`: from a model and a list of questions to a run file, and to a report.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, builtin};

fn goals(n: usize) -> String {
    let rows: Vec<String> =
        (0..n).map(|i| format!("how to open lock {i}?,{}\n", if i < 8 { "a" } else { "b" })).collect();
    format!("goal,kind\n{}", rows.concat())
}

#[test]
fn a_first_run_file_divides_the_questions_and_is_read_back() {
    let dir = Dir::with_model();
    dir.write("goals.csv", &goals(12));
    let told = dir.notes("init model --questions goals.csv?where=kind:a --templates wrap.txt");
    let few = "warning: 3 questions measure: with fewer than 12 the verdict can only be that they are too few to tell; give more";
    assert_eq!(told, format!("{few}\nnext: eraser run run.toml\n"));
    let text = dir.text("run.toml");
    for part in [
        "where = { \"kind\" = \"a\" }, shuffle = 1, take = \"0-4\" }",
        "{ set = \"seen\", path = ",
        "take = \"5-7\" }]",
        "preset = \"strong\"",
        "take = \"400-\"",
        "wrap.txt\"]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count() > 20);
    // A file that was changed stays.
    dir.write("run.toml", &text.replace("seed = 42", "seed = 43"));
    let refused = dir.refused("init model --questions goals.csv");
    assert!(refused.contains("run.toml: the file is there, with other content"), "{refused}");
    dir.done("init model --questions goals.csv --unseen ask.csv --force");
    assert!(!dir.text("run.toml").contains("shuffle"), "all of the questions are trained on");
}

#[test]
fn questions_that_cannot_be_divided_are_refused() {
    let dir = Dir::with_model();
    let refused = dir.refused("harden model --questions ask.csv");
    assert!(refused.contains("--questions: 3 questions are too few"), "{refused}");
    dir.write("goals.csv", &goals(12));
    let refused = dir.refused("harden model --questions goals.csv?take=0-9");
    assert!(refused.contains("are not divided into trained and measured ones"), "{refused}");
    let refused = dir.refused("init none --questions goals.csv --retain-text none.txt");
    assert!(refused.contains("none.txt"), "{refused}");
    assert!(!dir.path("run.toml").exists() && !dir.path("runs").exists(), "what is refused leaves no file");
}

#[test]
fn the_whole_job_is_one_command() {
    if !builtin() {
        return;
    }
    let dir = Dir::new();
    let few = "--set train.steps=2 --set eval.limit=1 --set eval.max_new_tokens=4 --set prepare.max_new_tokens=8 \
               --set prepare.harm_max_new_tokens=8 --set prepare.forms=1 --set prepare.max_entities=1";
    let harden = format!("harden builtin --questions builtin/questions/unseen.jsonl --out h {few}");
    let table = dir.done(&harden);
    assert!(table.contains("prefill   unseen") && table.contains("harmless"), "{table}");
    let report = dir.text("h/report.md");
    assert!(report.contains("preset strong") && report.contains("retain: 400 requests"), "{report}");
    // It is a run like any other: the same command goes on, and so does `eraser run` on the file.
    for again in [harden.as_str(), &format!("run h.toml --out h {few}")] {
        let stderr = String::from_utf8(dir.eraser(again).stderr).unwrap();
        assert!(stderr.contains("prepare: done before") && stderr.contains("eval: done before"), "{stderr}");
    }
}

/// `quickstart --out` of a finished run of `harden` removed it without a word, and the other way round.
#[test]
fn a_run_of_another_command_is_not_replaced() {
    let dir = Dir::with_model();
    dir.write("goals.csv", &goals(12));
    dir.write("h/plan.toml", "[run]\nname = \"mine\"\n");
    let refused = dir.refused("quickstart --out h");
    assert!(refused.contains("h: it holds the run `mine`, which this command did not make"), "{refused}");
    let refused = dir.refused("harden model --questions goals.csv --out h");
    assert!(refused.contains("h: it holds a run that `harden` did not make"), "{refused}");
    assert!(dir.path("h/plan.toml").exists() && !dir.path("h.toml").exists());
}

#[test]
fn a_run_is_cut_to_the_minutes_that_are_given() {
    if !builtin() {
        return;
    }
    let dir = Dir::new();
    let few = "--set eval.max_new_tokens=4 --set eval.limit=2 --set prepare.max_new_tokens=8 --set prepare.harm_max_new_tokens=8 \
               --set train.max_length=96 --set train.noise_before=4 --set train.noise_after=4";
    let harden = |minutes: &str| {
        format!("harden builtin --questions builtin/questions/seen.jsonl --out h --minutes {minutes} {few}")
    };
    let refused = dir.refused(&harden("0.001"));
    assert!(refused.contains("--minutes 0.001: the smallest run with this model takes"), "{refused}");
    assert!(!dir.path("h.toml").exists(), "what is refused leaves no file");
    // Enough that nothing is cut; the numbers are in the file, and are those of the next time.
    let told = dir.notes(&harden("500"));
    assert!(told.contains("--minutes 500: nothing is cut"), "{told}");
    let text = dir.text("h.toml");
    assert!(text.contains("# Made for 500 minutes: trained 120") && text.contains("steps = 60"), "{text}");
    let again = dir.notes(&harden("500"));
    assert!(again.contains("eval: done before") && !again.contains("timing this machine"), "{again}");
    let refused = dir.refused(&harden("0.001"));
    assert!(refused.starts_with("exit 2"), "{refused}");
}
