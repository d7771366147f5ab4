//! Curves of training: all variants in one chart for each term. Input: the metrics of each trained subject. Output:
//! charts. Invariant: a variant has the colour that it has everywhere else.

use crate::metrics::Curve;
use crate::plot::{self, Chart, Line, Plot, Scale};
use crate::run::Trained;

/// More charts than any method has terms.
const MAX_CHARTS: usize = 10;

/// The charts; `color` gives the number of a subject.
pub(crate) fn plots(trained: &[Trained], color: &dyn Fn(&str) -> usize) -> Vec<Plot> {
    let measured: Vec<_> = trained.iter().filter_map(|t| Some((t, t.metrics.as_ref()?))).collect();
    let lines = |of: &dyn Fn(&crate::metrics::Metrics) -> Option<Curve>| -> Vec<Line> {
        let line = |(t, m): &(&Trained, &crate::metrics::Metrics)| Some(Line::new(&t.name, color(&t.name), of(m)?));
        measured.iter().filter_map(line).collect()
    };
    let mut levels: Vec<(String, f64)> = Vec::new();
    for gamma in measured.iter().filter_map(|(t, _)| t.gamma()) {
        let name = format!("gamma {}", crate::format::decimal(gamma, 2).trim_end_matches('0').trim_end_matches('.'));
        if !levels.iter().any(|(known, _)| *known == name) {
            levels.push((name, gamma));
        }
    }
    let x = "optimiser step";
    let mut charts = vec![
        Chart {
            title: "Harmful answers: what they cost the model (`nll_harm`)".to_owned(),
            x,
            y: "nats per token",
            lines: lines(&|m| Some(m.nll_harm.clone())),
            levels,
            ..Chart::default()
        },
        Chart {
            title: "The whole loss".to_owned(),
            x,
            y: "nats per token",
            lines: lines(&|m| Some(m.loss.clone())),
            ..Chart::default()
        },
    ];
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in measured.iter().flat_map(|(_, m)| &m.terms) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    for name in names.into_iter().take(MAX_CHARTS) {
        let lines = lines(&|m| m.terms.iter().find(|(term, _)| term == name).map(|(_, curve)| curve.clone()));
        // Divergences are never negative, and fall over decades.
        let positive = lines.iter().flat_map(|line| &line.curve.points).all(|p| p.1 >= 0.0);
        let scale = if positive { Scale::Log } else { Scale::Linear };
        let on = if positive { ", logarithmic" } else { "" };
        let title = format!("The {} term (`{name}`{on})", name.trim_start_matches("l_"));
        charts.push(Chart { title, x, y: "nats per token", lines, scale, ..Chart::default() });
    }
    charts.into_iter().filter_map(plot::plot).collect()
}
