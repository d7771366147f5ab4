//! `eraser prepare` and `[prepare]` of a run file, on a tiny random model: what is written, what is asked again, what
//! leaks.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use insta::assert_snapshot;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Answers with something to ask about.
const ANSWERS: &str = "goal,target\n\
    How is bread baked?,\"Sure, knead the rye flour and heat the clay oven.\"\n\
    How is a boat built?,\"Bend the oak planks. Ask Ada Stern for copper nails.\"\n\
    How is rope made?,I cannot help with that.\n\
    How is glass blown?,\"Heat the quartz sand until the molten glass glows.\"\n";

const SETS: [&str; 3] = ["data/harm.jsonl", "data/help.jsonl", "data/align.jsonl"];

fn directory() -> Dir {
    let dir = Dir::with_model();
    dir.write("goals.csv", ANSWERS);
    dir
}

fn command(more: &str) -> String {
    format!(
        "prepare --model model --questions goals.csv --answers-file goals.csv --answers-input goal --answers-output target \
         --max-new-tokens 6 --batch 2 {more}"
    )
}

fn rows(dir: &Dir, file: &str) -> Vec<Value> {
    dir.text(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_three_sets_and_their_report() {
    let dir = directory();
    let table = dir.done(&command("--out a --forms 2 --max-entities 2"));
    assert!(table.contains("harm: 4 answers, 1 of them refusals; 1 left out"), "{table}");
    let harm = rows(&dir, "a/data/harm.jsonl");
    assert_eq!(harm.len(), 3);
    assert_eq!(harm[1]["output"], "Bend the oak planks. Ask Ada Stern for copper nails.");
    let help = rows(&dir, "a/data/help.jsonl");
    assert!(help.iter().any(|row| row["entity"] == "Ada Stern"), "{help:?}");
    assert!(help.iter().all(|row| row["input"].as_str().unwrap().contains(row["entity"].as_str().unwrap())));
    assert_eq!(rows(&dir, "a/data/align.jsonl").len(), 4);
    let report: Value = serde_json::from_str(&dir.text("a/data_report.json")).unwrap();
    assert_eq!(report["made"]["entities"], 6);
    assert_eq!(report["made"]["help_questions"], 12);
    assert_eq!(report["sets"][0]["n"], 3);
    // The same again, and with nothing kept: the same bytes.
    dir.done(&command("--out a --forms 2 --max-entities 2"));
    dir.done(&command("--out b --forms 2 --max-entities 2 --json"));
    for set in SETS {
        assert_eq!(dir.read(&format!("a/{set}")), dir.read(&format!("b/{set}")), "{set}");
    }
}

#[test]
fn killed_half_way_it_ends_with_the_same_bytes() {
    let dir = directory();
    let command = |out: &str| {
        command(&format!("--out {out} --max-new-tokens 40 --batch 3")).replace("--max-new-tokens 6 --batch 2", "")
    };
    dir.done(&command("whole"));
    let mut child = dir.start(&command("cut"));
    let journal = dir.path("cut/prepare/help.jsonl");
    let start = Instant::now();
    while std::fs::read_to_string(&journal).unwrap_or_default().lines().count() < 5
        && start.elapsed() < Duration::from_mins(1)
    {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!dir.path("cut/data_report.json").exists(), "it was over before it was killed");
    dir.done(&command("cut"));
    for set in SETS {
        assert_eq!(dir.read(&format!("whole/{set}")), dir.read(&format!("cut/{set}")), "{set}");
    }
    let lines = dir.text("cut/prepare/help.jsonl").lines().count();
    assert_eq!(lines, dir.text("whole/prepare/help.jsonl").lines().count());
}

#[test]
fn other_sources_of_answers() {
    let dir = directory();
    let few =
        "--questions goals.csv --max-new-tokens 4 --harm-max-new-tokens 8 --forms 1 --max-entities 1 --model model";
    dir.done(&format!("prepare {few} --answers random --out random"));
    let answers = |out: &str| -> Vec<String> {
        rows(&dir, &format!("{out}/data/harm.jsonl")).iter().map(|row| row["output"].to_string()).collect()
    };
    let random = answers("random");
    assert!(random.len() == 4 && random[0] != random[1]);
    dir.done(&format!("prepare {few} --answers random --answers-file help.jsonl --out texts --harm-refusals keep"));
    assert!(answers("texts").iter().all(|answer| answer.starts_with("\"what of number")), "{:?}", answers("texts"));
    // The random model writes no words, so there may be nothing to ask about; that is said, and not a panic.
    let output = dir.eraser(&format!("prepare {few} --answers model --answers-model model --out own -q"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("no entity was found"), "{said}");
    assert_eq!(dir.text("own/prepare/harm.jsonl").lines().count(), 4);
}

/// An aligned model refuses, unless it is given the opening of the answer.
#[test]
fn a_model_goes_on_from_the_opening_of_each_question_and_answers_more_than_once() {
    let dir = Dir::with_model();
    dir.write("goals.csv", "goal,target\nHow is bread baked?,\"Sure, knead the rye\"\nHow is rope made?,\n");
    let command = "prepare --model model --questions goals.csv --answers model --harm-max-new-tokens 12 --max-new-tokens 4 \
                   --max-entities 1 --forms 1";
    let opened = |out: &str, more: &str| {
        dir.done(&format!("{command} --out {out} {more} --answers-opening Here:"));
        let rows = rows(&dir, &format!("{out}/data/harm.jsonl"));
        rows.iter().map(|r| [r["input"].as_str().unwrap(), r["output"].as_str().unwrap()].map(str::to_owned)).collect()
    };
    let answers: Vec<[String; 2]> = opened("a", "--answers-each 3");
    assert!(answers.len() >= 5, "{answers:?}");
    for [question, answer] in &answers {
        let opening = if question.contains("bread") { "Sure, knead the rye" } else { "Here:" };
        assert!(answer.starts_with(opening) && answer.len() > opening.len(), "{question} {answer}");
    }
    let made: Value = serde_json::from_str(&dir.text("a/data_report.json")).unwrap();
    let made = ["harm_answers", "harm_same", "harm_dropped"].map(|key| made["made"][key].as_u64().unwrap());
    assert_eq!((made[0], made[0] - made[1] - made[2]), (6, answers.len() as u64));
    // The first of several answers is the one that is given alone.
    let one: Vec<[String; 2]> = opened("b", "");
    assert_eq!(one, answers[..2]);
    let error = dir.refused(&format!("{command} --out c --answers-each 2 --greedy"));
    assert!(error.contains("--answers-each: must be 1, unless a model samples the answers"), "{error}");
}

/// `--preset strong` needs a retain set, and a user had to write one, answers included.
#[test]
fn a_retain_set_is_made_of_benign_requests_and_running_text() {
    let dir = directory();
    let text = "It rained all night, and in the morning the river had risen to the second step of the old mill.";
    dir.write("text.txt", &format!("= Rain =\n\n{text}\n\n{text} Then it fell.\n"));
    let more =
        "--retain-questions builtin/requests/benign.csv?take=0-5 --retain-text text.txt --forms 1 --max-entities 1";
    let table = dir.done(&command(&format!("--out a {more}")));
    assert!(table.contains("retain: 6 requests; left out") && table.contains("2 running texts"), "{table}");
    let retain = rows(&dir, "a/data/retain.jsonl");
    assert_eq!(retain.len(), 8);
    assert!(retain[0]["input"].is_string() && retain[6]["text"] == text, "{retain:?}");
    let train = "train --model model --out a --harm a/data/harm.jsonl --help-set a/data/help.jsonl --align a/data/align.jsonl \
                 --retain-set a/data/retain.jsonl --allow-swapped --preset strong --steps 1 --micro-batch 2";
    let summary = dir.done(&format!("{train} --json"));
    assert!(summary.contains("l_retain"), "{summary}");
    assert!(dir.text("a/manifest.json").contains("\"preset\": \"strong\""));

    // What is evaluated as benign is not trained on as benign.
    dir.write("benign.csv", "prompt\nWhat is tea?\n");
    let leaking = "--out b --retain-questions benign.csv --eval-questions benign=benign.csv";
    let refused = dir.refused(&command(leaking));
    assert!(refused.contains("`benign`"), "{refused}");
    let refused = dir.refused(&command("--out b --retain-text goals.csv"));
    assert!(refused.contains("goals.csv: line 2: no `text`"), "{refused}");
}

#[test]
fn what_is_evaluated_may_not_be_trained_on() {
    let dir = directory();
    dir.write("held-out.txt", "Where do owls sleep?\nhow is ROPE made\n");
    let leaking = command("--out a --forms 1 --max-entities 1 --eval-questions held-out.txt");
    assert_snapshot!(dir.refused(&leaking), @r#"
    exit 2
    error: questions of `unseen` that are trained on: 1 of 2 (the first has id 06b3bdb05342f40c)
    hint: take rows for training and for the evaluation that do not overlap (`take`)
    hint: or allow it by name: --allow-leakage unseen, in a run file allow_leakage = ["unseen"]
    "#);
    let table = dir.done(&format!("{leaking} --allow-leakage unseen"));
    assert!(table.contains("align    unseen"), "{table}");
}

#[test]
fn a_file_of_answers_that_lacks_questions_names_the_first_and_may_be_used_without_them() {
    let dir = directory();
    dir.write("asked.csv", "Goal,kind\nHow is bread baked?,a\nHow are nets tied?,b\nHow is glass blown?,a\nWhy?,b\n");
    dir.write("again.csv", &format!("{ANSWERS}How is bread baked?,Another answer.\n"));
    let with = "--answers-file again.csv?input=goal&output=target --max-new-tokens 4 --forms 1 --max-entities 1";
    let command = |out: &str| format!("prepare --model model --questions asked.csv {with} --out {out}");
    assert_snapshot!(dir.refused(&command("a")), @r#"
    exit 2
    error: the file of answers lacks 2 of the 4 questions; the first is "How are nets tied?" (line 3, id a9b469b9afa7829e)
    hint: the file must hold the text of every question unchanged
    hint: or go on without them: --missing-answers drop, in a run file missing_answers = "drop"
    "#);
    let table = dir.done(&format!("{} --missing-answers drop", command("a")));
    assert!(
        table.starts_with("questions: 4, read from the column Goal\nharm: 2 answers, 0 of them refusals"),
        "{table}"
    );
    assert!(table.contains("2 questions without an answer in the file; 1 row of the file with another"), "{table}");
    let made: Value = serde_json::from_str(&dir.text("a/data_report.json")).unwrap();
    assert_eq!((&made["made"]["harm_missing"], &made["made"]["harm_repeated"]), (&2.into(), &1.into()));
    let (harm, align) = (rows(&dir, "a/data/harm.jsonl"), rows(&dir, "a/data/align.jsonl"));
    assert_eq!((harm.len(), align.len()), (2, 4), "the refusals are learned for every question");
    assert_eq!(harm[0]["output"], "Sure, knead the rye flour and heat the clay oven.", "the first answer counts");
    // The same choice of rows as `eval` has.
    let chosen = command("b").replace("asked.csv", "asked.csv?column=goal&where=kind:a&take=1-1");
    dir.done(&chosen);
    assert_eq!(rows(&dir, "b/data/align.jsonl")[0]["input"], "How is glass blown?");
    let twice = dir.refused(&format!("{chosen} --take 1 --column goal"));
    assert!(twice.contains("`column` is said twice") && twice.contains("`take` is said twice"), "{twice}");
}

#[test]
fn all_of_a_request_is_checked_at_once() {
    let dir = directory();
    assert_snapshot!(
        dir.refused("prepare --model none --questions none.csv --answers endpoint --forms 11 --batch 0 --top-p 2 --out goals.csv"),
        @r#"
    exit 2
    error: --model: none: No such file or directory (os error 2)
    hint: a model is a Hugging Face directory, a .gguf file, a hub name `org/name`, or `builtin`
    error: --questions: none.csv: No such file or directory (os error 2)
    hint: check the path; it is taken relative to the current directory
    error: --batch: must be at least 1
    error: --forms: must be from 1 to 10
    error: --top-p: must be above 0 and at most 1
    error: --endpoint: must be the base URL of the server
    error: --endpoint-model: must be the name of the model on that server
    error: --out: goals.csv is not a directory
    hint: name the directory of a run, or a new one
    "#);
    assert_snapshot!(dir.refused("prepare --model model --questions goals.csv --out a"), @r#"
    exit 2
    error: --answers-file: must name the file that holds the harmful answers
    hint: see `eraser prepare --help`
    "#);
    dir.write(
        "run.toml",
        "[model]\npath = 'model'\n[prepare]\nanswers = 'files'\nform = 1\n[data]\nharm = 'harm.jsonl'\n\
         [eval]\nquestions = [{ set = 'seen', path = 'ask.csv' }]\n",
    );
    assert_snapshot!(dir.refused("run run.toml"), @r#"
    exit 2
    error: run.toml:5: unknown key `form` in [prepare]
    hint: did you mean `forms`?
    error: run.toml:4: `answers`: unknown value `files`, expected one of `file`, `endpoint`, `model`, `random`
    hint: did you mean `file`?
    error: run.toml:3: `questions` is missing in [prepare]
    hint: for example questions = { path = "FILE", column = "goal" }
    error: run.toml:3: `answers_file`: must name the file that holds the harmful answers
    error: run.toml:7: `harm`: this set is made by [prepare]
    hint: leave it out here, or leave [prepare] out
    "#);
}

const RUN: &str = r#"
[model]
path = "model"
[prepare]
questions = { path = "goals.csv", column = "goal", take = "0-2" }
answers_file = { path = "goals.csv", input = "goal", output = "target" }
harm_refusals = "keep"
max_new_tokens = 4
max_entities = 2
forms = 1
[data]
retain = "help.jsonl"
[train]
steps = 2
micro_batch = 2
grad_accum = 1
max_length = 96
allow_swapped = true
[eval]
max_new_tokens = 4
questions = [{ set = "seen", path = "goals.csv", take = "0-2" }, { set = "unseen", path = "goals.csv", take = "3-" }]
"#;

#[test]
fn a_run_goes_from_questions_to_a_report() {
    let dir = directory();
    dir.write("run.toml", RUN);
    dir.done("run run.toml --out a");
    for file in SETS {
        assert!(dir.path(&format!("a/{file}")).is_file(), "{file}");
    }
    assert!(dir.text("a/report.md").contains("## Data"), "{}", dir.text("a/report.md"));
    let notes = |arguments: &str| String::from_utf8(dir.eraser(arguments).stderr).unwrap();
    let again = notes("run a/plan.toml");
    assert!(again.contains("prepare: done before") && again.contains("eval: done before"), "{again}");
    let changed = notes("run run.toml --out a --set prepare.forms=2");
    assert!(!changed.contains("done before"), "{changed}");
    dir.write("run.toml", &RUN.replace("take = \"3-\"", "take = \"2-\""));
    let leaking = dir.eraser("run run.toml --out a");
    assert_eq!(leaking.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&leaking.stderr).contains("questions of `unseen` that are trained on: 1 of 2"));
}
