//! report.csv: every figure of the run as one row, for a spreadsheet or a notebook. Invariant: a cell that a
//! spreadsheet would take for a formula is quoted as text; a figure that was not measured is an empty cell.

use crate::run::Run;
use crate::summary::Subject;
use std::borrow::Cow;

/// One figure.
#[derive(Default)]
struct Row<'a> {
    subject: &'a str,
    /// `attack`, `likelihood`, `utility`, `over-refusal`, `contrast`, `agreement`.
    kind: &'a str,
    name: &'a str,
    set: &'a str,
    judge: &'a str,
    metric: Cow<'a, str>,
    n: u64,
    value: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
}

const HEADER: &str = "subject,kind,name,set,judge,metric,n,value,low,high";

/// The whole file.
pub(crate) fn render(run: &Run) -> String {
    let mut out = format!("{HEADER}\n");
    for subject in run.summary.iter().flat_map(|s| &s.subjects) {
        for row in rows(subject) {
            let number = |x: Option<f64>| x.map_or_else(String::new, |x| x.to_string());
            let cells = [
                cell(row.subject),
                cell(row.kind),
                cell(row.name),
                cell(row.set),
                cell(row.judge),
                cell(&row.metric),
                row.n.to_string(),
                number(row.value),
                number(row.low),
                number(row.high),
            ];
            out.push_str(&cells.join(","));
            out.push('\n');
        }
    }
    out
}

fn rows(subject: &Subject) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let name = subject.name.as_str();
    for a in &subject.attacks {
        let row = |metric: &'static str, value| Row {
            subject: name,
            kind: "attack",
            name: &a.attack,
            set: &a.set,
            judge: &a.judge,
            metric: metric.into(),
            n: a.n,
            value,
            ..Row::default()
        };
        let [low, high] = a.asr_ci.map_or([None; 2], |ci| ci.map(Some));
        rows.push(Row { low, high, ..row("asr", a.asr) });
        rows.push(row("refused", a.refused));
        rows.push(row("degenerate", a.degenerate));
        rows.push(row("unjudged", Some(a.unjudged as f64)));
        rows.extend(a.unfinished.map(|share| row("unfinished", Some(share))));
        let [low, high] = a.thought_leaks_ci.map_or([None; 2], |ci| ci.map(Some));
        rows.extend(a.thought_leaks.map(|share| Row { low, high, n: a.thoughts, ..row("thought_leaks", Some(share)) }));
        rows.extend(a.harmfulness.map(|grade| row("grade", Some(grade))));
    }
    for r in &subject.likelihood {
        let row = |metric: String, value, ci: Option<[f64; 2]>| {
            let [low, high] = ci.map_or([None; 2], |ci| ci.map(Some));
            let (kind, context, metric) = ("likelihood", r.context.as_str(), metric.into());
            Row { subject: name, kind, name: context, set: &r.set, metric, n: r.n, value, low, high, ..Row::default() }
        };
        rows.push(row(format!("nll_after_{}", r.cut), r.nll, r.ci));
        rows.extend(r.change.map(|c| row(format!("nll_after_{}_change", r.cut), Some(c.difference), Some(c.ci))));
    }
    for u in &subject.utility {
        let (low, high) = match (u.value, u.stderr) {
            (Some(value), Some(stderr)) => (Some(value - 1.96 * stderr), Some(value + 1.96 * stderr)),
            _ => (None, None),
        };
        let (kind, task, metric) = ("utility", u.task.as_str(), u.metric.as_str().into());
        rows.push(Row { subject: name, kind, name: task, metric, n: u.n, value: u.value, low, high, ..Row::default() });
    }
    for (kind, o) in [("over-refusal", &subject.over_refusal), ("contrast", &subject.contrast)] {
        let Some(o) = o else { continue };
        for (judge, value) in
            [("keyword", o.rate), ("model", o.judged)].into_iter().filter(|(_, value)| value.is_some())
        {
            rows.push(Row {
                subject: name,
                kind,
                set: &o.set,
                judge,
                metric: "refused".into(),
                n: o.n,
                value,
                ..Row::default()
            });
        }
    }
    for a in &subject.agreement {
        let row = |metric: &'static str, value| Row {
            subject: name,
            kind: "agreement",
            name: &a.first,
            judge: &a.second,
            metric: metric.into(),
            n: a.n,
            value,
            ..Row::default()
        };
        rows.extend([row("agree", a.agree), row("kappa", a.kappa)]);
    }
    rows
}

/// A cell of text.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{Attack, Summary};

    #[test]
    fn a_figure_is_a_row_and_no_cell_is_a_formula() {
        let attack = Attack {
            attack: "=cmd(),\"x\"".into(),
            set: "seen".into(),
            judge: "leak".into(),
            n: 4,
            asr: Some(0.25),
            asr_ci: Some([0.1, 0.6]),
            ..Attack::default()
        };
        let subject = Subject { name: "base".into(), attacks: vec![attack], ..Subject::default() };
        let summary = Summary { subjects: vec![subject], ..Summary::default() };
        let text = render(&Run { summary: Some(summary), ..Run::default() });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], HEADER);
        assert_eq!(lines[1], "base,attack,\"'=cmd(),\"\"x\"\"\",seen,leak,asr,4,0.25,0.1,0.6");
        assert_eq!(lines[2], "base,attack,\"'=cmd(),\"\"x\"\"\",seen,leak,refused,4,,,");
    }
}
