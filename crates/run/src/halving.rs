//! Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): many settings are trained for few steps, the
//! best of them for more. In: a number of settings, of steps, a budget of seconds; out: rungs. Invariant: the first
//! setting is the run file's own, and the last rung has the run file's steps.

use eraser_data::stream;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::plan::study::{Axis, Point};

/// A rung keeps one in so many settings, and the next has so many times its steps.
const KEEP: usize = 3;
/// Rungs.
const RUNGS: u32 = 3;
/// Settings with which halving begins at least: fewer leave nothing to choose from.
const FEWEST: usize = 3;
/// And at most.
const MOST: usize = 243;

/// Settings that are trained for the same number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rung {
    /// Settings.
    pub(crate) points: usize,
    /// Steps of each.
    pub(crate) steps: usize,
}

/// The rungs of a search that begins with `points` settings and ends with `steps` steps.
pub(crate) fn rungs(points: usize, steps: usize) -> Vec<Rung> {
    let rung = |i: u32| Rung { points: (points / KEEP.pow(i)).max(1), steps: (steps / KEEP.pow(RUNGS - 1 - i)).max(1) };
    let mut rungs: Vec<Rung> = (0..RUNGS).map(rung).collect();
    // So few steps that two rungs have the same are one.
    rungs.dedup_by_key(|rung| rung.steps);
    rungs
}

/// With how many settings a search can begin, so that it takes about `seconds`; `step` and `evaluation` are the seconds
/// of a training step and of the evaluation of a setting.
pub(crate) fn affordable(steps: usize, seconds: f64, step: f64, evaluation: f64) -> usize {
    let cost = |points: usize| -> f64 {
        rungs(points, steps).iter().map(|r| r.points as f64 * (r.steps as f64 * step + evaluation)).sum()
    };
    (FEWEST..=MOST).rev().find(|&points| cost(points) <= seconds).unwrap_or(FEWEST)
}

/// Setting `number` of a search over `axes`: the first is the run file's own, each other a value of every key, drawn.
pub(crate) fn draw(axes: &[Axis], seed: u64, number: usize) -> Point {
    if number == 0 {
        return Point::default();
    }
    let mut rng = stream(seed, "tune", &[number as u64]);
    let value =
        |axis: &Axis| Some((axis.key.clone(), axis.values.get(rng.random_range(0..axis.values.len()))?.clone()));
    Point { label: None, values: axes.iter().filter_map(value).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_keep_a_third_for_three_times_the_steps() {
        let found = rungs(9, 90);
        let expected = [(9, 10), (3, 30), (1, 90)].map(|(points, steps)| Rung { points, steps });
        assert_eq!(found, expected);
        assert_eq!(rungs(3, 1), [Rung { points: 3, steps: 1 }]);
    }

    #[test]
    fn the_budget_decides_how_many_begin() {
        // 27 settings: 27 x 10, 9 x 30 and 3 x 90 steps, and 39 evaluations.
        assert_eq!(affordable(90, 810.0 + 39.0, 1.0, 1.0), 27);
        assert_eq!(affordable(90, 1.0, 1.0, 1.0), FEWEST, "a search has something to choose from");
        assert!(affordable(90, 2.0 * 849.0, 1.0, 1.0) > 50);
    }

    #[test]
    fn the_first_setting_is_the_file_s_and_others_differ() {
        let axes = [Axis::parse("gamma=1,2,3,4,5").unwrap(), Axis::parse("rank=8,16").unwrap()];
        assert!(draw(&axes, 1, 0).values.is_empty());
        let all: Vec<Point> = (1..20).map(|i| draw(&axes, 1, i)).collect();
        assert!(all.iter().all(|p| p.values.len() == 2));
        assert_eq!(all[4], draw(&axes, 1, 5), "a search that goes on draws the same");
        assert!(all.iter().any(|p| p != &all[0]));
    }
}
