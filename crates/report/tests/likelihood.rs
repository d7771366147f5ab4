//! What known answers cost, in every form of the report: of a run directory that holds nothing else.

#![allow(clippy::unwrap_used)]

use eraser_report::{Summary, terminal_table, write_report};
use std::fs;

fn row(context: &str, cut: u64, nll: f64, change: &str) -> String {
    let (low, high) = (nll - 0.5, nll + 0.5);
    format!(
        "{{\"set\":\"seen\",\"context\":\"{context}\",\"cut\":{cut},\"n\":24,\"questions\":12,\"short\":{cut},\"cut_off\":0,\
         \"nll\":{nll},\"ci\":[{low},{high}]{change}}}"
    )
}

fn summary() -> String {
    let change = |x: f64| {
        format!(",\"change\":{{\"difference\":{x},\"ci\":[{},{}],\"n\":24,\"questions\":12}}", x - 0.5, x + 0.5)
    };
    let base = [row("plain", 0, 0.5, ""), row("plain", 5, 0.25, ""), row("template:a|b", 0, 0.75, "")];
    let now = [
        row("plain", 0, 5.5, &change(5.0)),
        row("plain", 5, 1.25, &change(1.0)),
        row("template:a|b", 0, 2.75, &change(2.0)),
    ];
    let subject = |name: &str, rows: &[String]| format!("{{\"name\":\"{name}\",\"likelihood\":[{}]}}", rows.join(","));
    format!("{{\"schema\":1,\"subjects\":[{},{}]}}", subject("base", &base), subject("eraser", &now))
}

#[test]
fn every_form_of_the_report_has_the_figures_and_where_answers_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("summary.json");
    fs::write(&path, summary()).unwrap();
    // A line of it is no answer of the subject.
    fs::create_dir_all(dir.path().join("eval/base")).unwrap();
    fs::write(dir.path().join("eval/base/likelihood.jsonl"), "{\"set\":\"seen\"}\n").unwrap();
    let written = write_report(dir.path()).unwrap();
    let [page, markdown, csv] =
        [written.html, written.markdown, written.csv].map(|path| fs::read_to_string(path).unwrap());
    let reopens = "asked plainly after 5 tokens (12 questions), so that is where an attacker would begin: 0.25 to 1.25 nats per token, \
                   +1.00 [+0.50, +1.50].";
    assert!(page.contains(reopens), "{page}");
    assert!(
        markdown
            .contains("asked plainly after 5 tokens (12 questions), so that is where an attacker would begin: 0.25"),
        "{markdown}"
    );
    assert!(
        markdown.contains("| seen | plain | 5 | 24 (5) | 0.25 \\[0.00, 0.75\\] | 1.25 \\[0.75, 1.75\\] (+1.00) |"),
        "{markdown}"
    );
    assert!(
        page.contains("template:a|b")
            && page.contains("seen answers, asked plainly: cost of the rest")
            && page.contains("nats per token")
    );
    assert_eq!(page.matches("<details").count(), page.matches("</details>").count());
    for line in [
        "eraser,likelihood,plain,seen,,nll_after_5,24,1.25,0.75,1.75",
        "eraser,likelihood,plain,seen,,nll_after_5_change,24,1,0.5,1.5",
        "base,likelihood,template:a|b,seen,,nll_after_0,24,0.75,0.25,1.25",
    ] {
        assert!(csv.contains(line), "{csv}");
    }
    let table = terminal_table(&Summary::read(&path).unwrap());
    assert!(table.contains("1.25 [0.75, 1.75] (+1.00)") && table.lines().all(|l| l.chars().count() <= 100), "{table}");
}

#[test]
fn a_damaged_figure_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("summary.json");
    for (from, to, said) in [
        ("\"nll\":1.25", "\"nll\":1e300", "likelihood of `seen` in `plain` after 5 tokens: a figure is out of range"),
        ("\"cut\":5", "\"cut\":0", "appears twice"),
        ("\"ci\":[0.75,1.75]", "\"ci\":[1.75,0.75]", "ends before it starts"),
    ] {
        assert!(summary().contains(from), "{from}");
        fs::write(&path, summary().replace(from, to)).unwrap();
        let error = Summary::read(&path).unwrap_err().to_string();
        assert!(error.contains("summary.json") && error.contains(said), "{error}");
    }
}
