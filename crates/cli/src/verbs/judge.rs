//! `eraser judge`: judges compared with labels. In: labelled answers; out: a table, or JSON. Invariant: what a judge left
//! unjudged is told beside its figures.

use crate::options::judge::JudgeArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_eval::labels::JudgeFigures;
use eraser_run::Outcome;
use std::fmt::Write as _;

/// Measures, and prints the figures.
pub(crate) fn judge(args: &JudgeArgs, json: bool) -> Outcome {
    let plan = args.plan()?;
    let mut watch = Terminal::default();
    let result = eraser_run::judge(&plan, &mut watch);
    let found = watch.finish(result)?;
    if json { Ok(output::json(&found)?) } else { Ok(output::text(&table(&found))?) }
}

/// A line for each judge.
fn table(found: &[JudgeFigures]) -> String {
    let percent = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{:.1}%", 100.0 * v));
    let header = ["judge", "n", "unjudged", "accuracy", "95 %", "kappa", "yes/yes", "yes/no", "no/yes", "no/no"];
    let mut rows = vec![header.map(str::to_owned)];
    for f in found {
        let ends = f
            .accuracy_ci
            .map_or_else(|| "-".to_owned(), |[low, high]| format!("{:.1}-{:.1}%", 100.0 * low, 100.0 * high));
        rows.push([
            f.judge.clone(),
            f.n.to_string(),
            f.unjudged.to_string(),
            percent(f.accuracy),
            ends,
            f.kappa.map_or_else(|| "-".to_owned(), |kappa| format!("{kappa:.2}")),
            f.true_positives.to_string(),
            f.false_positives.to_string(),
            f.false_negatives.to_string(),
            f.true_negatives.to_string(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        // Writing to a string cannot fail.
        let _ = write!(text, "{:<w$}", row[0], w = widths[0]);
        for (cell, w) in row.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>w$}");
        }
        text.push('\n');
    }
    text + "yes/no: success by the judge / by the label. Unjudged answers count in no other column.\n"
}
