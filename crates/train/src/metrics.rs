//! metrics.jsonl and what is read off it. In: a line a step; out: the summary and the early-stop decision. Invariant: the
//! file holds exactly the steps that a resumed run builds on, each once.

use crate::checkpoint::{Horizon, Position};
use eraser_model::{Error, Result, error::PathContext, files::write_atomic};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

/// The term whose hinge a run may settle by.
const HINGE: &str = "l_harm";

/// One line of metrics.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: usize,
    /// Passes over the help set so far.
    pub epoch: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// The weighted sum of the terms.
    pub loss: f64,
    /// Mean negative log-likelihood of the harmful answers, nats per token; None for methods that do not see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll_harm: Option<f64>,
    /// The value of each term, nats per token, as `l_harm`, `l_help`, ..; which there are is the method's affair.
    #[serde(flatten)]
    pub terms: BTreeMap<String, f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of the step, all sets.
    pub tokens: usize,
    /// Wall seconds of the step.
    pub seconds: f64,
    /// Operations of its matrix products, in billions, a multiply and an add counted as two.
    #[serde(default)]
    pub gflop: f64,
}

/// The last line of `train --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSummary {
    /// Tokens per second, the first step left out when there are more.
    pub tokens_per_s: Option<f64>,
    /// Tokens counted in it.
    pub tokens: usize,
    /// Seconds counted in it.
    pub seconds: f64,
    /// Peak resident set size, MB.
    pub peak_rss_mb: Option<u64>,
    /// Threads.
    pub threads: usize,
    /// Optimiser steps done, those before a resume included.
    pub steps: usize,
    /// Share of hinges (one per harm micro-batch, sample or step, by `gamma_scope`) that were closed.
    pub capped_share: Option<f64>,
    /// The lengths that the run was given: one, and one more for every time that it was resumed with another.
    #[serde(default)]
    pub horizons: Vec<Horizon>,
}

/// Reads the metrics of a run; a line that was cut short is passed over.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>> {
    let text = std::fs::read_to_string(path).at(path)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The metrics of a run, on disk and in memory.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    lines: Vec<StepMetrics>,
    /// Lines of an earlier process: their seconds are not this one's.
    earlier: usize,
}

impl Log {
    /// Opens `path`, keeping the first `steps` steps of what it holds.
    pub(crate) fn open(path: &Path, steps: usize) -> Result<Self> {
        let mut lines = if steps > 0 { read(path)? } else { Vec::new() };
        lines.truncate(steps);
        if lines.len() != steps || lines.iter().enumerate().any(|(i, line)| line.step != i + 1) {
            return Err(Error::request(format!("{}: the first {steps} steps are not all there", path.display()))
                .hint("the file was changed since the checkpoint was written: start again without --resume"));
        }
        let mut kept = String::new();
        for line in &lines {
            kept.push_str(&serde_json::to_string(line).map_err(Error::failed)?);
            kept.push('\n');
        }
        write_atomic(path, kept.as_bytes())?;
        let file = File::options().append(true).open(path).at(path)?;
        Ok(Self { path: path.to_owned(), file, earlier: lines.len(), lines })
    }

    pub(crate) fn push(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_string(metrics).map_err(Error::failed)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).at(&self.path)?;
        self.lines.push(metrics.clone());
        Ok(())
    }

    /// True when the hinge was closed throughout the last `window` steps and the other terms moved less than 5 % between
    /// the two halves of that window. Without a hinge nothing settles.
    pub(crate) fn settled(&self, window: Option<usize>) -> bool {
        let Some(window) = window.filter(|&w| w >= 2 && w <= self.lines.len()) else { return false };
        let last = &self.lines[self.lines.len() - window..];
        if last.iter().any(|line| line.terms.get(HINGE) != Some(&0.0)) {
            return false;
        }
        let mean =
            |part: &[StepMetrics]| part.iter().flat_map(|line| line.terms.values()).sum::<f64>() / part.len() as f64;
        let (before, after) = last.split_at(window / 2);
        (mean(after) - mean(before)).abs() <= 0.05 * mean(before).max(1e-6)
    }

    pub(crate) fn summary(&self, position: &Position) -> TrainSummary {
        let own = &self.lines[self.earlier..];
        let timed = if own.len() > 1 { &own[1..] } else { own };
        let tokens = timed.iter().map(|line| line.tokens).sum();
        let seconds: f64 = timed.iter().map(|line| line.seconds).sum();
        let capped = position.capped;
        TrainSummary {
            tokens_per_s: (seconds > 0.0).then(|| tokens as f64 / seconds),
            tokens,
            seconds,
            peak_rss_mb: eraser_ops::threads::peak_rss_mb().map(|mb| mb.round() as u64),
            threads: eraser_ops::threads::count(),
            steps: position.step,
            capped_share: (capped.1 > 0).then(|| capped.0 as f64 / capped.1 as f64),
            horizons: position.horizons.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize, l_harm: f64, l_help: f64) -> StepMetrics {
        StepMetrics {
            step,
            epoch: 0.0,
            lr: 1e-3,
            loss: l_harm + l_help,
            nll_harm: Some(1.0),
            terms: BTreeMap::from([(HINGE.to_owned(), l_harm), ("l_help".to_owned(), l_help)]),
            grad_norm: 1.0,
            tokens: 10,
            seconds: 0.5,
            gflop: 1.0,
        }
    }

    #[test]
    fn reopening_drops_the_steps_after_the_checkpoint_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = Log::open(&path, 0).unwrap();
        for step in 1..=3 {
            log.push(&line(step, 0.1, 0.2)).unwrap();
        }
        log.file.write_all(b"{\"step\":4,\"ep").unwrap();
        let mut log = Log::open(&path, 2).unwrap();
        log.push(&line(3, 0.0, 0.2)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(Log::open(&path, 5).is_err());
        assert_eq!(log.summary(&Position::default()).tokens_per_s, Some(20.0));
    }

    #[test]
    fn a_run_settles_when_the_hinge_is_closed_and_the_kl_flat() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&dir.path().join("m"), 0).unwrap();
        for step in 1..=4 {
            log.push(&line(step, 0.0, 0.2)).unwrap();
        }
        assert!(log.settled(Some(4)) && !log.settled(Some(5)) && !log.settled(None));
        log.push(&line(5, 0.0, 0.4)).unwrap();
        assert!(!log.settled(Some(4)));
    }
}
