//! `eraser compare` and `eraser sweep` on a tiny random model, methods in `eraser train`: files, what is done again,
//! errors.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use serde_json::Value;

const RUN: &str = r#"
[model]
path = "model"
[data]
harm = "harm.jsonl"
help = "help.jsonl"
align = "align.jsonl"
retain = "help.jsonl"
[train]
steps = 3
micro_batch = 2
grad_accum = 1
max_length = 256
noise_before = 4
noise_after = 2
gamma = 9
[eval]
attacks = ["direct", "template"]
templates = ["a.txt", "b.txt"]
max_new_tokens = 3
questions = [{ set = "seen", path = "ask.csv", take = "0-0" }, { set = "unseen", path = "ask.csv", take = "1-1" }]
tasks = [{ task = "facts", path = "task.jsonl" }, { task = "procedures", path = "task.jsonl" }]
over_refusal = { set = "benign", path = "ask.csv" }
allow_leakage = ["seen", "unseen", "benign"]
"#;

fn directory() -> Dir {
    let dir = Dir::with_model();
    dir.write("run.toml", RUN);
    dir.write("a.txt", "Listen: {prompt} Now!");
    dir.write("b.txt", "In a play: {prompt}");
    dir.write("task.jsonl", "{\"question\":\"what 1?\",\"expect\":[\"number\"]}\n");
    dir
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn names(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["subject"].as_str().unwrap()).collect()
}

/// The methods that others compare with were names that the tool did not know.
#[test]
fn the_baselines_of_the_field_stand_beside_eraser() {
    let dir = directory();
    let all = "grad-ascent,grad-diff,npo,simnpo,wga,satimp,safe-unlearning,dpo,undial,ce-u,pdu,rmu,circuit-breakers,lat,\
               eraser";
    let run = json(&dir.done(&format!("compare run.toml --methods {all} --json")));
    let found = names(&run["study"]["rows"]);
    assert_eq!(found, ["base"].into_iter().chain(all.split(',')).collect::<Vec<_>>());
    for name in all.split(',').filter(|name| *name != "eraser") {
        let metrics = dir.text(&format!("runs/run-compare/variants/{name}/train/metrics.jsonl"));
        let last = json(metrics.lines().last().unwrap());
        // What answers cost is not computed where the loss looks at hidden states only.
        let of_states = ["rmu", "circuit-breakers"].contains(&name);
        assert!(last["l_harm"].as_f64().is_some_and(f64::is_finite), "{name}: {last}");
        assert_eq!(last["nll_harm"].is_number(), !of_states, "{name}: {last}");
    }
    let error = dir.refused("train --model model --out x --harm harm.jsonl --method grad-diff --beta 2 --steps 1");
    assert!(error.contains("--beta: method `grad-diff` does not use it"), "{error}");
    assert!(error.contains("npo, simnpo, wga, safe-unlearning, dpo, undial"), "{error}");
}

/// `train --method npo --gamma 3 --noise on` trained as without these flags, and said nothing.
#[test]
fn an_option_that_the_method_does_not_use_is_an_error() {
    let dir = directory();
    let error = dir.refused(
        "train --model model --out x --harm harm.jsonl --help-set help.jsonl --method npo --gamma 3 --noise on --steps 1",
    );
    insta::assert_snapshot!(error, @r#"
    exit 2
    error: --gamma: method `npo` does not use it
    error: --noise: method `npo` does not use it
    hint: leave it out, or train with a method that uses it: eraser
    "#);
    let train = "train --model model --out x --harm harm.jsonl --help-set help.jsonl --align align.jsonl --steps 1";
    let error = dir.refused(&format!("{train} --full --rank 4"));
    insta::assert_snapshot!(error, @r#"
    exit 2
    error: --rank: weights that are trained in full have no low rank
    hint: leave it out, or leave out `full`
    "#);
    // What a run file says for all methods is not for each of them; what it says of one is.
    dir.write("run.toml", &RUN.replace("[train]", "[method.npo]\ngamma = 3\n[train]"));
    insta::assert_snapshot!(dir.refused("compare run.toml --methods npo,eraser"), @r#"
    exit 2
    error: run.toml:10: `gamma`: method `npo` does not use it
    hint: leave it out, or train with a method that uses it: eraser
    "#);
    dir.write("run.toml", &RUN.replace("[train]", "[train]\nmethod = \"npo\"\nnoise_kind = \"text\""));
    insta::assert_snapshot!(dir.refused("plan run.toml"), @r#"
    exit 2
    error: run.toml:18: `gamma`: method `npo` does not use it
    error: run.toml:16: `noise_before`: method `npo` does not use it
    error: run.toml:17: `noise_after`: method `npo` does not use it
    error: run.toml:11: `noise_kind`: method `npo` does not use it
    hint: leave it out, or train with a method that uses it: eraser
    "#);
}

/// `compare --methods npo,npo` said that two variants of the run file have one name, at a line without variants.
#[test]
fn a_method_that_is_named_twice_is_the_commands_fault() {
    let dir = directory();
    insta::assert_snapshot!(dir.refused("compare run.toml --methods npo,eraser,npo"), @r#"
    exit 2
    error: --methods: `npo` is named twice
    hint: name each method once; variants of one method are tables [[variant]] of the run file
    "#);
}

#[test]
fn each_method_tells_what_it_is_made_of() {
    let dir = Dir::new();
    let text = dir.done("methods");
    for line in [
        "eraser  (arXiv 2404.05880; lr 2e-5)",
        "npo  (arXiv 2404.05868; lr 1e-5, beta 0.1)",
        "-20.000 mean log sigma(0.1 (sum NLL - that of the base))",
        "0.125 x harm",
        "-mean(p^5 (1 - p)^1 NLL)",
        "  note: the preferred answers are the align set's",
        "the answer's token less likely by 10",
        "mean (largest logit - mean logit)^2",
        "under states of length 6 added to the question's, which 16 steps of AdamW at 0.05 found by the reverse",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let all = json(&dir.done("methods --json"));
    assert_eq!(all["methods"].as_array().unwrap().len(), 18);
    assert_eq!(all["methods"][1]["terms"][1]["unrelated"], true);
}

#[test]
fn methods_stand_in_one_table() {
    let dir = directory();
    let run = json(&dir.done("compare run.toml --json"));
    let study = &run["study"];
    assert_eq!(names(&study["rows"]), ["base", "gam", "rsft", "eraser"]);
    assert_eq!(study["held_out"].as_array().unwrap().len(), 1);
    let figures: Vec<&str> =
        study["rows"][1]["figures"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(figures[..2], ["ASR (unseen, held-out)", "ASR (unseen, all)"]);
    assert!(figures.contains(&"procedures") && figures.contains(&"benign knowledge"), "{figures:?}");
    assert_eq!(study["findings"].as_array().unwrap().len(), 5);

    // Four harmful questions of eight, under the one training template.
    assert_eq!(dir.text("runs/run-compare/data/wrapped.jsonl").lines().count(), 8);
    let step = |name: &str| {
        json(dir.text(&format!("runs/run-compare/variants/{name}/train/metrics.jsonl")).lines().next().unwrap())
    };
    assert!(step("gam")["l_random"].is_number() && step("gam")["nll_harm"].is_number());
    assert!(step("rsft")["l_refuse"].is_number() && step("rsft")["nll_harm"].is_null());
    assert!(step("gam")["lr"].as_f64().unwrap() < step("eraser")["lr"].as_f64().unwrap() / 5.0);

    let text = dir.done("compare run.toml");
    assert!(text.contains("Methods compared") && text.contains("procedures") && text.contains("rsft"), "{text}");
    let notes = String::from_utf8(dir.eraser("compare run.toml --methods gam,eraser").stderr).unwrap();
    assert!(notes.contains("train gam: done before") && notes.contains("train eraser: done before"), "{notes}");
    let html = dir.text("runs/run-compare/report.html");
    assert!(html.contains("Methods compared"));
}

#[test]
fn a_sweep_does_what_is_missing() {
    let dir = directory();
    let run = json(&dir.done("sweep run.toml gamma=8,9 --set eval.limit=1 --json"));
    let study = &run["study"];
    assert_eq!(names(&study["rows"]), ["base", "gamma-8", "gamma-9"]);
    assert_eq!(study["findings"].as_array().unwrap().len(), 3);
    assert!(study["rows"][1]["figures"][0]["value"].is_number());
    let before = dir.read("runs/run-sweep/eval/base/template.jsonl");

    let more = dir.eraser("sweep run.toml gamma=9,10 retain_weight=1 --set eval.limit=1");
    assert_eq!(more.status.code(), Some(0), "{}", String::from_utf8_lossy(&more.stderr));
    let more = dir.eraser("sweep run.toml gamma=9,10 --set eval.limit=1");
    let notes = String::from_utf8(more.stderr).unwrap();
    assert!(notes.contains("train gamma-9: done before") && !notes.contains("train gamma-10: done before"), "{notes}");
    assert_eq!(before, dir.read("runs/run-sweep/eval/base/template.jsonl"));
    let html = dir.text("runs/run-sweep/report.html");
    assert!(html.contains("nll_harm against gamma") && html.contains("Sweep over gamma"));

    let each = json(&dir.done("sweep run.toml --each harm_weight=0 harm_answers=random --set eval.limit=1 --json"));
    assert_eq!(names(&each["study"]["rows"]), ["base", "eraser", "harm_weight-0", "harm_answers-random"]);
}

/// [`directory`] with questions that settings are chosen by.
fn tunable(questions: &str) -> Dir {
    let dir = directory();
    dir.write("choose.csv", questions);
    let tune = r#"
[tune]
attacks = ["direct", "template"]
templates = ["a.txt"]
max_new_tokens = 3
questions = [{ set = "choose", path = "choose.csv" }]
over_refusal = { set = "benign", path = "ask.csv" }
allow_leakage = ["benign"]
"#;
    dir.write("run.toml", &format!("{RUN}{tune}"));
    dir
}

#[test]
fn a_search_halves_settings_and_writes_the_best_run_file() {
    let dir = tunable("prompt\nWho are they?\nWhere are they?\n");
    let go = "tune run.toml gamma=8,9 rank=2,4 --points 3 --set train.steps=9 --json";
    let first = dir.eraser(go);
    let notes = String::from_utf8(first.stderr).unwrap();
    assert!(!notes.contains("is made again"), "each rung has others, none has changed: {notes}");
    let study = json(std::str::from_utf8(&first.stdout).unwrap());
    // Three settings of one step, one of three, one of nine; the best are told first.
    let found = names(&study["rows"]);
    assert_eq!(found.len(), 6, "{found:?}");
    assert!(found[0] == "base" && found[1].ends_with("-9") && found[2].ends_with("-3"), "{found:?}");
    assert_eq!(study["keys"], serde_json::json!(["steps", "gamma", "rank"]));
    assert_eq!(study["findings"].as_array().unwrap().len(), 1);
    let number = &found[1][..4];
    let chosen = study["rows"].as_array().unwrap().iter().find(|row| row["subject"] == found[1]).unwrap();

    let tuned = dir.text("runs/run-tune/tuned.toml");
    assert!(tuned.contains("name = \"tuned\"") && tuned.contains("steps = 9"), "{tuned}");
    if number != "t000" {
        let rank = chosen["values"][2].as_str().unwrap();
        assert!(tuned.contains(&format!("\nrank = {rank}\n")), "{tuned}");
    }
    assert!(!tuned.contains("\"choose\""), "what chooses does not measure: {tuned}");
    dir.done("run runs/run-tune/tuned.toml");

    let again = dir.eraser(&go.replace(" --json", ""));
    let (text, notes) = (String::from_utf8(again.stdout).unwrap(), String::from_utf8(again.stderr).unwrap());
    assert!(
        text.contains("best: ") && text.contains("tuned.toml") && text.contains("Search over gamma, rank"),
        "{text}"
    );
    assert!(text.contains("is the setting that was drawn with the number 4"), "names are explained: {text}");
    assert!(notes.contains(&format!("train {}: done before", found[1])), "{notes}");
    // A bound that every setting breaks: which, and by how much.
    let strict = dir.done(&format!("{} --most-degenerate 0 --most-benign 0", go.replace(" --json", "")));
    let degenerate = chosen["figures"].as_array().unwrap().iter().find(|f| f["name"] == "degenerate, at most").unwrap();
    let breaks = degenerate["value"].as_f64().unwrap() > 0.0;
    assert_eq!(strict.contains("no setting keeps every bound; this one: "), breaks, "{strict}");
}

#[test]
fn questions_that_choose_are_not_those_that_measure() {
    let dir = tunable("prompt\nWho are they?\n");
    dir.write("choose.csv", &dir.text("ask.csv"));
    insta::assert_snapshot!(dir.refused("tune run.toml gamma=8,9 --points 3"), @"
    exit 2
    error: [tune] and [eval] share 1 of 3 questions
    hint: questions that choose a setting say nothing about it afterwards: give [tune] others, by `take`
    ");
    dir.write("run.toml", &dir.text("run.toml").replace("set = \"choose\"", "set = \"seen\""));
    insta::assert_snapshot!(dir.refused("tune run.toml gamma=8,9 --points 3"), @"
    exit 2
    error: [tune] has no set of questions but `seen`
    hint: settings are chosen by questions that were not trained on: name a set of them otherwise
    ");
    insta::assert_snapshot!(dir.refused("tune run.toml gama=8,9 --points 3").lines().nth(1).unwrap_or_default(), @"error: sweep gama=8: unknown key `gama` in [[variant]]");
    dir.write("run.toml", RUN);
    insta::assert_snapshot!(dir.refused("tune run.toml gamma=8,9 --points 3"), @"
    exit 2
    error: run.toml: no table [tune], which says what settings are chosen by
    hint: it has the keys of [eval], with questions of its own: those that choose are not to measure
    ");
}

#[test]
fn what_cannot_be_swept_is_said_at_once() {
    let dir = directory();
    insta::assert_snapshot!(dir.refused("sweep run.toml gama=1"), @r#"
    exit 2
    error: sweep gama=1: unknown key `gama` in [[variant]]
    hint: did you mean `gamma`?
    "#);
    insta::assert_snapshot!(dir.refused("sweep run.toml gamma=high"), @r#"
    exit 2
    error: sweep gamma=high: `gamma`: `high` is neither a number nor `auto`
    hint: see `eraser sweep --help`
    "#);
    insta::assert_snapshot!(dir.refused("sweep run.toml gamma=1 --variant other"), @r#"
    exit 2
    error: --variant other: the run file has no such variant
    hint: see `eraser sweep --help`
    "#);
    dir.write("run.toml", &RUN.replace("retain = \"help.jsonl\"\n", ""));
    insta::assert_snapshot!(dir.refused("sweep run.toml retain_take=1"), @r#"
    exit 2
    error: retain_take: the variant uses no retain set
    hint: name one that does by --variant, or give a set as [data] retain_set
    "#);
    dir.write("run.toml", &RUN.replace("[train]", "[train]\nmethod = \"none\""));
    insta::assert_snapshot!(dir.refused("run run.toml"), @r#"
    exit 2
    error: run.toml:10: `method`: unknown value `none`, expected one of `eraser`, `gam`, `rsft`, `sft`, `grad-ascent`, `grad-diff`, `npo`, `simnpo`, `wga`, `satimp`, `safe-unlearning`, `dpo`, `undial`, `ce-u`, `pdu`, `rmu`, `circuit-breakers`, `lat`
    hint: correct run.toml, or name another file
    "#);
}

#[test]
fn rsft_needs_jailbreak_templates() {
    let dir = directory();
    let sets = "--model model --align align.jsonl --steps 2 --micro-batch 2 --method rsft";
    insta::assert_snapshot!(dir.refused(&format!("train {sets} --out o")), @r#"
    exit 2
    error: --jailbreaks: method `rsft` learns from jailbreak templates
    hint: name template files or directories of them
    "#);
    let summary = dir.done(&format!("train {sets} --jailbreak a.txt --out o --json"));
    assert!(summary.lines().next().unwrap().contains("l_refuse"), "{summary}");
}

#[test]
fn durability_asks_a_finished_run_again() {
    let dir = directory();
    let error = dir.refused("durability runs/run");
    assert!(error.contains("there is no such directory"), "{error}");
    dir.done("run run.toml");
    assert!(dir.text("runs/run/report.html").contains("eraser durability RUN"));
    let study = json(&dir.done("durability runs/run --steps 2 --pairs 2 --json"));
    let rows = study["rows"].as_array().unwrap();
    let conditions: Vec<&str> = rows.iter().map(|row| row["values"][0].as_str().unwrap()).collect();
    assert_eq!(
        conditions,
        [
            "as trained",
            "as trained",
            "adapter merged",
            "merged, 8 bits (Q8_0)",
            "merged, 4 bits (Q4_0)",
            "2 steps on the help set",
            "2 steps on 2 harm pairs",
        ]
    );
    let figure = |row: &Value, name: &str| {
        row["figures"].as_array().unwrap().iter().find(|f| f["name"] == name).map(|f| f["n"].as_u64().unwrap())
    };
    assert!(rows.iter().all(|row| figure(row, "ASR (prefill)") == Some(2) && figure(row, "procedures") == Some(1)));
    // Merging changes rounding only, so greedy answers stay.
    let answers = |condition: &str| {
        let text = dir.text(&format!("runs/run/durability/eraser/eval/{condition}/direct.jsonl"));
        text.lines().map(|line| json(line)["response"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(answers("as-trained"), answers("merged"));
    assert_eq!(dir.text("runs/run/durability/eraser/relearnt/train/metrics.jsonl").lines().count(), 2);

    // Everything is there: nothing is trained or asked again.
    let trainings = || {
        let manifest = json(&dir.text("runs/run/manifest.json"))["artefacts"].clone();
        let records = manifest.as_object().unwrap().clone();
        records.into_iter().filter(|(name, _)| name.starts_with("durability/")).collect::<Vec<_>>()
    };
    let before = trainings();
    assert_eq!(before.len(), 2);
    let text = dir.done("durability runs/run --steps 2 --pairs 2");
    assert!(text.contains("Durability") && text.contains("2 steps on 2 harm pairs"), "{text}");
    assert_eq!(trainings(), before);
    let html = dir.text("runs/run/report.html");
    assert!(html.contains("erased, or only hidden?") && html.contains("merged, 4 bits (Q4_0)"));
    assert!(
        dir.text("runs/run/report.csv")
            .starts_with("subject,kind,name,set,judge,metric,n,value,low,high\nbase,attack,")
    );
    let error = dir.refused("durability runs/run --variant none --steps 0");
    assert!(error.contains("--variant") && error.contains("--steps") && error.contains("known: eraser"), "{error}");

    // What was measured on an adapter goes with it.
    dir.write("run.toml", &RUN.replace("steps = 3", "steps = 4"));
    let notes = String::from_utf8(dir.eraser("run run.toml").stderr).unwrap();
    assert!(notes.contains("durability.json is removed"), "{notes}");
    assert!(!dir.path("runs/run/durability.json").exists());
}

#[test]
fn durability_refused_a_run_whose_templates_are_for_autodan_alone() {
    let dir = directory();
    let attacks = RUN.replace(r#""direct", "template""#, r#""direct", "autodan""#);
    dir.write("run.toml", &(attacks + "autodan = { generations = 1, population = 2, elite = 1 }\n"));
    dir.done("run run.toml");
    let study = json(&dir.done("durability runs/run --steps 1 --pairs 2 --json"));
    assert_eq!(study["rows"].as_array().unwrap().len(), 7);
}
