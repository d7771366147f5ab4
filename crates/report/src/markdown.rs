//! report.md: the verdict and the tables as Markdown, for a repository or an issue. No transcript goes into it.
//! Invariant: text from files cannot end a cell, a row or a code span, nor start HTML.

use crate::data;
use crate::format::{NONE, interval, percent, timing};
use crate::likelihood;
use crate::measured::Measured;
use crate::notes::{self, LIMITS, WORDS};
use crate::provenance::Provenance;
use crate::rows::{self, APART_NOTE, refusals_apart, signed_apart, utility_cell};
use crate::run::Run;
use crate::scorecard::{self, Card};
use crate::served_table;
use crate::study::Study;
use crate::summary::{OverRefusal, Subject, Summary};
use crate::table::Table;
use crate::thoughts;
use crate::verdict::{self, Verdict};
use std::fmt::Write as _;

/// The whole file.
pub(crate) fn render(run: &Run) -> String {
    let mut out = format!("# {}\n\n", text(&run.head.title));
    for (fact, value) in &run.head.facts {
        let _ = writeln!(out, "- {fact}: {}", text(value));
    }
    out.push('\n');
    match &run.summary {
        None => {
            let _ = writeln!(out, "{}\n", run.unmeasured);
            training(&mut out, run);
        }
        Some(summary) => {
            let verdicts = verdict::verdicts(summary, run);
            for v in &verdicts {
                let _ = writeln!(out, "**{}** {}\n", text(&v.headline()), text(&v.gist));
            }
            scorecard(&mut out, summary, run);
            if let Some(unknown) = run.provenance.unknown() {
                let _ = writeln!(out, "{}\n", text(&unknown));
            }
            if let Some(found) = &run.study {
                study(&mut out, found);
            }
            in_full(&mut out, &verdicts);
            words(&mut out);
            measured(&mut out, &run.measured);
            served(&mut out, summary);
            attacks(&mut out, summary, &run.provenance);
            known_answers(&mut out, summary, &run.provenance);
            utility(&mut out, summary, &run.provenance);
            over_refusal(&mut out, summary, &run.provenance);
            agreement(&mut out, summary, &run.provenance);
            if let Some(found) = &run.durability {
                study(&mut out, found);
            }
            if rows::any_apart(summary) {
                let _ = writeln!(out, "{}\n", text(APART_NOTE));
            }
            training(&mut out, run);
            let cost = timing(&summary.timing, &run.requests);
            if !cost.is_empty() {
                out.push_str("## Cost\n\n");
            }
            for (what, value) in cost {
                let _ = writeln!(out, "- {what}: {value}");
            }
        }
    }
    if let Some(report) = &run.data {
        out.push_str("\n## Data\n\n");
        if let Some(doubt) = &run.provenance.data {
            let _ = writeln!(out, "**{}**\n", text(doubt));
        }
        for line in data::preparation(report) {
            let _ = writeln!(out, "- {}", text(&line));
        }
        out.push('\n');
        for found in [data::sets(report), data::overlaps(report)] {
            escaped(&mut out, &found);
        }
        let _ = writeln!(out, "{}", text(&data::note(report)));
    }
    out.push_str("\n## Limits\n\n");
    for limit in LIMITS {
        let _ = writeln!(out, "- {limit}");
    }
    out
}

/// What the figures were measured on.
fn measured(out: &mut String, block: &Measured) {
    out.push_str("## What was measured\n\n");
    for sentence in &block.lead {
        let _ = writeln!(out, "{}\n", text(sentence));
    }
    for request in &block.requests {
        let _ = writeln!(out, "{}:\n", text(&request.title));
        for (fact, value) in &request.facts {
            let _ = writeln!(out, "- {fact}: {}", text(value));
        }
        out.push('\n');
    }
}

/// Subjects that a server had.
fn served(out: &mut String, summary: &Summary) {
    let found = served_table::table(summary);
    if !found.rows.is_empty() {
        let _ = writeln!(out, "## Served subjects\n\n{}\n", served_table::CAPTION);
        escaped(out, &found);
    }
}

/// What the words of the tables mean.
fn words(out: &mut String) {
    for (word, meaning) in WORDS {
        let _ = writeln!(out, "- *{word}*: {meaning}");
    }
    out.push('\n');
}

fn in_full(out: &mut String, verdicts: &[Verdict]) {
    if !verdicts.is_empty() {
        out.push_str("## Verdict in full\n\n");
    }
    for v in verdicts {
        let _ = writeln!(out, "{}\n", text(&v.headline()));
        for sentence in &v.sentences {
            let _ = writeln!(out, "- {}", text(sentence));
        }
        out.push('\n');
    }
}

/// The figures that matter most, a row for each.
fn scorecard(out: &mut String, summary: &Summary, run: &Run) {
    let score = scorecard::scorecard(summary, &|name| run.provenance.label(name), &run.durable());
    let mut names: Vec<&str> = Vec::new();
    for bar in score.cards.iter().flat_map(|card| &card.bars) {
        if !names.contains(&bar.subject.as_str()) {
            names.push(&bar.subject);
        }
    }
    let row = |card: &Card| {
        let about = if card.missing.is_some() { "not measured".to_owned() } else { text(&card.detail) };
        let cell = |name: &&str| {
            let bar = card.bars.iter().find(|bar| bar.subject == **name);
            bar.map_or_else(|| NONE.into(), |bar| format!("{} {}", bar.value, bar.ci).trim_end().to_owned())
        };
        [card.title.to_owned(), about].into_iter().chain(names.iter().map(cell)).collect()
    };
    let header: Vec<String> = ["", "what"].into_iter().chain(names.iter().copied()).map(text).collect();
    table(out, &header, &score.cards.iter().map(row).collect::<Vec<_>>());
    let parts = [Some(score.trust), Some(score.untested), score.left_out];
    let said: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    let _ = writeln!(out, "{}\n", text(&said.join(" ")));
}

fn study(out: &mut String, study: &Study) {
    let _ = writeln!(out, "## {}\n\n{}\n", text(&study.title()), text(&study.caption()));
    for (fact, value) in &study.facts {
        let _ = writeln!(out, "- {fact}: {}", text(value));
    }
    if !study.facts.is_empty() {
        out.push('\n');
    }
    for finding in &study.findings {
        let [outcome, claim, evidence] = [&finding.outcome(), &finding.claim, &finding.evidence].map(|s| text(s));
        let _ = writeln!(out, "- **{outcome}**: {claim}. {evidence}");
    }
    out.push('\n');
    escaped(out, &study.table());
}

fn attacks(out: &mut String, summary: &Summary, provenance: &Provenance) {
    out.push_str("## Attacks\n\nAttack success rate over judged answers, with its 95% interval by question. n: answers, and in parentheses the questions that they answer.\n\n");
    let base = summary.subjects.iter().position(|s| s.name == "base");
    let mut lines = Vec::new();
    for row in rows::attacks(summary).iter().filter(|r| !r.part) {
        for (i, (subject, a)) in summary.subjects.iter().zip(&row.cells).enumerate() {
            let Some(a) = a else { continue };
            lines.push(vec![
                text(row.attack),
                text(row.set),
                text(row.judge),
                text(&provenance.label(&subject.name)),
                rows::answers(a),
                text(&signed_apart(percent(a.asr), row.apart(i, base))),
                interval(a.asr_ci),
                percent(a.refused),
                percent(a.degenerate),
                a.unjudged.to_string(),
            ]);
        }
    }
    let header = ["attack", "set", "judge", "subject", "n", "ASR", "95%", "refused", "degenerate", "unjudged"];
    table(out, &header.map(String::from), &lines);
    let found = thoughts::table(summary, &|name| provenance.label(name));
    if !found.rows.is_empty() {
        let _ = writeln!(out, "\n## Thoughts\n\n{}\n", thoughts::CAPTION);
        escaped(out, &found);
    }
}

fn known_answers(out: &mut String, summary: &Summary, provenance: &Provenance) {
    let found = likelihood::table(summary, false, &|name| provenance.label(name));
    if !found.rows.is_empty() {
        let _ = writeln!(out, "## How likely known answers are\n\n{}\n", likelihood::CAPTION);
        escaped(out, &found);
    }
}

fn utility(out: &mut String, summary: &Summary, provenance: &Provenance) {
    out.push_str("## Utility\n\nDifferences to the base in parentheses, in points for shares.\n\n");
    let base = summary.subjects.iter().position(|s| s.name == "base");
    let names = summary.subjects.iter().map(|s| text(&provenance.label(&s.name)));
    let header: Vec<_> = ["task", "metric", "n"].map(String::from).into_iter().chain(names).collect();
    let rows = rows::utility(summary);
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let cells = (0..r.cells.len()).map(|i| text(&utility_cell(r, i, base)));
            [text(r.task), text(r.metric), r.n()].into_iter().chain(cells).collect()
        })
        .collect();
    table(out, &header, &lines);
}

fn over_refusal(out: &mut String, summary: &Summary, provenance: &Provenance) {
    for contrast in [false, true] {
        let of = |s: &'_ Subject| if contrast { s.contrast.clone() } else { s.over_refusal.clone() };
        let measured = summary.subjects.iter().filter_map(|s| of(s).map(|o| (s, o)));
        let base = summary.subjects.iter().find(|s| s.name == "base").and_then(of);
        let line = |(s, o): (&Subject, OverRefusal)| {
            let apart = s.name != "base" && refusals_apart(base.as_ref(), Some(&o));
            let rate = text(&signed_apart(percent(o.rate), apart));
            vec![text(&provenance.label(&s.name)), text(&o.set), o.n.to_string(), rate, percent(o.judged)]
        };
        let lines: Vec<Vec<String>> = measured.map(line).collect();
        if contrast && lines.is_empty() {
            continue;
        }
        let title = if contrast { "Questions that must be refused" } else { "Benign questions refused" };
        let _ = writeln!(out, "## {title}\n");
        table(out, &["subject", "set", "n", "refused (phrases)", "refused (model)"].map(String::from), &lines);
    }
}

/// What the trainings were, without their curves.
fn training(out: &mut String, run: &Run) {
    let told: Vec<_> = run.trained.iter().map(|t| (t, t.sentences())).filter(|(_, said)| !said.is_empty()).collect();
    if told.is_empty() {
        return;
    }
    out.push_str("## Training\n\n");
    for (trained, said) in told {
        let _ = writeln!(out, "- {}: {}", text(&trained.name), text(&said.join(" ")));
    }
    out.push('\n');
}

fn agreement(out: &mut String, summary: &Summary, provenance: &Provenance) {
    let found = notes::agreement(summary, &|name| provenance.label(name));
    if !found.rows.is_empty() {
        out.push_str("## Agreement of judges\n\n");
        escaped(out, &found);
    }
}

/// A table of plain text.
fn escaped(out: &mut String, found: &Table) {
    let cells = |row: &Vec<String>| row.iter().map(|cell| text(cell)).collect::<Vec<_>>();
    table(out, &cells(&found.header), &found.rows.iter().map(cells).collect::<Vec<_>>());
}

fn table(out: &mut String, header: &[String], lines: &[Vec<String>]) {
    if lines.is_empty() {
        out.push_str("Not measured.\n\n");
        return;
    }
    let rule = vec!["---".to_owned(); header.len()];
    for line in [header, &rule[..]].into_iter().chain(lines.iter().map(Vec::as_slice)) {
        let _ = writeln!(out, "| {} |", line.join(" | "));
    }
    out.push('\n');
}

/// Text on one line, with everything escaped that Markdown or HTML would act on. What is between backticks stays code where
/// there is nothing in it that could be acted on, whoever wrote it.
fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        if let Some((code, after)) =
            rest.strip_prefix('`').and_then(|inside| inside.split_once('`')).filter(|p| is_code(p.0))
        {
            let _ = write!(out, "`{code}`");
            rest = after;
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Whether text between backticks is of letters that mean nothing to Markdown, so that it may stay code.
fn is_code(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-=. /:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_in_its_cell() {
        assert_eq!(text("a|b\n<script>"), "a\\|b &lt;script>");
        assert_eq!(text("Run `eraser eval` with `--force`."), "Run `eraser eval` with `--force`.");
        assert_eq!(text("a `b` `--x|y` `"), "a `b` \\`--x\\|y\\` \\`");
    }
}
