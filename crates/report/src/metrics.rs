//! The training metrics of one subject, thinned to what a plot can show. Invariants: steps do not exceed `MAX_STEP`;
//! every value is finite and of plottable size, or absent (a run that diverged writes nulls).

use crate::error::{Error, Result};
use crate::files;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// More optimiser steps than any run has; a larger number is damage.
const MAX_STEP: u64 = 1_000_000_000;
/// Losses beyond this have diverged; they are left out of the plot and counted.
const MAX_VALUE: f64 = 1e6;
/// The term of the harmful answers.
const HARM: &str = "l_harm";
/// More terms than any method has.
const MAX_TERMS: usize = 8;
/// Points of a curve; more steps than this are averaged.
const MAX_POINTS: usize = 400;

/// One line of metrics.jsonl: the part that is plotted.
#[derive(Clone, Debug, Deserialize)]
struct Step {
    #[serde(rename = "step")]
    number: u64,
    loss: Option<f64>,
    nll_harm: Option<f64>,
    /// The terms of the loss, `l_harm` and others, and whatever else a line holds.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Step {
    /// The value of a term; None when the line does not have it, or has no number there.
    fn term(&self, name: &str) -> Option<f64> {
        self.rest.get(name)?.as_f64()
    }
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
    /// The harm term has a hinge: it is never negative.
    pub(crate) hinged: bool,
    /// First step whose hinge was closed.
    pub(crate) closed_at: Option<u64>,
    /// First and last `nll_harm`, nats per token.
    pub(crate) nll_ends: Option<(f64, f64)>,
    pub(crate) loss: Curve,
    pub(crate) nll_harm: Curve,
    /// The terms but `l_harm`, by name.
    pub(crate) terms: Vec<(String, Curve)>,
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
        let mut curve = |value: &dyn Fn(&Step) -> Option<f64>, optional: bool| {
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
        // Which terms there are, a method decides once for all its steps.
        let first = steps.first().map(|s| &s.rest);
        let names = || first.into_iter().flat_map(BTreeMap::keys).filter(|k| k.starts_with("l_") && *k != HARM);
        let loss = curve(&|s| s.loss, false);
        let nll_harm = curve(&|s| s.nll_harm, steps.first().is_some_and(|s| s.nll_harm.is_none()));
        let terms = names().take(MAX_TERMS).map(|name| (name.clone(), curve(&|s| s.term(name), false))).collect();
        let harm = || steps.iter().filter_map(|s| s.term(HARM));
        let hinged = harm().next().is_some() && harm().all(|value| value >= 0.0);
        let closed_at = steps.iter().find(|s| hinged && s.term(HARM) == Some(0.0)).map(|s| s.number);
        let nll = || steps.iter().filter_map(|s| s.nll_harm).filter(|v| v.abs() <= MAX_VALUE);
        let nll_ends = nll().next().zip(nll().next_back());
        Self { steps: steps.len(), stride, left_out, hinged, closed_at, nll_ends, loss, nll_harm, terms }
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
        let names: Vec<&str> = m.terms.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, m.hinged), (vec!["l_align", "l_help"], true));
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
