//! A slope chart. Input: a share of the model as it was trained, and after each of some conditions. Output: places of
//! lines and labels, which the page's template draws. Invariant: labels do not cover each other.

use crate::bounds::HELD;
use crate::format::percent;
use serde::Serialize;

/// The height of the plotting area, in the units of the drawing.
const HEIGHT: f64 = 200.0;
/// Free space above it.
const TOP: f64 = 24.0;
/// The least distance of two labels.
const APART: f64 = 17.0;

/// A chart.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Slope {
    pub(crate) title: String,
    pub(crate) from: Mark,
    pub(crate) lines: Vec<SlopeLine>,
    /// The base model's share, a level line.
    pub(crate) base: Option<Mark>,
    /// Where the labels of the two on the left stand.
    pub(crate) from_at: String,
    pub(crate) base_at: String,
    pub(crate) height: String,
}

/// A share, where it is drawn.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Mark {
    pub(crate) y: String,
    pub(crate) value: String,
}

/// A condition.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SlopeLine {
    pub(crate) label: String,
    pub(crate) end: Mark,
    /// Where its label stands.
    pub(crate) at: String,
    /// Whether it takes the share to where it should not be.
    pub(crate) bad: bool,
}

/// The chart; where `high` is good, a fall is bad, else a rise beyond what a defence may leave.
pub(crate) fn slope(title: String, from: f64, to: &[(String, f64)], base: Option<f64>, high: bool) -> Slope {
    let y = |share: f64| TOP + (1.0 - share.clamp(0.0, 1.0)) * HEIGHT;
    let mark = |share: f64| Mark { y: format!("{:.1}", y(share)), value: percent(Some(share)) };
    let mut order: Vec<&(String, f64)> = to.iter().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let places = spread(&order.iter().map(|(_, share)| y(*share)).collect::<Vec<_>>());
    let line = |((label, share), at): (&&(String, f64), f64)| SlopeLine {
        label: format!("{} {label}", percent(Some(*share))),
        end: mark(*share),
        at: format!("{at:.1}"),
        bad: if high { from - share > HELD } else { *share > HELD && *share > from },
    };
    let (from_at, base_at) = left_labels(y(from), base.map_or(f64::MAX, y));
    let bottom = places.iter().copied().fold(TOP + HEIGHT, f64::max);
    let lines = order.iter().zip(places).map(line).collect();
    let [from_at, base_at, height] = [from_at, base_at, bottom + 34.0].map(|at| format!("{at:.1}"));
    Slope { title, from: mark(from), lines, base: base.map(mark), from_at, base_at, height }
}

/// Two places moved apart where they touch.
fn left_labels(a: f64, b: f64) -> (f64, f64) {
    let (middle, half) = (f64::midpoint(a, b), APART / 2.0);
    match (a - b).abs() < APART {
        false => (a, b),
        true if a < b => (middle - half, middle + half),
        true => (middle + half, middle - half),
    }
}

/// Ordered places moved apart, as little as that takes.
fn spread(wanted: &[f64]) -> Vec<f64> {
    let mut places: Vec<f64> = Vec::with_capacity(wanted.len());
    // Places that touch move as one group, to the mean of what they want.
    let mut groups: Vec<(f64, usize)> = Vec::new();
    for &place in wanted {
        groups.push((place, 1));
        while let [.., (a, n), (b, m)] = groups[..] {
            if b - a >= APART * (n + m) as f64 / 2.0 {
                break;
            }
            groups.truncate(groups.len() - 2);
            groups.push(((a * n as f64 + b * m as f64) / (n + m) as f64, n + m));
        }
    }
    for (middle, n) in groups {
        // Not higher than the plotting area, where the heads of the columns stand.
        let above = places.last().map_or(TOP, |last| last + APART);
        let first = (middle - APART * (n - 1) as f64 / 2.0).max(above);
        places.extend((0..n).map(|i| first + APART * i as f64));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_opens_a_defence_is_marked() {
        let to = [("8 bits".to_owned(), 0.0), ("relearning".to_owned(), 0.9)];
        let chart = slope("x".into(), 0.0, &to, Some(0.5), false);
        let marked: Vec<_> = chart.lines.iter().map(|line| (line.label.as_str(), line.bad)).collect();
        assert_eq!(marked, [("90.0% relearning", true), ("0.0% 8 bits", false)]);
        let chart = slope("x".into(), 1.0, &to, None, true);
        assert!(chart.lines.iter().all(|line| line.bad == (line.label != "90.0% relearning")));
    }

    proptest! {
        #[test]
        fn labels_do_not_cover_each_other(mut wanted in proptest::collection::vec(0.0..200.0_f64, 0..12)) {
            wanted.sort_by(f64::total_cmp);
            let places = spread(&wanted);
            prop_assert_eq!(places.len(), wanted.len());
            prop_assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= APART - 1e-6), "{:?}", places);
        }
    }
}
