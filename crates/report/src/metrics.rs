//! The training metrics of one subject, thinned to what a plot can show. Invariants: steps do not exceed `MAX_STEP`;
//! every value is finite and of plottable size, or absent (a run that diverged writes nulls).

use crate::error::{Error, Result};
use crate::files;
use serde::Deserialize;
use std::path::Path;

/// More optimiser steps than any run has; a larger number is damage.
const MAX_STEP: u64 = 1_000_000_000;
/// Losses beyond this have diverged; they are left out of the plot and counted.
const MAX_VALUE: f64 = 1e6;
/// Points of a curve; more steps than this are averaged.
const MAX_POINTS: usize = 400;

/// One line of metrics.jsonl: the part that is plotted.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Step {
    #[serde(rename = "step")]
    number: u64,
    loss: Option<f64>,
    nll_harm: Option<f64>,
    l_harm: Option<f64>,
    l_help: Option<f64>,
    l_align: Option<f64>,
    l_retain: Option<f64>,
}

/// A curve: points `(step, value)`, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curve {
    pub(crate) points: Vec<(f64, f64)>,
}

/// What a training run went through.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    /// Steps recorded.
    pub(crate) steps: usize,
    /// Steps averaged into one point.
    pub(crate) stride: usize,
    /// Values that were not finite or too large to plot.
    pub(crate) left_out: usize,
    /// First step whose hinge was closed.
    pub(crate) closed_at: Option<u64>,
    /// First and last `nll_harm`, nats per token.
    pub(crate) nll_ends: Option<(f64, f64)>,
    pub(crate) loss: Curve,
    pub(crate) nll_harm: Curve,
    pub(crate) l_help: Curve,
    pub(crate) l_align: Curve,
    pub(crate) l_retain: Curve,
}

impl Metrics {
    /// Reads a metrics.jsonl.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        files::read_jsonl(path, |step| steps.push(step))?;
        if let Some(step) = steps.iter().find(|s| s.number > MAX_STEP) {
            return Err(Error::content(path, format_args!("step {} is out of range", step.number)));
        }
        Ok(Self::thin(&steps))
    }

    fn thin(steps: &[Step]) -> Self {
        let stride = steps.len().div_ceil(MAX_POINTS).max(1);
        let mut left_out = 0;
        let mut curve = |value: fn(&Step) -> Option<f64>, optional: bool| {
            let mut curve = Curve::default();
            for chunk in steps.chunks(stride) {
                let (mut x, mut y, mut n) = (0.0, 0.0, 0.0);
                for step in chunk {
                    match value(step) {
                        Some(v) if v.abs() <= MAX_VALUE => (x, y, n) = (x + step.number as f64, y + v, n + 1.0),
                        None if optional => {}
                        _ => left_out += 1,
                    }
                }
                if n > 0.0 {
                    curve.points.push((x / n, y / n));
                }
            }
            curve
        };
        let loss = curve(|s| s.loss, false);
        let nll_harm = curve(|s| s.nll_harm, false);
        let l_help = curve(|s| s.l_help, false);
        let l_align = curve(|s| s.l_align, false);
        let l_retain = curve(|s| s.l_retain, true);
        let closed_at = steps.iter().find(|s| s.l_harm == Some(0.0)).map(|s| s.number);
        let nll = || steps.iter().filter_map(|s| s.nll_harm).filter(|v| v.abs() <= MAX_VALUE);
        let nll_ends = nll().next().zip(nll().next_back());
        Self { steps: steps.len(), stride, left_out, closed_at, nll_ends, loss, nll_harm, l_help, l_align, l_retain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Metrics> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Metrics::read(file.path())
    }

    #[test]
    fn averages_long_runs() {
        let line = |i| format!(r#"{{"step":{i},"loss":{i},"nll_harm":1.0,"l_harm":0.8,"l_help":0,"l_align":0}}"#);
        let text = (1..=801).map(line).collect::<Vec<_>>().join("\n");
        let m = read(&text).unwrap();
        assert_eq!((m.steps, m.stride, m.left_out), (801, 3, 0));
        assert_eq!(m.loss.points[0], (2.0, 2.0));
        assert_eq!(m.loss.points.len(), 267);
        assert_eq!(m.closed_at, None);
        assert!(m.l_retain.points.is_empty());
    }

    #[test]
    fn a_diverged_run_is_no_error() {
        let m = read("{\"step\":1,\"loss\":1.5,\"nll_harm\":1.5,\"l_harm\":0.0,\"l_help\":0,\"l_align\":0}\n{\"step\":2,\"loss\":null,\"nll_harm\":1e300,\"l_help\":0,\"l_align\":0}\n").unwrap();
        assert_eq!(m.left_out, 2);
        assert_eq!(m.nll_ends, Some((1.5, 1.5)));
        assert_eq!(m.closed_at, Some(1));
        assert!(read("{\"step\":18446744073709551615}\n").is_err());
        assert!(read("{\"loss\":1}\n").is_err());
    }
}
