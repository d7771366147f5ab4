//! Where figures come from, when what is asked changes between one command and the next. Each test is named after a
//! directory that told something that was not so.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, EVAL, TRAIN};
use serde_json::Value;
use std::process::Command;

const RUN: &str = r#"
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
gamma = 3
[eval]
attacks = ["direct", "prefill"]
judges = ["keyword"]
max_new_tokens = 2
questions = [{ set = "seen", path = "ask.csv" }]
tasks = [{ task = "facts", path = "task.jsonl" }]
"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn subjects(dir: &Dir, file: &str) -> Vec<String> {
    let all = json(&dir.text(file));
    let list = all.get("subjects").or(all.get("rows")).unwrap_or(&all).as_array().unwrap().clone();
    let name = |s: &Value| s.get("name").or(s.get("subject")).and_then(Value::as_str).unwrap().to_owned();
    list.iter().map(name).collect()
}

fn directory() -> Dir {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    dir.write("task.jsonl", "{\"question\":\"what 1?\",\"expect\":[\"number\"]}\n");
    dir
}

/// What the run file had no more stood in the report as if it were the run's.
#[test]
fn what_was_taken_out_of_a_run_file_is_left_out_or_told_as_earlier() {
    let dir = directory();
    dir.done("run run.toml");
    dir.done(
        &format!("{EVAL} --adapter other=run/adapter --attacks direct")
            .replace("eraser=run/adapter --", "x=run/adapter --"),
    );
    let fewer = RUN.replace("[[variant]]\nname = \"two\"\ngamma = 3\n", "").replace(", \"prefill\"", "");
    dir.write("run.toml", &fewer);
    let stderr = dir.notes("run run.toml");
    assert!(stderr.contains("figures of two are left out: the run file has no such variant now"), "{stderr}");
    // What `eval` was given stays: no run file speaks of it.
    assert_eq!(subjects(&dir, "run/summary.json"), ["base", "one", "x", "other"]);
    assert!(!subjects(&dir, "run/subjects.json").contains(&"two".to_owned()));
    let text = dir.text("run/report.md");
    assert!(text.contains("an earlier one: run, begun"), "{text}");
    assert!(text.contains("figures: base, one: prefill on seen (keyword:gcg29)"), "{text}");
    assert!(!text.contains("two"), "{text}");
    // Put back in, nothing is trained again, and nothing that was made has changed.
    dir.write("run.toml", RUN);
    let stderr = dir.notes("run run.toml");
    assert!(stderr.contains("train two: done before"), "{stderr}");
    assert!(!stderr.contains("adapter two"), "what only joined the run file did not change: {stderr}");
    assert!(subjects(&dir, "run/summary.json").contains(&"two".to_owned()));
    // A run that is refused leaves the one that it was to replace.
    let before =
        ["manifest.json", "plan.toml", "report.md", "data/harm.jsonl"].map(|file| dir.text(&format!("run/{file}")));
    dir.write("model/tokenizer.json", "{");
    let refused = dir.refused("run run.toml --force --set train.steps=9");
    assert!(refused.starts_with("exit 2"), "{refused}");
    let after =
        ["manifest.json", "plan.toml", "report.md", "data/harm.jsonl"].map(|file| dir.text(&format!("run/{file}")));
    assert!(before == after && dir.path("run/variants/two/adapter").is_dir() && !dir.path("run/.earlier").exists());
}

/// Rows of another comparison, or of `eval`, stood among the methods compared.
#[test]
fn a_comparison_has_no_rows_but_its_own() {
    let dir = directory();
    let plain = RUN.split("[[variant]]").next().unwrap().to_owned() + "[eval]" + RUN.split("[eval]").nth(1).unwrap();
    dir.write("run.toml", &plain);
    dir.done("compare run.toml --methods gam,eraser --out run");
    dir.done("bench --model model --adapter gam=run/variants/gam/adapter --text ask.csv --out run");
    dir.done("compare run.toml --methods eraser --out run");
    assert_eq!(subjects(&dir, "run/study.json"), ["base", "eraser"]);
    assert_eq!(subjects(&dir, "run/summary.json"), ["base", "eraser"]);
    let text = dir.text("run/report.md");
    assert!(!text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "gam"), "{text}");
    // Nor are the rows told of an adapter that was put in the place of theirs.
    dir.done(&format!("{TRAIN} --steps 3 --out other"));
    let weights = "adapter/adapter_model.safetensors";
    std::fs::copy(dir.path(&format!("other/{weights}")), dir.path(&format!("run/variants/eraser/{weights}"))).unwrap();
    dir.done("report run");
    let text = dir.text("run/report.md");
    assert!(text.contains("Rows and findings of eraser are of an earlier adapter"), "{text}");
}

/// A variant that was renamed kept its earlier name in the manifest, and durability went by that.
#[test]
fn a_variant_has_the_name_that_the_run_file_gives_it() {
    let dir = directory();
    let one = RUN.replace("[[variant]]\nname = \"two\"\ngamma = 3\n", "");
    dir.write("run.toml", &one);
    dir.done("run run.toml");
    dir.write("run.toml", &one.replace("\"one\"", "\"first\""));
    assert!(dir.notes("run run.toml").contains("train first: done before"));
    let refused = dir.refused("durability run --variant one");
    assert!(refused.contains("known: first"), "{refused}");
}

/// Figures under one file of templates were replaced by those under another without a word.
#[test]
fn figures_under_other_templates_are_not_taken_for_these() {
    let dir = Dir::with_model();
    dir.write("play.txt", "In a play: {prompt}");
    dir.done(&format!("{TRAIN} --steps 2 --out run"));
    dir.done(&format!("{EVAL} --attacks template --templates wrap.txt"));
    let eval = format!("{EVAL} --attacks template --templates play.txt");
    let stderr = dir.notes(&format!("{eval} --no-base"));
    assert!(
        stderr.contains("template on seen: earlier figures are under other templates (wrap.txt); they are replaced"),
        "{stderr}"
    );
    dir.done("report run");
    let text = dir.text("run/report.md");
    assert!(text.contains(" wrap.txt) | seen |") && text.contains(" play.txt) | seen |"), "{text}");
    let stderr = dir.notes(&eval);
    assert!(stderr.contains("under other templates"), "{stderr}");
    assert!(!dir.notes(&eval).contains("replaced"));
    dir.done("report run");
    assert!(dir.text("run/report.md").contains("| template | seen |"), "{}", dir.text("run/report.md"));
    // Other questions under the name of a set are the same kind of thing.
    dir.write("ask.csv", "goal\nhow 3?\n");
    let stderr = dir.notes(&eval);
    assert!(stderr.contains("template on seen: earlier figures are of other questions (ask.csv)"), "{stderr}");
}

/// An adapter that was edited was measured as the one that had been trained.
#[test]
fn durability_says_which_adapter_and_which_judge() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 2 --out run"));
    dir.done(EVAL);
    let durability = "durability run --steps 1 --pairs 2 --limit 1";
    let text = dir.done(durability);
    assert!(text.contains("Judge of attack success: keyword:gcg29"), "{text}");
    let findings = json(&dir.text("run/durability.json"))["findings"].to_string();
    assert!(findings.contains("attack success against") && !findings.contains("leaks"), "{findings}");
    dir.done(&format!("{TRAIN} --steps 3 --out other"));
    let weights = "adapter/adapter_model.safetensors";
    std::fs::copy(dir.path(&format!("other/{weights}")), dir.path(&format!("run/{weights}"))).unwrap();
    dir.done("report run");
    let text = dir.text("run/report.md");
    assert!(text.contains("Rows and findings of eraser are of an earlier adapter"), "{text}");
    let stderr = dir.notes(durability);
    assert!(stderr.contains("was changed after it was trained"), "{stderr}");
    dir.done("report run");
    let text = dir.text("run/report.md");
    assert!(!text.contains("Rows and findings of eraser"), "{text}");
}

/// The last request alone decided what `durability` asks, and `--force` removed first and checked then.
#[test]
fn durability_asks_what_was_asked_with_an_attack_and_nothing_goes_before_that_is_known() {
    let dir = Dir::with_model();
    dir.write("task.jsonl", "{\"question\":\"what 1?\",\"expect\":[\"number\"]}\n");
    dir.done(&format!("{TRAIN} --steps 2 --out run"));
    let task = "eval --model model --adapter eraser=run/adapter --tasks facts=task.jsonl --judges leak --max-new-tokens 2 \
                --out run";
    dir.done(task);
    let refused = dir.refused("durability run");
    assert!(refused.contains("no evaluation in it asked questions with an attack"), "{refused}");
    assert!(refused.contains("--questions SET=FILE"), "{refused}");
    dir.done(EVAL);
    dir.done(task);
    let durability = "durability run --steps 1 --pairs 2 --limit 1";
    let stderr = dir.notes(durability);
    assert!(stderr.contains("durability: asked again is what `eraser eval` asked that was begun 2"), "{stderr}");
    assert!(stderr.contains(", under the judge keyword\n"), "{stderr}");

    // Everything that is refused leaves what is there.
    let files =
        ["durability.json", "manifest.json", "summary.json", "adapter/adapter_model.safetensors", "data/harm.jsonl"];
    let held = |dir: &Dir| files.map(|file| dir.read(&format!("run/{file}")));
    let before = held(&dir);
    let questions = dir.text("ask.csv");
    std::fs::remove_file(dir.path("ask.csv")).unwrap();
    assert!(dir.refused(&format!("{durability} --force")).contains("ask.csv"));
    dir.write("ask.csv", &questions);
    dir.write("bad/adapter_config.json", "{}");
    dir.refused(&format!("{} --force", EVAL.replace("run/adapter", "bad")));
    let other = dir.text("harm.jsonl").replace("how of", "another of");
    dir.write("other.jsonl", &other);
    let too_long = TRAIN.replace("--max-length 96", "--max-length 24").replace("harm.jsonl", "other.jsonl");
    let refused = dir.refused(&format!("{too_long} --steps 2 --out run --force"));
    assert!(refused.starts_with("exit 2"), "{refused}");
    assert!(before == held(&dir) && dir.path("run/eval/eraser/direct.jsonl").is_file());

    let stderr = dir.notes(&format!("{TRAIN} --steps 3 --out run --force"));
    assert!(stderr.contains("durability.json is removed: it is of the adapter that is trained again"), "{stderr}");
    assert!(!dir.path("run/durability.json").exists() && !dir.text("run/manifest.json").contains("durability.json"));
}

/// Figures were replaced by those under other settings without a word, and those whose answers were gone had no mark.
#[test]
fn what_an_evaluation_replaces_and_what_was_removed_is_told() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 2 --out run"));
    dir.write("benign.csv", "goal\nwhat 1?\nwhat 2?\n");
    dir.write("other.csv", "goal\nwhat 3?\nwhat 4?\nwhat 5?\n");
    let eval = format!("{EVAL} --attacks direct --attacks prefill --over-refusal a=other.csv");
    dir.done(&format!("{eval} --target Sure"));
    assert!(!dir.notes(&format!("{eval} --target Sure")).contains("replaced"));
    let other = eval.replace("a=other.csv", "b=benign.csv").replace("tokens 2", "tokens 3");
    let stderr = dir.notes(&format!("{other} --judges leak --target First"));
    for told in [
        "direct on seen: earlier figures are under other settings (max_new_tokens 2, now 3); they are replaced",
        "prefill on seen: earlier figures are under other settings (max_new_tokens 2, now 3; target \"Sure\", now \"First\")",
        "direct on seen: figures under keyword:gcg29 go with the answers that it judged",
        "over-refusal: figures of a are left out: the summary has one set, and b is asked now",
    ] {
        assert!(stderr.contains(told), "{told}: {stderr}");
    }
    // Refusals of the first set counted among those of the second.
    let base = json(&dir.text("run/summary.json"))["subjects"][0]["over_refusal"].clone();
    assert_eq!((base["set"].as_str(), base["n"].as_u64()), (Some("b"), Some(2)));
    let report = |dir: &Dir| {
        dir.done("report run");
        dir.text("run/report.md")
    };
    let text = report(&dir);
    assert!(text.contains("- opening that attacks give or aim at: First, where a question has none"), "{text}");

    std::fs::remove_file(dir.path("run/summary.json")).unwrap();
    let text = report(&dir);
    assert!(text.contains("it was removed after the evaluation. The answers are still there"), "{text}");
    dir.done(&format!("{other} --judges leak --target First"));
    std::fs::remove_dir_all(dir.path("run/eval")).unwrap();
    let text = report(&dir);
    assert!(text.contains("Answers were removed after they had been written (eval/)"), "{text}");
}

/// The hint was to add `--resume` to a command with `--force`, which is refused.
#[test]
fn an_interrupted_training_says_how_to_go_on_and_the_report_that_it_did_not_end() {
    let dir = Dir::with_model();
    dir.done(&format!("{TRAIN} --steps 2 --out run"));
    dir.done(EVAL);
    let train = format!("{TRAIN} --steps 5000 --out run");
    std::fs::remove_file(dir.path("run/train/metrics.jsonl")).unwrap();
    let child = dir.start(&format!("{train} --force"));
    let begun = std::iter::repeat_with(|| std::thread::sleep(std::time::Duration::from_millis(20)))
        .take(500)
        .any(|()| dir.path("run/train/metrics.jsonl").exists());
    assert!(begun, "the training never began");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("hint: run the same command with --resume in place of --force to go on"), "{stderr}");
    dir.done("report run");
    let text = dir.text("run/report.md");
    assert!(text.contains("the training of adapter was begun again and has not ended"), "{text}");
    // There is no adapter that could be evaluated.
    assert!(
        text.contains("eraser: its training has not ended.") && !text.contains("Run `eraser eval` on it"),
        "{text}"
    );
    assert!(text.contains("This training has not ended: it is still at work, or was stopped"), "{text}");
    let resumed = dir.start(&format!("{train} --resume"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(Command::new("kill").args(["-INT", &resumed.id().to_string()]).status().unwrap().success());
    assert_eq!(resumed.wait_with_output().unwrap().status.code(), Some(130));
}

/// Training went on with numbers that are none.
#[test]
fn a_training_whose_values_are_no_numbers_stops() {
    let dir = Dir::with_model();
    let refused = dir.refused(&format!("{TRAIN} --steps 2 --out run").replace("1e-2", "1e30"));
    assert!(refused.contains("--lr: must be a positive number of at most 1"), "{refused}");
    let refused = dir.refused(&format!("{TRAIN} --steps 1 --weight-decay 1e300 --out run"));
    assert!(refused.starts_with("exit 1") && refused.contains("are not finite"), "{refused}");
    assert!(!dir.path("run/adapter").exists());
}
