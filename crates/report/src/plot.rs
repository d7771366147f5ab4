//! Curves as SVG. Input: curves of bounded values, and what the axes are called. Output: an `<svg>` in which plotters
//! has escaped every text; colours are CSS variables of the page, so it follows light and dark. Invariant: a subject has
//! the same colour in every plot.

use crate::metrics::Curve;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;
use std::ops::Range;

/// Width and height of the drawing, which the page scales.
const SIZE: (u32, u32) = (1120, 560);
/// Fewer points are not smoothed.
const SMOOTHED: usize = 12;
/// One in so many points is averaged, to each side of a point.
const WINDOW: usize = 40;
/// On a logarithmic axis, values below this part of the largest are drawn there.
const FLOOR: f64 = 1e-5;

/// An axis with numbers where we want them; those of the library are there twice once they are rounded.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// A colour that stands for a CSS variable: plotters draws with fixed colours, and they are replaced afterwards.
#[derive(Clone, Copy)]
struct Ink {
    color: RGBColor,
    variable: &'static str,
}

const TEXT: Ink = Ink { color: RGBColor(1, 0, 0), variable: "var(--muted)" };
const GRID: Ink = Ink { color: RGBColor(2, 0, 0), variable: "var(--line)" };
const LEVEL: Ink = Ink { color: RGBColor(3, 0, 0), variable: "var(--ink)" };
const SERIES: [Ink; 6] = [
    Ink { color: RGBColor(4, 0, 0), variable: "var(--s1)" },
    Ink { color: RGBColor(5, 0, 0), variable: "var(--s2)" },
    Ink { color: RGBColor(6, 0, 0), variable: "var(--s3)" },
    Ink { color: RGBColor(7, 0, 0), variable: "var(--s4)" },
    Ink { color: RGBColor(8, 0, 0), variable: "var(--s5)" },
    Ink { color: RGBColor(9, 0, 0), variable: "var(--s6)" },
];

/// A drawing and its legend.
#[derive(Clone, Serialize)]
pub(crate) struct Plot {
    pub(crate) svg: String,
    /// Names of the curves, each with the number of its colour, from 1.
    pub(crate) legend: Vec<(String, usize)>,
    pub(crate) title: String,
}

/// A curve to draw.
#[derive(Clone, Default)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Which colour, from 0; more than there are begin again.
    pub(crate) color: usize,
    pub(crate) curve: Curve,
    /// By point: the ends of its interval; empty without intervals.
    pub(crate) ci: Vec<Option<[f64; 2]>>,
}

/// How the vertical axis is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero, or from the smallest value below it.
    #[default]
    Linear,
    /// From 0 to 100 %.
    Percent,
    /// Decades.
    Log,
}

/// Curves to draw.
#[derive(Default)]
pub(crate) struct Chart<'a> {
    pub(crate) title: String,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) lines: Vec<Line>,
    /// Points are marked, and numbers of the horizontal axis may have decimals; else it counts steps, and the curves are
    /// smoothed over their pale values.
    pub(crate) marked: bool,
    pub(crate) scale: Scale,
    /// Horizontal lines, each with its name in the right margin.
    pub(crate) levels: Vec<(String, f64)>,
    /// The line y = x is drawn.
    pub(crate) diagonal: bool,
}

impl Line {
    pub(crate) fn new(name: impl Into<String>, color: usize, curve: Curve) -> Self {
        Self { name: name.into(), color, curve, ci: Vec::new() }
    }
}

/// The chart as SVG; None without a point.
pub(crate) fn plot(mut chart: Chart<'_>) -> Option<Plot> {
    chart.lines.retain(|line| !line.curve.points.is_empty());
    chart.levels.retain(|(_, level)| level.is_finite() && level.abs() <= 1e6);
    if chart.lines.is_empty() {
        return None;
    }
    if chart.scale == Scale::Log {
        logarithmic(&mut chart);
    }
    let mut svg = String::new();
    // Drawing into a string fails only on an empty range, which `range` rules out; then there is no plot to show.
    draw(&mut svg, &chart).ok()?;
    for ink in [TEXT, GRID, LEVEL].into_iter().chain(SERIES) {
        let RGBColor(r, g, b) = ink.color;
        svg = svg.replace(&format!("#{r:02X}{g:02X}{b:02X}"), ink.variable);
    }
    let legend = chart.lines.iter().map(|line| (line.name.clone(), line.color % SERIES.len() + 1)).collect();
    Some(Plot { svg, legend, title: chart.title })
}

/// Replaces values by their decimal logarithms, those near zero by a floor. Without a positive value the axis stays
/// linear.
fn logarithmic(chart: &mut Chart<'_>) {
    let most = chart.lines.iter().flat_map(|line| &line.curve.points).map(|p| p.1).fold(0.0, f64::max);
    if most <= 0.0 {
        chart.scale = Scale::Linear;
        return;
    }
    for point in chart.lines.iter_mut().flat_map(|line| &mut line.curve.points) {
        point.1 = point.1.max(FLOOR * most).log10();
    }
}

/// The mean over a window around each point, which is shorter at the ends.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / WINDOW).max(1);
    let mean = |i: usize| {
        let half = half.min(i).min(points.len() - 1 - i);
        let window = &points[i - half..=i + half];
        (points[i].0, window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64)
    };
    (0..points.len()).map(mean).collect()
}

fn draw(svg: &mut String, plan: &Chart<'_>) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let area: DrawingArea<SVGBackend, Shift> = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let points = || plan.lines.iter().flat_map(|line| &line.curve.points);
    let ends = || plan.lines.iter().flat_map(|line| line.ci.iter().flatten().flatten().copied());
    let x = range(points().map(|p| p.0));
    let values = points().map(|p| p.1).chain(ends()).chain(plan.levels.iter().map(|(_, level)| *level));
    let y = match plan.scale {
        Scale::Linear => range(values.chain([0.0])),
        Scale::Percent => (0.0, 1.0),
        Scale::Log => range(values),
    };
    let y_ticks = match plan.scale {
        Scale::Percent => (0..=4).map(|quarter| f64::from(quarter) / 4.0).collect(),
        Scale::Log => ticks(y, 5, true),
        Scale::Linear => ticks(y, 5, false),
    };
    let x_ticks = ticks(x, 7, !plan.marked);
    // Marks at the edges are not to be cut.
    let air = if plan.marked { 0.02 * (x.1 - x.0) } else { 0.0 };
    let across = Axis { range: (x.0 - air)..(x.1 + air), ticks: x_ticks.clone() };
    let up = Axis { range: y.0..y.1, ticks: y_ticks.clone() };
    let style = |ink: Ink| ("sans-serif", 34).into_font().color(&ink.color);
    let margin = if plan.levels.is_empty() { 36 } else { 230 };
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .margin_right(margin)
        .x_label_area_size(88)
        .y_label_area_size(128)
        .build_cartesian_2d(across, up)?;
    let named = |value: f64| match plan.scale {
        Scale::Percent => format!("{:.0}%", 100.0 * value),
        Scale::Log => power(value),
        Scale::Linear => tick(value, &y_ticks),
    };
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
        .x_label_formatter(&|v| tick(*v, &x_ticks))
        .y_label_formatter(&|v| named(*v))
        .draw()?;
    for line in &plan.lines {
        let color = SERIES[line.color % SERIES.len()].color;
        let points = &line.curve.points;
        for (&(x, _), ci) in points.iter().zip(&line.ci) {
            if let Some([low, high]) = *ci {
                chart.draw_series(LineSeries::new([(x, low), (x, high)], color.mix(0.55).stroke_width(5)))?;
            }
        }
        if plan.marked || points.len() < SMOOTHED {
            chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(4)))?;
        } else {
            chart.draw_series(LineSeries::new(points.iter().copied(), color.mix(0.3).stroke_width(2)))?;
            chart.draw_series(LineSeries::new(smoothed(points), color.stroke_width(5)))?;
        }
        if plan.marked || points.len() == 1 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 8, color.filled())))?;
        }
    }
    let dashed =
        |from: (f64, f64), to: (f64, f64)| DashedLineSeries::new([from, to], 12, 10, LEVEL.color.stroke_width(3));
    if plan.diagonal {
        let (low, high) = (x.0.max(y.0), x.1.min(y.1));
        if low < high {
            chart.draw_series(dashed((low, low), (high, high)))?;
        }
    }
    for (name, level) in &plan.levels {
        chart.draw_series(dashed((x.0, *level), (x.1 + air, *level)))?;
        // The margin is outside of the plotting area, where only the drawing itself may write.
        let (right, height) = chart.backend_coord(&(x.1 + air, *level));
        let at = style(LEVEL).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name.clone(), (right + 12, height), at))?;
    }
    area.present()?;
    Ok(())
}

/// The range of some values, with air above. Never empty.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (lo, hi) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    if lo > hi {
        return (0.0, 1.0);
    }
    let span = (hi - lo).max(1e-6 * hi.abs()).max(1e-9);
    (lo, hi + 0.1 * span)
}

/// At most some `most` round numbers within a range: multiples of 1, 2 or 5 times a power of ten, of whole numbers only
/// where `whole`.
fn ticks((low, high): (f64, f64), most: usize, whole: bool) -> Vec<f64> {
    let rough = (high - low) / most as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(10.0 * power);
    let step = if whole { step.max(1.0).round() } else { step };
    let first = (low / step - 1e-9).ceil();
    let all = (0..=most + 1).map(|i| (first + i as f64) * step);
    all.take_while(|tick| *tick <= high + 1e-9 * step).collect()
}

/// A number as the axis shows it, with as many decimals as tell it from its neighbours.
fn tick(value: f64, ticks: &[f64]) -> String {
    let step = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let largest = ticks.iter().fold(value.abs(), |most, tick| most.max(tick.abs()));
    if largest >= 1e5 || step < 1e-4 {
        return format!("{value:.1e}");
    }
    let decimals = if step.is_finite() { (-step.log10() - 1e-9).ceil().clamp(0.0, 5.0) as usize } else { 2 };
    crate::format::decimal(value, decimals)
}

/// Ten to the power of `exponent`.
fn power(exponent: f64) -> String {
    let value = 10_f64.powf(exponent);
    if (1e-3..1e4).contains(&value) {
        crate::format::decimal(value, (-exponent).max(0.0).round() as usize)
    } else {
        format!("1e{exponent:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chart(points: Vec<(f64, f64)>, scale: Scale, marked: bool) -> Chart<'static> {
        let lines = vec![Line::new("eraser", 1, Curve { points })];
        let levels = vec![("gamma 1.8".to_owned(), 1.8)];
        Chart { title: "t".into(), x: "optimiser step", y: "nats", lines, marked, scale, levels, ..Chart::default() }
    }

    #[test]
    fn colours_follow_the_page() {
        let plot = plot(chart(vec![(1.0, 0.5), (2.0, 0.7)], Scale::Linear, false)).unwrap();
        assert_eq!(plot.legend, [("eraser".to_owned(), 2)]);
        assert!(plot.svg.contains("var(--s2)") && plot.svg.contains("gamma 1.8"));
        assert!(!plot.svg.contains("#0"), "{}", plot.svg);
        assert!(plot.svg.trim_end().ends_with("</svg>"));
    }

    /// A run of three steps had "1 2 2 3 3" on its axis.
    #[test]
    fn steps_are_whole_numbers_and_no_number_is_there_twice() {
        assert_eq!(ticks((1.0, 3.2), 7, true), [1.0, 2.0, 3.0]);
        assert_eq!(ticks((1.0, 64.0), 7, true), [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        let shown = |range, whole| {
            let all = ticks(range, 5, whole);
            all.iter().map(|t| tick(*t, &all)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown((0.0, 0.021), false), "0.000 0.005 0.010 0.015 0.020");
        assert_eq!(shown((-1.0, 1.0), false), "-1.0 -0.5 0.0 0.5 1.0");
        assert_eq!((power(-2.0), power(1.0), power(-6.0)), ("0.01".into(), "10".into(), "1e-6".into()));
    }

    #[test]
    fn a_smoothed_curve_keeps_its_ends_and_its_mean() {
        let points: Vec<(f64, f64)> = (0..30).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let smooth = smoothed(&points);
        assert_eq!((smooth.len(), smooth[0], smooth[29]), (30, points[0], points[29]));
        assert!(smooth[5..25].iter().all(|p| (p.1 - 0.5).abs() < 0.2), "{smooth:?}");
    }

    proptest! {
        #[test]
        fn never_panics(points in proptest::collection::vec((0.0..1e9_f64, -1e6..1e6_f64), 0..40), scale in 0..3_u8, marked in any::<bool>()) {
            let scale = [Scale::Linear, Scale::Percent, Scale::Log][scale as usize];
            let some = !points.is_empty();
            let plot = plot(chart(points, scale, marked));
            prop_assert_eq!(plot.is_some(), some);
            prop_assert!(plot.is_none_or(|p| !p.svg.contains("NaN")));
        }

        #[test]
        fn flat_curves(x in 0.0..1e9_f64, y in -1e6..1e6_f64, log in any::<bool>()) {
            let scale = if log { Scale::Log } else { Scale::Linear };
            prop_assert!(plot(chart(vec![(x, y); 3], scale, false)).is_some());
        }

        #[test]
        fn ticks_are_few_and_inside(low in -1e6..1e6_f64, span in 1e-6..1e6_f64, whole in any::<bool>()) {
            let all = ticks((low, low + span), 6, whole);
            prop_assert!(all.len() <= 8 && all.iter().all(|t| *t >= low - 1e-6 * span && *t <= low + span + 1e-6 * span));
        }
    }
}
