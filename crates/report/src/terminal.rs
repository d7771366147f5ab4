//! The summary as aligned text for a terminal. Invariant: no line is wider than 100 columns; subjects that do not fit
//! beside each other go into a further block.

use crate::format::{NONE, decimal, percent};
use crate::likelihood;
use crate::rows::{self, APART, APART_NOTE, AttackRow, UtilityRow, refusals_apart, signed_apart, utility_cell};
use crate::summary::Summary;
use crate::table::Table;
use std::fmt::Write as _;

/// Widest line.
const WIDTH: usize = 100;
/// Most verdicts below a table; of more subjects the report has them.
const VERDICTS: usize = 4;
/// Widest cell; longer names are cut.
const CELL: usize = 30;

/// The figures of a run: attack success with n and 95 % intervals by question, refused and degenerate shares, utility
/// with the difference to the base in points, refused benign questions. Templates that were pooled are left to the
/// report.
pub fn terminal_table(summary: &Summary) -> String {
    let mut out = String::new();
    let names: Vec<&str> = summary.subjects.iter().map(|s| s.name.as_str()).collect();
    let base = names.iter().position(|n| *n == "base");
    let all = rows::attacks(summary);
    let attacks: Vec<&AttackRow<'_>> = all.iter().filter(|r| !r.part).collect();
    let labels = |r: &AttackRow<'_>| vec![r.attack.to_owned(), r.set.to_owned(), r.judge.to_owned(), r.n()];

    let header = ["attack", "set", "judge", "n"];
    let sign = |r: &AttackRow<'_>, i: usize| if r.apart(i, base) { APART } else { "" };
    let cell = |r: &&AttackRow<'_>, i: usize| {
        let Some(a) = r.cells[i].filter(|a| a.asr.is_some()) else { return format!("{NONE:>6}") };
        let ci = a.asr_ci.map_or_else(String::new, |[lo, hi]| {
            format!(" {:>4}\u{2013}{}", decimal(lo * 100.0, 1), decimal(hi * 100.0, 1))
        });
        format!("{:>6}{ci}{}", percent(a.asr), sign(r, i))
    };
    let success = table(&header, &names, &attacks, |r| labels(r), cell);
    section(&mut out, "Attack success, share of judged answers, and its 95% interval by question", &success);

    // Refused and degenerate do not depend on the judge: one row for each attack and set.
    let mut once: Vec<&AttackRow<'_>> = Vec::new();
    for row in attacks.iter().copied() {
        if !once.iter().any(|r| (r.attack, r.set) == (row.attack, row.set)) {
            once.push(row);
        }
    }
    let cell = |r: &&AttackRow<'_>, i: usize| {
        let (refused, degenerate) = r.cells[i].map_or((None, None), |a| (a.refused, a.degenerate));
        format!("{:>6} / {:>6}{}", percent(refused), percent(degenerate), sign(r, i))
    };
    let shares = table(&["attack", "set", "n"], &names, &once, |r| vec![r.attack.into(), r.set.into(), r.n()], cell);
    section(&mut out, "Refused / degenerate, share of answers", &shares);

    let thinking: Vec<&AttackRow<'_>> = attacks.iter().copied().filter(|r| r.thinks()).collect();
    let cell = |r: &&AttackRow<'_>, i: usize| {
        let (leaks, unfinished) = r.cells[i].map_or((None, None), |a| (a.thought_leaks, a.unfinished));
        format!("{:>6} / {:>6}", percent(leaks), percent(unfinished))
    };
    let thoughts = table(&header, &names, &thinking, |r| labels(r), cell);
    section(
        &mut out,
        "Thoughts that the judge would call a success / answers that are none, the thought unfinished",
        &thoughts,
    );

    let unjudged: Vec<&AttackRow<'_>> =
        attacks.iter().copied().filter(|r| r.cells.iter().flatten().any(|a| a.unjudged > 0)).collect();
    let cell = |r: &&AttackRow<'_>, i: usize| r.cells[i].map_or_else(|| NONE.into(), |a| a.unjudged.to_string());
    section(
        &mut out,
        "Unjudged answers, which count in no rate above",
        &table(&header, &names, &unjudged, |r| labels(r), cell),
    );

    let known = likelihood::table(summary, false, &|name| name.to_owned());
    let header: Vec<&str> = known.header.iter().take(4).map(String::as_str).collect();
    let cell = |row: &Vec<String>, i: usize| row[4 + i].clone();
    let likely = table(&header, &names, &known.rows, |row| row[..4].to_vec(), cell);
    section(
        &mut out,
        "Known answers, NLL in nats per token of what follows the given tokens (difference to base)",
        &likely,
    );

    let utility = rows::utility(summary);
    let label = |r: &UtilityRow<'_>| vec![r.task.into(), r.metric.into(), r.n()];
    let cell = |r: &UtilityRow<'_>, i: usize| {
        let text = utility_cell(r, i, base);
        let (value, difference) = text.split_once(' ').unwrap_or((&text, ""));
        format!("{value:>6} {difference}")
    };
    let kept = table(&["task", "metric", "n"], &names, &utility, label, cell);
    section(&mut out, "Utility (difference to base, in points for shares)", &kept);

    let over = summary.subjects.iter().map(|s| s.over_refusal.as_ref()).collect::<Vec<_>>();
    let contrast = summary.subjects.iter().map(|s| s.contrast.as_ref()).collect::<Vec<_>>();
    for (title, refusals) in
        [("Benign questions refused", over), ("Refused, of the questions that must be refused", contrast)]
    {
        let Some(set) = refusals.iter().flatten().map(|o| o.set.as_str()).next() else { continue };
        let n = rows::counts(refusals.iter().flatten().map(|o| o.n));
        let label = |(): &()| vec![set.to_owned(), n.clone()];
        let before = base.and_then(|b| refusals[b]);
        let cell = |(): &(), i: usize| {
            let rate = format!("{:>6}", percent(refusals[i].and_then(|o| o.rate)));
            signed_apart(rate, refusals_apart(before, refusals[i]))
        };
        section(&mut out, title, &table(&["set", "n"], &names, &[()], label, cell));
    }
    if rows::any_apart(summary) {
        out.push('\n');
        out.push_str(&wrapped(APART_NOTE));
    }
    if out.is_empty() {
        out.push_str("Nothing was measured.\n");
    }
    out
}

/// What the figures come to, a sentence or two for each hardened subject; the report says why.
pub(crate) fn verdicts(told: &[String]) -> String {
    if told.is_empty() || told.len() > VERDICTS {
        return String::new();
    }
    let lines = told.iter().map(|told| wrapped(&format!("verdict: {told}")));
    std::iter::once("\n".to_owned()).chain(lines).collect()
}

fn section(out: &mut String, title: &str, blocks: &[Vec<Vec<String>>]) {
    for (i, block) in blocks.iter().enumerate() {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(title);
        out.push_str(if i == 0 { "\n" } else { ", continued\n" });
        align(out, block);
    }
}

/// A table of text in blocks that fit [`WIDTH`]; every block begins with the first `fixed` columns.
pub(crate) fn blocks(out: &mut String, text: &Table, fixed: usize) {
    let fixed = fixed.min(text.header.len());
    let header: Vec<&str> = text.header[..fixed].iter().map(String::as_str).collect();
    let names: Vec<&str> = text.header[fixed..].iter().map(String::as_str).collect();
    let cell = |row: &Vec<String>, i: usize| row.get(fixed + i).cloned().unwrap_or_default();
    for (i, block) in table(&header, &names, &text.rows, |row| row[..fixed].to_vec(), cell).iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        align(out, block);
    }
}

/// Text broken into lines of at most [`WIDTH`], those after the first indented.
pub(crate) fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut length = 0;
    for word in text.split_whitespace().map(|word| cut(word, WIDTH - 4)) {
        let needed = word.chars().count() + 1;
        if length > 0 && length + needed > WIDTH {
            out.push_str("\n   ");
            length = 3;
        }
        out.push_str(if length == 0 { "" } else { " " });
        out.push_str(&word);
        length += needed;
    }
    out.push('\n');
    out
}

/// Rows of text: labels, then a cell for each subject; in blocks that fit [`WIDTH`]. Empty without rows.
fn table<R>(
    header: &[&str],
    names: &[&str],
    rows: &[R],
    labels: impl Fn(&R) -> Vec<String>,
    cell: impl Fn(&R, usize) -> String,
) -> Vec<Vec<Vec<String>>> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut left: Vec<Vec<String>> = vec![header.iter().map(|h| (*h).to_owned()).collect()];
    left.extend(rows.iter().map(|r| labels(r).iter().map(|l| cut(l, 24)).collect()));
    let columns: Vec<Vec<String>> = (0..names.len())
        .map(|i| {
            std::iter::once(names[i].to_owned()).chain(rows.iter().map(|r| cell(r, i))).map(|c| cut(&c, CELL)).collect()
        })
        .collect();
    let left_width: usize = (0..header.len()).map(|c| 2 + width(left.iter().map(|row| &row[c]))).sum();
    let mut blocks: Vec<Vec<Vec<String>>> = Vec::new();
    let mut used = WIDTH;
    for column in columns {
        let needed = 2 + width(column.iter());
        if used + needed > WIDTH {
            blocks.push(left.clone());
            used = left_width;
        }
        used += needed;
        if let Some(block) = blocks.last_mut() {
            block.iter_mut().zip(column).for_each(|(row, cell)| row.push(cell));
        }
    }
    blocks
}

fn align(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).map(|c| width(rows.iter().map(|r| &r[c]))).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "  {cell:<width$}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

fn width<'a>(cells: impl Iterator<Item = &'a String>) -> usize {
    cells.map(|c| c.chars().count()).max().unwrap_or(0)
}

/// At most `limit` characters, control characters (a terminal would obey them) as `?`.
fn cut(text: &str, limit: usize) -> String {
    let mut cut: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(limit).collect();
    if text.chars().count() > limit {
        cut.pop();
        cut.push('\u{2026}');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing() {
        assert_eq!(terminal_table(&Summary::default()), "Nothing was measured.\n");
    }

    /// Tables ended with figures, and what they come to was in the report only.
    #[test]
    fn verdicts_end_the_table_and_are_no_second_table() {
        let told = verdicts(&["eraser: the defence held.".to_owned(), "word ".repeat(40)]);
        assert!(told.starts_with("\nverdict: eraser: the defence held.\nverdict: word "), "{told}");
        assert!(told.lines().all(|line| line.chars().count() <= WIDTH), "{told}");
        let many: Vec<String> = (0..=VERDICTS).map(|i| i.to_string()).collect();
        assert_eq!(verdicts(&many) + &verdicts(&[]), "");
    }

    #[test]
    fn cuts() {
        assert_eq!(cut("ab\u{1b}[31mc", 20), "ab?[31mc");
        assert_eq!(cut("abcdef", 4), "abc\u{2026}");
    }
}
