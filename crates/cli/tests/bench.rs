//! `eraser bench`: what it prints, where its figures go, and what it refuses.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use serde_json::Value;

const ITEMS: &str = "query,choices,gold\nWhich?,\"[\"\"a\"\",\"\"b\"\"]\",1\nWhat?,\"[\"\"c\"\",\"\"d\"\"]\",0\n";

#[test]
fn figures_join_the_summary_of_an_evaluation() {
    let dir = Dir::with_model();
    dir.write("arc.csv", ITEMS);
    dir.write("text.txt", "A lamp. A hat.");
    let bench = "bench -m model --task arc_easy=arc.csv --text text.txt --limit 2 -o out --json";
    let printed: Value = serde_json::from_str(&dir.done(bench)).unwrap();
    assert_eq!(printed["scored"], 3);
    let utility = |dir: &Dir| {
        let summary: Value = serde_json::from_str(&dir.text("out/summary.json")).unwrap();
        let rows = summary["subjects"][0]["utility"].as_array().unwrap().clone();
        (rows.iter().map(|r| format!("{} {}", r["task"], r["metric"])).collect::<Vec<_>>(), summary)
    };
    let expected = ["\"arc_easy\" \"acc\"", "\"arc_easy\" \"acc_norm\"", "\"text\" \"perplexity\""];
    assert_eq!(utility(&dir).0, expected);
    // An evaluation in the same directory keeps them, and the report shows them.
    dir.done("eval -m model --questions ask.csv --max-new-tokens 2 -o out --json");
    let (rows, summary) = utility(&dir);
    assert_eq!(rows, expected);
    assert_eq!(summary["subjects"][0]["attacks"].as_array().unwrap().len(), 1);
    let table = dir.done("bench -m model --task arc_easy=arc.csv -o out");
    assert!(table.lines().count() == 2 && table.starts_with("base  arc_easy  acc "), "{table}");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let dir = Dir::with_model();
    dir.write("arc.csv", ITEMS);
    let said = dir.refused(
        "bench -m model --task arc_esy=arc.csv --task arc.csv --examples piqa=arc.csv --task rte=arc.csv --limit 0 -o out",
    );
    for part in ["exit 2", "`arc_easy`?", "of which task", "--examples", "no column label", "`limit` is 0"] {
        assert!(said.contains(part), "{part} not in\n{said}");
    }
    let said = dir.refused("bench -m model --task arc_easy=arc.csv --bos on -o out");
    assert!(said.contains("no beginning-of-sequence token"), "{said}");
}
