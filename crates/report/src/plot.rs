//! Curves as SVG. Input: curves of bounded values, and what the axes are called. Output: an `<svg>` in which plotters
//! has escaped every text; colours are CSS variables of the page, so it follows light and dark.

use crate::metrics::{Curve, Metrics};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

/// Drawn at twice the size it is shown at, because plotters rounds to whole pixels.
const SIZE: (u32, u32) = (1120, 520);

/// A series' name, its colour while drawing, and the CSS variable that replaces it.
#[derive(Clone, Copy)]
struct Ink {
    color: RGBColor,
    variable: &'static str,
}

const TEXT: Ink = Ink { color: RGBColor(1, 0, 0), variable: "var(--muted)" };
const GRID: Ink = Ink { color: RGBColor(2, 0, 0), variable: "var(--line)" };
const GAMMA: Ink = Ink { color: RGBColor(3, 0, 0), variable: "var(--ink)" };
const SERIES: [Ink; 6] = [
    Ink { color: RGBColor(4, 0, 0), variable: "var(--s1)" },
    Ink { color: RGBColor(5, 0, 0), variable: "var(--s2)" },
    Ink { color: RGBColor(6, 0, 0), variable: "var(--s3)" },
    Ink { color: RGBColor(7, 0, 0), variable: "var(--s4)" },
    Ink { color: RGBColor(8, 0, 0), variable: "var(--s5)" },
    Ink { color: RGBColor(9, 0, 0), variable: "var(--s6)" },
];

/// A plot with what a reader who does not see it needs to know.
#[derive(Serialize)]
pub(crate) struct Plot {
    pub(crate) svg: String,
    /// Names of the series, in the order of `--s1`, `--s2`, ..
    pub(crate) legend: Vec<String>,
    pub(crate) title: String,
}

/// What is to be drawn.
#[derive(Default)]
pub(crate) struct Chart<'a> {
    pub(crate) title: String,
    /// What the axes show; nothing is written at `y` when it is empty.
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// At most as many as there are colours; others are left out.
    pub(crate) curves: Vec<(String, &'a Curve)>,
    /// Points are marked: they are few, and the lines between them a help to the eye.
    pub(crate) marked: bool,
    /// A dashed line at this value, labelled as gamma.
    pub(crate) gamma: Option<f64>,
    /// A dashed line y = x.
    pub(crate) diagonal: bool,
}

/// The harm term (with the threshold `gamma`) and the other terms of a run; plots without points are left out.
pub(crate) fn plots(metrics: &Metrics, gamma: Option<f64>) -> Vec<Plot> {
    let gamma = gamma.filter(|g| g.is_finite() && g.abs() <= 1e6);
    let x = "optimiser step";
    let harm = vec![("nll_harm".to_owned(), &metrics.nll_harm), ("loss".to_owned(), &metrics.loss)];
    let title = "Harmful answers: negative log-likelihood, and the whole loss (nats per token)".to_owned();
    let harm = Chart { title, x, curves: harm, gamma, ..Chart::default() };
    let others = metrics.terms.iter().map(|(name, curve)| (name.clone(), curve)).collect();
    let title = "The other terms of the loss (nats per token)".to_owned();
    let others = Chart { title, x, curves: others, ..Chart::default() };
    [harm, others].into_iter().filter_map(plot).collect()
}

/// Draws; None when there are no points.
pub(crate) fn plot(mut chart: Chart<'_>) -> Option<Plot> {
    chart.curves.retain(|(_, c)| !c.points.is_empty());
    chart.curves.truncate(SERIES.len());
    let mut svg = String::new();
    // Drawing into a string fails only on an empty range, which `range` rules out; then there is no plot to show.
    draw(&mut svg, &chart).ok()?;
    for ink in [TEXT, GRID, GAMMA].into_iter().chain(SERIES) {
        let RGBColor(r, g, b) = ink.color;
        svg = svg.replace(&format!("#{r:02X}{g:02X}{b:02X}"), ink.variable);
    }
    let legend: Vec<String> = chart.curves.iter().map(|(name, _)| name.clone()).collect();
    (!legend.is_empty()).then_some(Plot { svg, legend, title: chart.title })
}

fn draw(svg: &mut String, plan: &Chart<'_>) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let Chart { curves, gamma: level, .. } = plan;
    let area: DrawingArea<SVGBackend, Shift> = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let values = || curves.iter().flat_map(|(_, c)| &c.points);
    let x = range(values().map(|p| p.0));
    let y = range(values().map(|p| p.1).chain(*level).chain([0.0]));
    // Marks at the edges are not to be cut.
    let air = if plan.marked { 0.02 * (x.1 - x.0) } else { 0.0 };
    let x = (x.0 - air, x.1);
    let style = |ink: Ink| ("sans-serif", 34).into_font().color(&ink.color);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .margin_right(36)
        .x_label_area_size(84)
        .y_label_area_size(112)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.color)
        .axis_style(TEXT.color)
        .label_style(style(TEXT))
        .axis_desc_style(style(TEXT))
        .x_desc(plan.x)
        .y_desc(plan.y)
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&|v| if plan.marked { tick(*v, x.1 - x.0) } else { format!("{v:.0}") })
        .y_label_formatter(&|v| tick(*v, y.1 - y.0))
        .draw()?;
    for ((_, curve), ink) in curves.iter().zip(SERIES) {
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), ink.color.stroke_width(4)))?;
        if plan.marked || curve.points.len() == 1 {
            let marks = curve.points.iter().map(|&point| Circle::new(point, 8, ink.color.filled()));
            chart.draw_series(marks)?;
        }
    }
    let dashed =
        |from: (f64, f64), to: (f64, f64)| DashedLineSeries::new([from, to], 12, 10, GAMMA.color.stroke_width(3));
    if plan.diagonal {
        let (low, high) = (x.0.max(y.0), x.1.min(y.1));
        if low < high {
            chart.draw_series(dashed((low, low), (high, high)))?;
        }
    }
    if let Some(level) = *level {
        chart.draw_series(dashed((x.0, level), (x.1, level)))?;
        let label = Text::new(format!("gamma {level}"), (12, -8), style(GAMMA).pos(Pos::new(HPos::Left, VPos::Bottom)));
        chart.draw_series([EmptyElement::at((x.0, level)) + label])?;
    }
    area.present()?;
    Ok(())
}

/// The smallest interval that holds the values, never empty, with a little air above.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (lo, hi) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    if lo > hi {
        return (0.0, 1.0);
    }
    let span = (hi - lo).max(1e-6 * hi.abs()).max(1e-9);
    (lo, hi + 0.1 * span)
}

/// A tick label with as many decimals as neighbouring ticks need to differ.
fn tick(value: f64, span: f64) -> String {
    if !(1e-3..1e4).contains(&span) {
        return format!("{value:.1e}");
    }
    let decimals = (1.0 - span.log10()).ceil().clamp(0.0, 5.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn metrics(points: Vec<(f64, f64)>) -> Metrics {
        let terms = vec![("l_help".to_owned(), Curve { points: points.clone() })];
        Metrics { loss: Curve { points }, terms, ..Metrics::default() }
    }

    #[test]
    fn colours_follow_the_page() {
        let plots = plots(&metrics(vec![(1.0, 0.5), (2.0, 0.7)]), Some(1.8));
        assert_eq!(plots.len(), 2);
        assert_eq!(plots[0].legend, ["loss"]);
        for plot in plots {
            assert!(plot.svg.contains("var(--s1)") && plot.svg.contains("<text"));
            assert!(!plot.svg.contains("#0"), "{}", plot.svg);
            assert!(plot.svg.trim_end().ends_with("</svg>"));
        }
    }

    proptest! {
        #[test]
        fn never_panics(points in proptest::collection::vec((0.0..1e9_f64, -1e6..1e6_f64), 0..20), gamma in proptest::option::of(any::<f64>())) {
            for plot in plots(&metrics(points), gamma) {
                prop_assert!(!plot.svg.contains("NaN"));
            }
        }

        #[test]
        fn flat_curves(x in 0.0..1e9_f64, y in -1e6..1e6_f64) {
            prop_assert_eq!(plots(&metrics(vec![(x, y); 3]), None).len(), 2);
        }
    }
}
