//! What a report says of a directory whose files were changed, replaced or removed, and what the next command makes of
//! them. Each test is named after a figure that was shown and was not so.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, EVAL, TRAIN};
use serde_json::Value;

const DURABILITY: &str = "durability run --steps 1 --pairs 2 --limit 1";

fn trained() -> Dir {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 2 --out run"));
    dir
}

fn report(dir: &Dir) -> String {
    dir.done("report run");
    dir.text("run/report.md")
}

/// An adapter from elsewhere took the name of the run's own, whose figures were then called those of an earlier one.
#[test]
fn the_name_of_the_runs_adapter_is_not_for_another_one() {
    let dir = trained();
    dir.done(EVAL);
    dir.done(&format!("{TRAIN} --steps 3 --out other"));
    let bench = "bench --model model --adapter eraser=other/adapter --text t=ask.csv --out run";
    for other in [EVAL.replace("run/adapter", "other/adapter"), bench.to_owned()] {
        let refused = dir.refused(&other);
        assert!(refused.contains("--adapter: in this run `eraser` is the adapter run/adapter, not"), "{refused}");
        assert!(refused.contains("give the other one a name of its own"), "{refused}");
    }
    let text = report(&dir);
    assert!(!text.contains("earlier adapter"), "{text}");
    dir.done(&bench.replace("eraser=", "other="));
    dir.done(EVAL);
    assert!(!report(&dir).contains("earlier adapter"));
}

/// A success rate that was changed by hand, inside its interval, stood in the report and went into later summaries.
#[test]
fn figures_that_were_edited_are_told_and_left_out() {
    let dir = trained();
    dir.done(EVAL);
    let summary = dir.text("run/summary.json");
    let edited = summary.replacen("\"asr\": 1.0", "\"asr\": 0.99", 1).replacen("\"asr\": 0.0", "\"asr\": 0.01", 1);
    assert!(edited != summary, "{summary}");
    dir.write("run/summary.json", &edited);
    assert!(report(&dir).contains("`summary.json` was changed after it had been written"));
    let stderr = dir.notes(&(EVAL.replace("seen=", "other=") + " --allow-leakage other"));
    let told =
        "summary.json was changed after it had been written: it is made again from the answers to what is asked now";
    assert!(stderr.contains(told), "{stderr}");
    assert!(!report(&dir).contains("`summary.json` was changed"));
    // The answers are still there: their figures come back without asking anything.
    dir.done(EVAL);
    let rows = |text: &str| serde_json::from_str::<Value>(text).unwrap()["subjects"][1]["attacks"].clone();
    let found = rows(&dir.text("run/summary.json"));
    let seen: Vec<&Value> = found.as_array().unwrap().iter().filter(|row| row["set"] == "seen").collect();
    assert_eq!(seen, rows(&summary).as_array().unwrap().iter().collect::<Vec<_>>());
}

/// A report from before went on to say that the defence held while the adapter was trained again.
#[test]
fn a_report_that_is_there_follows_what_is_done() {
    let dir = trained();
    dir.done(EVAL);
    let text = report(&dir);
    assert!(!text.contains("not evaluated since it was trained"), "{text}");
    dir.done(&format!("{TRAIN} --steps 3 --out run --force"));
    assert!(dir.text("run/report.md").contains("not evaluated since it was trained"));
    dir.done(EVAL);
    assert!(!dir.text("run/report.md").contains("not evaluated since it was trained"));
    // What was refused leaves the report as it was.
    let before = dir.text("run/report.md");
    dir.refused(&EVAL.replace("ask.csv", "none.csv"));
    assert_eq!(dir.text("run/report.md"), before);
}

/// Rows named neither model nor questions; of a run made verb by verb the adapter was called unknown; files that were
/// changed or removed were shown as they were.
#[test]
fn rows_of_durability_say_what_they_are_of() {
    let dir = trained();
    let eval = EVAL.replace("eraser=run", "mine=run");
    dir.done(&eval);
    dir.done(DURABILITY);
    let text = report(&dir);
    let section = text.split("## Durability").nth(1).unwrap().split("\n## ").next().unwrap();
    for told in [
        "- model: model (",
        "- subjects: mine (adapter ",
        "- attacks: direct, prefill",
        "- questions: seen = ask.csv, from the column goal (",
        "- opening that attacks give or aim at: ",
        "- judges: keyword",
        "- only the first: 1 of each file",
        "- fine-tuning: 1 step, learning rate of the variant; relearning on at most 2 harm pairs",
        "| mine | as trained |",
    ] {
        assert!(section.contains(told), "{told}: {section}");
    }
    assert!(!section.contains("unknown") && !section.contains("earlier adapter"), "{section}");

    let answers = "run/durability/mine/eval/merged/direct.jsonl";
    let before = dir.text(answers);
    dir.write(answers, &before.replace("\"response\":\"", "\"response\":\"x"));
    assert!(
        report(&dir).contains("Answers that rows come from were changed later (durability/mine/eval/merged/direct")
    );
    let stderr = dir.notes(DURABILITY);
    assert!(stderr.contains("merged/direct.jsonl was changed after it had been written: it is made again"), "{stderr}");
    assert_eq!(dir.text(answers), before);

    let file = dir.text("run/durability.json");
    dir.write("run/durability.json", &file.replacen("\"n\": 1", "\"n\": 9", 1));
    assert!(report(&dir).contains("`durability.json` was changed after it had been written"));
    std::fs::remove_file(dir.path("run/durability.json")).unwrap();
    assert!(report(&dir).contains("Durability was measured, and `durability.json` was removed"));
    dir.write("run/durability.json", &file);

    // One that did not end left the rows of the one before it without a word.
    let manifest = dir.text("run/manifest.json");
    let mut begun: Value = serde_json::from_str(&manifest).unwrap();
    begun["artefacts"]["durability.json"]["ended"] = Value::Null;
    dir.write("run/manifest.json", &begun.to_string());
    assert!(report(&dir).contains("The last `eraser durability` has not ended"));
    dir.write("run/manifest.json", &manifest);

    // With another name in the evaluation, the rows of the old name belong to no subject.
    let stderr = dir.notes(&format!("{DURABILITY} --variant mine --max-new-tokens 3"));
    assert!(!stderr.contains("left out"), "{stderr}");
}

const TWO: &str = r#"
[run]
dir = "run"
[model]
path = "model"
[data]
harm = "harm.jsonl"
help = "help.jsonl"
align = "align.jsonl"
[train]
steps = 2
micro_batch = 2
grad_accum = 1
max_length = 96
templates = "model"
[[variant]]
name = "one"
[[variant]]
name = "two"
preset = "paper"
gamma = 3
steps = 2
micro_batch = 2
grad_accum = 1
templates = "model"
[eval]
attacks = ["direct", "template"]
templates = ["a.txt"]
judges = ["keyword"]
max_new_tokens = 2
questions = [{ set = "seen", path = "ask.csv" }]
"#;

/// The rows of one variant went when another was measured; an evaluation without templates decided what is asked.
#[test]
fn variants_are_measured_one_after_the_other_and_under_the_templates_of_the_run() {
    let dir = Dir::with_model();
    dir.write("a.txt", "Listen: {prompt} Now!");
    dir.write("run.toml", TWO);
    dir.done("run run.toml");
    let names = |dir: &Dir| -> Vec<String> {
        let file: Value = serde_json::from_str(&dir.text("run/durability.json")).unwrap();
        let mut names: Vec<String> =
            file["rows"].as_array().unwrap().iter().map(|row| row["subject"].as_str().unwrap().to_owned()).collect();
        names.dedup();
        names
    };
    dir.done(&(EVAL.replace("eraser=run", "one=run").replace("seen=", "plain=") + " --allow-leakage plain"));
    let stderr = dir.notes(&format!("{DURABILITY} --variant one"));
    assert!(stderr.contains("asked again is what `eraser run` asked"), "{stderr}");
    assert!(dir.path("run/durability/one/eval/merged/template.jsonl").exists());
    dir.done(&format!("{DURABILITY} --variant two"));
    assert_eq!(names(&dir), ["base", "one", "two"]);
    assert!(!report(&dir).contains("unknown ("));
    // Of other questions, the rows would not be in one table.
    let stderr = dir.notes(&format!("{DURABILITY} --variant two --max-new-tokens 3"));
    assert!(stderr.contains("rows of one are left out: they were measured in another way"), "{stderr}");
    assert_eq!(names(&dir), ["base", "two"]);

    // Answers that were removed or changed are asked again by the run itself.
    std::fs::remove_file(dir.path("run/eval/two/direct.jsonl")).unwrap();
    let stderr = dir.notes("run run.toml");
    assert!(
        stderr.contains("eval/two/direct.jsonl was removed after it had been written: it is made again"),
        "{stderr}"
    );
    assert!(dir.path("run/eval/two/direct.jsonl").exists());
    assert!(dir.notes("run run.toml").contains("eval: done before"));
    // The settings, and the preset that they began as.
    let text = report(&dir);
    assert!(text.contains("- two: Method eraser, preset paper, with the preset but "), "{text}");
    // A question that joins is a reason to evaluate again, which is told.
    dir.write("more.csv", "goal\nwhat else?\n");
    dir.write(
        "run.toml",
        &TWO.replace("path = \"ask.csv\" }", "path = \"ask.csv\" }, { set = \"new\", path = \"more.csv\" }"),
    );
    let stderr = dir.notes("run run.toml");
    assert!(stderr.contains("summary.json is made again, because these are new: questions new"), "{stderr}");
}

/// What was allowed, or could not be known, of the questions and the training was on stderr only.
#[test]
fn what_was_trained_on_and_asked_is_in_the_report() {
    let dir = trained();
    dir.write("benign.csv", "goal\nwhat 1?\nwhat 9?\n");
    dir.write("twice.csv", "goal\nhow 0?\nHow 0\nwho 3?\n");
    let eval = "eval --model model --adapter eraser=run/adapter --max-new-tokens 2 --out run --allow-leakage unseen \
                --questions unseen=twice.csv --over-refusal benign=benign.csv";
    dir.done(eval);
    let text = report(&dir);
    for told in [
        "1 of 2 questions of `unseen` were trained on, which was allowed",
        "1 of 2 questions of `benign` are in the help set, which was trained on",
        "twice.csv: 1 row of `unseen` repeats an earlier question; each question is asked once",
        "Method eraser, with the published settings but ",
        "Rows: align 8, harm 8, help 8.",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    // Durability trains on what the adapter was trained on, or not at all.
    let harm = dir.text("run/data/harm.jsonl");
    dir.write("run/data/harm.jsonl", &harm.replace("of number", "of the number"));
    let refused = dir.refused(DURABILITY);
    assert!(refused.contains("holds other rows than those that the adapter was trained on"), "{refused}");
    let stderr = dir.notes(&format!("{EVAL} --allow-leakage seen"));
    assert!(stderr.contains("whether its training saw these questions is unknown"), "{stderr}");
    assert!(report(&dir).contains("eraser: whether its training saw these questions is unknown"));
    dir.write("run/data/harm.jsonl", &harm);

    // An adapter that began from another one has seen what that one saw.
    let second = "train --model model --harm other.jsonl --help-set help.jsonl --align others.jsonl --micro-batch 2 \
                  --grad-accum 1 --max-length 96 --templates model --steps 1 --init-adapter run/adapter --out second";
    dir.write("other.jsonl", "{\"input\":\"other?\",\"output\":\"yes it is\"}\n");
    dir.write("others.jsonl", "{\"input\":\"other?\",\"output\":\"I cannot say.\"}\n");
    dir.done(second);
    let eval = "eval --model model --adapter eraser=second/adapter --max-new-tokens 2 --out second --questions ";
    let refused = dir.refused(&format!("{eval} unseen=ask.csv"));
    assert!(refused.contains("3 of 3 questions of `unseen` were trained on"), "{refused}");
    dir.done(&format!("{eval} new=twice.csv --allow-leakage new"));
    dir.done("report second");
    assert!(dir.text("second/report.md").contains("It began from another adapter, run/adapter, and not from the base"));
    // The last adapter was changed after its training.
    let config = dir.text("second/adapter/adapter_config.json");
    dir.write("second/adapter/adapter_config.json", &config.replace("\"lora_alpha\": 16", "\"lora_alpha\": 17"));
    dir.done(&format!("{eval} new=twice.csv --allow-leakage new"));
    dir.done("report second");
    assert!(dir.text("second/report.md").contains("An adapter was changed after its training had written it"));
}

/// A killed evaluation left answers that became figures of the next request, which had not asked for them.
#[test]
fn answers_of_work_that_did_not_end_are_no_figures_of_the_next() {
    let dir = trained();
    dir.done(&format!("{EVAL} --limit 2"));
    let manifest = dir.text("run/manifest.json");
    let before = dir.text("run/eval/base/direct.jsonl");
    // As a killed one leaves it: other settings on record, no end, and answers of all three questions.
    dir.done(EVAL);
    let mut killed: Value = serde_json::from_str(&dir.text("run/manifest.json")).unwrap();
    killed["artefacts"]["summary.json"]["ended"] = Value::Null;
    let earlier: Value = serde_json::from_str(&manifest).unwrap();
    for key in ["requests", "figures", "results"] {
        killed[key] = earlier[key].clone();
    }
    assert!(dir.text("run/eval/base/direct.jsonl") != before);
    dir.write("run/manifest.json", &killed.to_string());
    let other =
        "eval --model model --adapter eraser=run/adapter --questions new=benign.csv --max-new-tokens 2 --out run";
    dir.write("benign.csv", "goal\nwho 1?\n");
    let stderr = dir.notes(other);
    assert!(stderr.contains("left by work that did not end, and removed: eval/base/direct.jsonl"), "{stderr}");
    let rows: Value = serde_json::from_str(&dir.text("run/summary.json")).unwrap();
    let rows = rows["subjects"][0]["attacks"].as_array().unwrap().clone();
    assert!(rows.iter().all(|row| row["set"] != "seen" || row["n"] == 2), "{rows:?}");
}
