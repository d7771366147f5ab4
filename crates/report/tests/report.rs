//! The report of a small run directory with invented, harmless content: exact text of what a terminal and a repository
//! get, and the properties of the page that matter: nothing active, nothing outside, nothing hidden that should show.

#![allow(clippy::unwrap_used)]

use eraser_report::{Error, Summary, terminal_table, write_report};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/run")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn run() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(), dir.path());
    dir
}

fn page(run: &Path) -> String {
    fs::read_to_string(write_report(run).unwrap().html).unwrap()
}

#[test]
fn terminal() {
    let summary = Summary::read(&fixture().join("summary.json")).unwrap();
    let table = terminal_table(&summary);
    assert!(table.lines().all(|l| l.chars().count() <= 100), "{table}");
    insta::assert_snapshot!("terminal", table);
}

#[test]
fn markdown() {
    let run = run();
    let written = write_report(run.path()).unwrap();
    insta::assert_snapshot!("markdown", fs::read_to_string(written.markdown).unwrap());
}

/// `eraser bench` alone was followed by a heading "Cost" with nothing below it.
#[test]
fn there_is_no_section_on_cost_without_a_cost() {
    let run = run();
    let path = run.path().join("summary.json");
    let mut summary: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    summary["timing"] = serde_json::json!({});
    fs::write(&path, summary.to_string()).unwrap();
    let text = fs::read_to_string(write_report(run.path()).unwrap().markdown).unwrap();
    assert!(!text.contains("## Cost"), "{text}");
}

/// The list of words showed the backticks of its Markdown.
#[test]
fn names_in_the_list_of_words_are_code_on_the_page() {
    let run = run();
    let page = page(run.path());
    assert!(page.contains("<code>base</code> is the model") && !page.contains("`base`"), "{page}");
}

#[test]
fn the_page_is_inert_and_complete() {
    let run = run();
    let page = page(run.path());
    assert!(!page.contains("<script"), "a response reached the page unescaped");
    assert!(page.contains("&lt;script&gt;alert(1)"));
    for active in ["src=", "@import", "url(", "javascript:", " onload", " onclick", "<iframe", "<link"] {
        assert!(!page.contains(active), "{active}");
    }
    // The namespace of SVG is a name, not an address that is fetched.
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("://"));
    assert_eq!(page.matches("<h1").count(), 1);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("<details").count(), page.matches("</details>").count());
    assert!(page.contains("gamma 1.8") && page.contains("l_retain"));
    assert!(page.contains("15 of 17 prompts"));
    assert!(page.contains("2026-11-24T11:00:00Z") && page.contains("(not finished)"));
    assert!(page.contains("questions.csv, take 0-54") && !page.contains("/elsewhere"));
    assert!(page.contains("expect: wrong") && page.contains("benign questions: benign"));
    assert!(
        page.contains(
            "eraser: the defence held against prompts (a given opening was not tried), at a cost in utility."
        )
    );
    assert!(page.contains("arXiv 2404.12038"));
}

#[test]
fn answers_no_judge_cleared_are_masked() {
    let run = run();
    let page = page(run.path());
    let leaks = page.match_indices("blue leaves").map(|(at, _)| &page[..at]);
    let mut seen = 0;
    for before in leaks {
        let masked = before.rfind("Masked answer: show");
        assert!(masked > before.rfind("class=\"side\""), "a transcript is shown unmasked");
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let run = run();
    let first = page(run.path());
    assert_eq!(first, page(run.path()));
    let leftovers = fs::read_dir(run.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "tmp"));
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn missing_pieces_are_said() {
    let run = run();
    let dir = run.path();
    fs::remove_file(dir.join("summary.json")).unwrap();
    assert!(page(dir).contains("it was removed after the evaluation. The answers are still there"));
    fs::remove_dir_all(dir.join("eval")).unwrap();
    assert!(page(dir).contains("it was removed after the evaluation, and so were the answers"));
    assert!(page(dir).contains("No answers are in this run directory"));
    fs::remove_dir_all(dir.join("train")).unwrap();
    assert!(page(dir).contains("no training metrics for this subject"));
    fs::remove_file(dir.join("subjects.json")).unwrap();
    assert!(page(dir).contains("No training belongs to this run"));
    fs::remove_file(dir.join("plan.toml")).unwrap();
    assert!(matches!(write_report(dir), Err(Error::NotARun(_))));
}

#[test]
fn metrics_are_found_without_subjects_json() {
    let run = run();
    fs::remove_file(run.path().join("subjects.json")).unwrap();
    let page = page(run.path());
    // Of both variants, and each in every plot: the loss, `nll_harm` and three terms.
    assert_eq!((page.matches("40 optimiser steps").count(), page.matches("<h3>eraser+retain</h3>").count()), (2, 1));
    assert!(page.contains("The help term (<code>l_help</code>"));
}

/// SHA-256 of "weights\n" and of "rows\n".
const WEIGHTS: &str = "1b465fa6b6bcbc06a3199e3d2d8aec35d37494a712f888b6d5536684dd89d0f0";
const ROWS: &str = "9b71c268cf258d56d93a8182fce8a2ed6a7d18768a88959e17537d913702d63f";

/// The fixture with a manifest: `eraser` was evaluated as `evaluated`, its directory holds `trained`, made from sets of
/// `sets`.
fn with_manifest(evaluated: &str, trained: &str, sets: &str) -> tempfile::TempDir {
    let run = run();
    let dir = run.path();
    let text = fs::read_to_string(dir.join("summary.json")).unwrap();
    let name = "\"name\": \"eraser\",";
    let text = text.replace(name, &format!("{name} \"fingerprint\": \"f\", \"adapter\": \"{evaluated}\","));
    fs::write(dir.join("summary.json"), text).unwrap();
    for (path, content) in [("adapter/adapter_model.safetensors", "weights\n"), ("data/harm.jsonl", "rows\n")] {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), content).unwrap();
    }
    let manifest = format!(
        r#"{{"schema":1,"artefacts":{{"adapter":{{"verb":"train","fingerprint":"{trained}",
        "files":{{"adapter/adapter_model.safetensors":"{WEIGHTS}"}},"inputs":{{"data/harm.jsonl":"{sets}"}}}},
        "data":{{"verb":"prepare","files":{{"data/harm.jsonl":"{ROWS}"}}}}}}}}"#
    );
    fs::write(dir.join("manifest.json"), manifest).unwrap();
    run
}

/// An answer was rewritten by hand, and the report showed it as the model's.
#[test]
fn answers_that_were_changed_after_the_evaluation_are_named() {
    let run = run();
    let dir = run.path();
    fs::create_dir_all(dir.join("eval/base")).unwrap();
    let file = "eval/base/extra.jsonl";
    let answer = "{\"id\":\"1\",\"attack\":\"direct\",\"set\":\"seen\",\"question\":\"q\",\"response\":\"r\"}\n";
    fs::write(dir.join(file), answer).unwrap();
    let hash = "eec9866f94c485e649b4c0ac96e7c61bb4af6a350979e260967c037ee9fef988";
    let write = |ended: &str| {
        let manifest = format!(
            r#"{{"schema":1,"artefacts":{{"summary.json":{{"verb":"eval","ended":{ended}}}}},"answers":{{"{file}":"{hash}"}}}}"#
        );
        fs::write(dir.join("manifest.json"), manifest).unwrap();
    };
    write("\"now\"");
    assert!(!page(dir).contains("were changed after"));
    fs::write(dir.join(file), answer.replace("\"r\"", "\"another\"")).unwrap();
    let changed = page(dir);
    assert!(changed.contains("Answers were changed after they had been written (eval"), "{changed}");
    assert!(changed.contains("The same <code>eraser eval</code> makes them again.") && !changed.contains("`eraser"));
    // An evaluation that was interrupted may have replaced the file.
    write("null");
    assert!(!page(dir).contains("were changed after"));
}

/// Train, eval, train again for 5 steps, report: it said "the defence held" of an adapter that was never evaluated.
#[test]
fn figures_of_an_earlier_adapter_have_no_verdict() {
    let current = page(with_manifest("abc", "abc", ROWS).path());
    assert!(
        current.contains(
            "eraser: the defence held against prompts (a given opening was not tried), at a cost in utility."
        ) && !current.contains("earlier adapter")
    );
    let again = with_manifest("abc", "def", ROWS);
    let changed = with_manifest("abc", "abc", ROWS);
    fs::write(changed.path().join("adapter/adapter_model.safetensors"), "other weights").unwrap();
    for run in [again, changed] {
        let written = write_report(run.path()).unwrap();
        for text in [written.html, written.markdown].map(|path| fs::read_to_string(path).unwrap()) {
            assert!(text.contains("eraser: not evaluated since it was trained."), "{text}");
            assert!(!text.contains("eraser: the defence held") && text.contains("eraser (earlier adapter)"));
        }
        let table = eraser_report::terminal(run.path()).unwrap();
        assert!(table.contains("eraser (earlier adapter)"), "{table}");
    }
}

/// What happens to a run directory.
type Change<'a> = &'a dyn Fn(&Path);

/// Whatever was not there, the report gave the same wrong reason.
#[test]
fn the_reason_why_nothing_is_known_is_the_one_that_holds() {
    let unknown = |change: &dyn Fn(&Path)| {
        let run = with_manifest("abc", "abc", ROWS);
        change(run.path());
        fs::read_to_string(write_report(run.path()).unwrap().markdown).unwrap()
    };
    let subjects = |adapter: &str| format!(r#"[{{"name":"eraser","adapter":"{adapter}"}},{{"name":"eraser+retain"}}]"#);
    let edit = |dir: &Path, from: &str, to: &str| {
        let path = dir.join("manifest.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    };
    let cases: [(&str, Change<'_>); 6] = [
        ("eraser: manifest.json was removed", &|dir| fs::remove_file(dir.join("manifest.json")).unwrap()),
        ("an older version made this run", &|dir| {
            fs::rename(dir.join("manifest.json"), dir.join("stages.json")).unwrap();
        }),
        ("eraser: its adapter was removed: adapter", &|dir| fs::remove_dir_all(dir.join("adapter")).unwrap()),
        ("the training of adapter was begun again and has not ended", &|dir| {
            edit(dir, r#""fingerprint":"abc","#, "");
        }),
        ("its adapter is not in this directory: /other/adapter", &|dir| {
            fs::write(dir.join("subjects.json"), subjects("/other/adapter")).unwrap();
        }),
        ("copied was not trained in this directory", &|dir| {
            fs::rename(dir.join("adapter"), dir.join("copied")).unwrap();
            fs::write(dir.join("subjects.json"), subjects("copied")).unwrap();
        }),
    ];
    for (reason, change) in cases {
        let text = unknown(change);
        assert!(text.contains(reason), "{reason}: {text}");
    }
}

/// Rows of durability.json were of an adapter that had been trained again since.
#[test]
fn rows_of_durability_are_of_the_adapter_that_is_there_or_are_said_not_to_be() {
    let row = r#"{"study":"durability","keys":["condition"],"judge":"keyword:gcg29","rows":[{"subject":"eraser",
        "adapter":"abc","values":["as trained"],"figures":[{"name":"ASR","value":0.0,"ci":[0.0,0.1],"n":9}]}]}"#;
    let told = |trained: &str| {
        let run = with_manifest("abc", trained, ROWS);
        fs::write(run.path().join("durability.json"), row).unwrap();
        let table = eraser_report::durability_table(run.path()).unwrap();
        let text = fs::read_to_string(write_report(run.path()).unwrap().markdown).unwrap();
        assert!(text.contains("Judge of attack success: keyword:gcg29."), "{text}");
        (table.contains("(earlier adapter)"), text.contains("Rows and findings of eraser are of an earlier adapter"))
    };
    assert_eq!((told("abc"), told("def")), ((false, false), (true, true)));
}

/// A second `prepare` replaced the sets under a finished adapter, and its rows were described as what was trained on.
#[test]
fn sets_that_were_prepared_again_are_not_what_was_trained_on() {
    let report = r#"{"schema":1,"made":{"questions":3,"harm_refused":1,"harm_dropped":1,"harm_cut":0,
        "entities_unparsable":0,"entities":2,"help_questions":20,"help_refused":4,"help_empty":0,"help_cut":1,
        "align_answered":1,"align_dropped":0},"sets":[],"overlaps":[],"near":{"shingle":5,"similarity":0.8}}"#;
    let doubt = |run: &Path| {
        fs::write(run.join("data_report.json"), report).unwrap();
        page(run).contains("not the rows that were trained on")
    };
    assert!(!doubt(with_manifest("abc", "abc", ROWS).path()));
    assert!(doubt(with_manifest("abc", "abc", WEIGHTS).path()));
    let run = with_manifest("abc", "abc", ROWS);
    fs::write(run.path().join("data/harm.jsonl"), "other rows").unwrap();
    assert!(doubt(run.path()));
    let run = self::run();
    fs::write(run.path().join("data_report.json"), report).unwrap();
    fs::remove_file(run.path().join("manifest.json")).unwrap();
    assert!(page(run.path()).contains("Whether these sets were trained on is unknown"));
}

/// The hinge was closed from the first step, so the adapter is the base model; the report said "the defence did not
/// hold", or that it held, by whatever the figures were.
#[test]
fn a_training_that_unlearned_nothing_is_called_so() {
    let run = run();
    let summary = r#"{"nothing_unlearned":true,"capped_share":1.0,"threshold":{"gamma":1.8,"measured":null},
        "samples":{"harm":{"samples":8,"cut":3,"empty":1},"help":{"samples":8,"cut":0,"empty":0}}}"#;
    fs::write(run.path().join("train/summary.json"), summary).unwrap();
    let written = write_report(run.path()).unwrap();
    let [html, markdown] = [written.html, written.markdown].map(|path| fs::read_to_string(path).unwrap());
    for text in [&html, &markdown] {
        assert!(text.contains("eraser: nothing was unlearned: the hinge was closed from the first step"), "{text}");
        assert!(!text.contains("eraser: the defence"), "{text}");
        assert!(text.contains("The hinge is max(0, gamma"), "{text}");
        assert!(text.contains("The harm term drew 8 samples: 3 were cut to the greatest length, and 1 had"), "{text}");
        assert!(!text.contains("The help term drew"), "{text}");
    }
    assert!(html.contains("Nothing was unlearned: the hinge was closed from the first step."));
    // The other subject's training is another one.
    assert!(html.contains("eraser+retain: the defence"));
    fs::write(run.path().join("train/summary.json"), "{").unwrap();
    assert!(write_report(run.path()).unwrap_err().to_string().contains("train/summary.json"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Damage in any file gives a report or an error that names the file; never a panic.
    #[test]
    fn damaged_files(which in 0..8_usize, at in any::<prop::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 0..6), cut in any::<bool>()) {
        let run = run();
        let name = ["summary.json", "manifest.json", "subjects.json", "judges.json", "plan.toml", "train/metrics.jsonl",
                    "eval/base/template.jsonl", "eval/eraser/template.jsonl" ][which];
        let path = run.path().join(name);
        let mut text = fs::read(&path).unwrap();
        let at = at.index(text.len());
        let end = if cut { text.len() } else { (at + bytes.len()).min(text.len()) };
        text.splice(at..end, bytes);
        fs::write(&path, text).unwrap();
        if let Err(error) = write_report(run.path()) {
            let message = error.to_string();
            prop_assert!(message.contains(name) && !message.contains('\n'), "{}", message);
            prop_assert!(error.is_request() && error.hint().is_some());
        }
    }

    /// Figures out of range, swapped for any number of the summary, are refused or shown; never a panic.
    #[test]
    fn hostile_figures(at in any::<prop::sample::Index>(), value in prop::sample::select(vec!["-1", "1e308", "18446744073709551615", "null", "\"x\"", "[]", "2", "0"])) {
        let run = run();
        let path = run.path().join("summary.json");
        let text = fs::read_to_string(&path).unwrap();
        let numbers: Vec<_> = text.match_indices(": ").filter(|(i, _)| text[i + 2..].starts_with(|c: char| c.is_ascii_digit())).collect();
        let start = numbers[at.index(numbers.len())].0 + 2;
        let end = start + text[start..].find([',', '\n', '}']).unwrap();
        fs::write(&path, format!("{}{value}{}", &text[..start], &text[end..])).unwrap();
        let _ = write_report(run.path());
    }
}
