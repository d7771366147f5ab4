//! A study as the page shows it. Input: the study. Output: findings with their chips, the table, plots, slopes.
//! Invariant: what the program found is shown and not judged again.

use super::{Finding, Line, Outcome, PlotSeries, Row, Study};
use crate::metrics::Curve;
use crate::plot::{self, Chart, Plot, Scale};
use crate::slope::{self, Slope};
use crate::table::Table;
use serde::Serialize;

/// What the page is given.
#[derive(Serialize)]
pub(crate) struct StudyView {
    title: String,
    caption: String,
    facts: Vec<(&'static str, String)>,
    findings: Vec<FindingView>,
    table: Table,
    pub(super) plots: Vec<Plot>,
    /// How each condition changes what was trained; empty but for durability.
    slopes: Vec<Slope>,
}

#[derive(Serialize)]
struct FindingView {
    tone: &'static str,
    outcome: &'static str,
    claim: String,
    evidence: String,
}

/// For the page.
pub(crate) fn view(study: &Study) -> StudyView {
    let finding = |f: &Finding| FindingView {
        tone: match (f.outcome, f.settled) {
            (Outcome::Holds, true) => "good",
            (Outcome::Fails, true) => "bad",
            _ => "mixed",
        },
        outcome: match (f.outcome, f.settled) {
            (Outcome::Holds, true) => "held",
            (Outcome::Fails, true) => "failed",
            (Outcome::Holds, false) => "held here, not settled",
            (Outcome::Fails, false) => "failed here, not settled",
            (Outcome::Unmeasured, _) => "not measured",
        },
        claim: f.claim.clone(),
        evidence: f.evidence.clone(),
    };
    let draw = |p: &PlotSeries| {
        let line = |(i, s): (usize, &Line)| {
            let curve = Curve { points: s.points.clone() };
            plot::Line { ci: s.ci.clone(), ..plot::Line::new(s.name.clone(), i + 1, curve) }
        };
        let share = p.y == "share" && p.series.iter().flat_map(|s| &s.points).all(|p| (0.0..=1.0).contains(&p.1));
        plot::plot(Chart {
            title: p.title.clone(),
            x: &p.x,
            y: if share { "" } else { &p.y },
            lines: p.series.iter().enumerate().map(line).collect(),
            marked: true,
            scale: if share { Scale::Percent } else { Scale::Linear },
            levels: p.base.map(|base| ("base".to_owned(), base)).into_iter().collect(),
            diagonal: p.diagonal,
        })
    };
    StudyView {
        title: study.title(),
        caption: study.caption(),
        facts: study.facts.clone(),
        findings: study.findings.iter().map(finding).collect(),
        table: study.table(),
        plots: study.plots.iter().filter_map(draw).collect(),
        slopes: if study.is_durability() { slopes(study) } else { Vec::new() },
    }
}

/// A chart for each hardened subject and figure: from the model as it was trained to what each condition made of it.
fn slopes(study: &Study) -> Vec<Slope> {
    let mut slopes = Vec::new();
    let base = study.rows.iter().find(|row| row.subject == "base");
    for (subject, _) in study.subjects() {
        let rows: Vec<&Row> = study.rows.iter().filter(|row| row.subject == subject).collect();
        let Some((first, conditions)) = rows.split_first().filter(|(_, conditions)| !conditions.is_empty()) else {
            continue;
        };
        for figure in first.figures.iter().filter(|f| f.ci.is_some() && f.id != "degenerate") {
            let value = |row: &Row| row.figures.iter().find(|f| f.name == figure.name)?.value;
            let Some(from) = figure.value else { continue };
            let to = conditions.iter().filter_map(|row| Some((row.values.first()?.clone()?, value(row)?)));
            slopes.push(slope::slope(
                format!("{subject}: {}", figure.name),
                from,
                &to.collect::<Vec<_>>(),
                base.and_then(value),
                figure.id == "refused_plain",
            ));
        }
    }
    slopes
}
