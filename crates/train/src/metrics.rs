//! metrics.jsonl and what is computed from it. In: one line per step; out: the summary and the early-stop decision.
//! Invariant: the file holds exactly the steps that a resumed run builds on, each once.

use crate::{
    checkpoint::{Horizon, Position, is_one, one},
    group::Traffic,
    micro_batch::Seen,
    threshold::Threshold,
};
use eraser_model::{Error, Result, error::PathContext, files::write_atomic};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

/// One line of metrics.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: usize,
    /// Epochs so far: an epoch is once through the help set.
    pub epoch: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// The weighted sum of the terms.
    pub loss: f64,
    /// Mean negative log-likelihood of the harmful answers, nats per token; None for methods that do not see them, and
    /// for a step in which no token of them was supervised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll_harm: Option<f64>,
    /// The value of each term, nats per token, as `l_harm`, `l_help`, ..: those of the method, without a term that had
    /// no supervised token in the step; and the dual variables of the step, as `dual_help`, ..
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
    /// The ranks that took the last step.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ranks: usize,
    /// What went between them, from the first step on; None for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Optimiser steps done, those before a resume included.
    pub steps: usize,
    /// Share of hinges (one per harm micro-batch, sample or step, by `gamma_scope`) that were closed.
    pub capped_share: Option<f64>,
    /// The lengths that were asked for: the first, and one more for each time that the run was resumed with another
    /// length.
    #[serde(default)]
    pub horizons: Vec<Horizon>,
    /// The threshold of the hinge that was used; None for methods without one.
    #[serde(default)]
    pub threshold: Option<Threshold>,
    /// True when no hinge was ever open: the harmful answers cost more than gamma from the first step on, or no token
    /// of them was supervised. So nothing was unlearned.
    #[serde(default)]
    pub nothing_unlearned: bool,
    /// Samples by term: drawn, cut, without a supervised token.
    #[serde(default)]
    pub samples: BTreeMap<String, Seen>,
    /// Steps whose gradient was larger than [`LARGE_NORM`]; None if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_gradients: Option<LargeGradients>,
}

/// The norm of a gradient that is worth a word. In sound runs of models of up to half a billion parameters the largest
/// were 1 to 36; arithmetic that had lost its precision gave 200 and more (docs/decisions.md).
pub const LARGE_NORM: f64 = 100.0;

/// Gradients larger than [`LARGE_NORM`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LargeGradients {
    /// Steps that had one.
    pub steps: usize,
    /// The largest norm, before clipping.
    pub largest: f64,
    /// Its step, from 1.
    pub step: usize,
}

impl LargeGradients {
    fn of(lines: &[StepMetrics]) -> Option<Self> {
        let large = || lines.iter().filter(|line| line.grad_norm > LARGE_NORM);
        let most = large().max_by(|a, b| a.grad_norm.total_cmp(&b.grad_norm))?;
        Some(Self { steps: large().count(), largest: most.grad_norm, step: most.step })
    }
}

/// Reads the metrics of a run; a line that was cut short is left out.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>> {
    let text = std::fs::read_to_string(path).at(path)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The metrics of a run, on disk and in memory.
pub(crate) struct Log {
    /// None: another rank writes.
    file: Option<(PathBuf, File)>,
    lines: Vec<StepMetrics>,
    /// The key of the term with a hinge.
    hinge: Option<String>,
    /// Lines of an earlier process: their seconds are not this one's.
    earlier: usize,
}

impl Log {
    /// Opens `path`, keeping the first `steps` steps of what it holds. `hinge` is the key of the term that a run may
    /// settle by.
    pub(crate) fn open(path: &Path, steps: usize, hinge: Option<String>) -> Result<Self> {
        let mut lines = if steps > 0 { read(path)? } else { Vec::new() };
        lines.truncate(steps);
        if lines.len() != steps || lines.iter().enumerate().any(|(i, line)| line.step != i + 1) {
            return Err(Error::request(format!("{}: some of the first {steps} steps are missing", path.display()))
                .hint("the file was changed since the checkpoint was written: start again without --resume"));
        }
        let mut kept = String::new();
        for line in &lines {
            kept.push_str(&serde_json::to_string(line).map_err(Error::failed)?);
            kept.push('\n');
        }
        write_atomic(path, kept.as_bytes())?;
        let file = File::options().append(true).open(path).writing(path)?;
        Ok(Self { file: Some((path.to_owned(), file)), hinge, earlier: lines.len(), lines })
    }

    /// That of a rank which writes nothing, and decides nothing by it.
    pub(crate) fn unwritten() -> Self {
        Self { file: None, lines: Vec::new(), hinge: None, earlier: 0 }
    }

    pub(crate) fn push(&mut self, metrics: &StepMetrics) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            let mut line = serde_json::to_string(metrics).map_err(Error::failed)?;
            line.push('\n');
            file.write_all(line.as_bytes()).writing(path)?;
        }
        self.lines.push(metrics.clone());
        Ok(())
    }

    /// True when the hinge was closed throughout the last `window` steps and the other terms moved less than 5 %
    /// between the two halves of that window; a window of one step is compared with the step before it. Without a hinge
    /// a run never settles.
    pub(crate) fn settled(&self, window: Option<usize>) -> bool {
        let (Some(window), Some(hinge)) = (window, &self.hinge) else { return false };
        let compared = window.max(2);
        let Some(start) = self.lines.len().checked_sub(compared) else { return false };
        let last = &self.lines[start..];
        if last[compared - window.min(compared)..].iter().any(|line| line.terms.get(hinge) != Some(&0.0)) {
            return false;
        }
        let mean =
            |part: &[StepMetrics]| part.iter().flat_map(|line| line.terms.values()).sum::<f64>() / part.len() as f64;
        let (before, after) = last.split_at(compared / 2);
        (mean(after) - mean(before)).abs() <= 0.05 * mean(before).max(1e-6)
    }

    /// `traffic` is the ranks' in the steps of this process.
    pub(crate) fn summary(&self, position: &Position, traffic: Option<Traffic>) -> TrainSummary {
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
            ranks: position.ranks,
            traffic,
            steps: position.step,
            capped_share: (capped.1 > 0).then(|| capped.0 as f64 / capped.1 as f64),
            horizons: position.horizons.clone(),
            threshold: position.threshold,
            nothing_unlearned: position.threshold.is_some() && position.step > 0 && capped.0 == capped.1,
            samples: position.samples.clone(),
            large_gradients: LargeGradients::of(&self.lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_beyond_all_that_is_usual_is_counted() {
        let lines = |norms: &[f64]| -> Vec<StepMetrics> {
            let of = |(i, &grad_norm)| StepMetrics { grad_norm, ..line(i + 1, 0.0, 0.0) };
            norms.iter().enumerate().map(of).collect()
        };
        assert_eq!(LargeGradients::of(&lines(&[1.0, LARGE_NORM])), None);
        let found = LargeGradients::of(&lines(&[430.0, 2.0, 2608.0, 600.0]));
        assert_eq!(found, Some(LargeGradients { steps: 3, largest: 2608.0, step: 3 }));
    }

    fn line(step: usize, l_harm: f64, l_help: f64) -> StepMetrics {
        StepMetrics {
            step,
            epoch: 0.0,
            lr: 1e-3,
            loss: l_harm + l_help,
            nll_harm: Some(1.0),
            terms: BTreeMap::from([("l_forget".to_owned(), l_harm), ("l_help".to_owned(), l_help)]),
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
        let mut log = Log::open(&path, 0, None).unwrap();
        for step in 1..=3 {
            log.push(&line(step, 0.1, 0.2)).unwrap();
        }
        log.file.as_mut().unwrap().1.write_all(b"{\"step\":4,\"ep").unwrap();
        let mut log = Log::open(&path, 2, None).unwrap();
        log.push(&line(3, 0.0, 0.2)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(Log::open(&path, 5, None).is_err());
        assert_eq!(log.summary(&Position::default(), None).tokens_per_s, Some(20.0));
    }

    #[test]
    fn a_run_settles_when_the_hinge_is_closed_and_the_kl_flat() {
        let dir = tempfile::tempdir().unwrap();
        let log = |hinge: Option<&str>| Log::open(&dir.path().join("m"), 0, hinge.map(ToOwned::to_owned)).unwrap();
        let mut log = log(Some("l_forget"));
        for step in 1..=4 {
            log.push(&line(step, 0.0, 0.2)).unwrap();
        }
        assert!(log.settled(Some(4)) && !log.settled(Some(5)) && !log.settled(None));
        log.push(&line(5, 0.0, 0.4)).unwrap();
        assert!(!log.settled(Some(4)));
    }

    /// `--early-stop 1` never stopped: half of a window of one step is nothing.
    #[test]
    fn a_window_of_one_step_is_compared_with_the_step_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&dir.path().join("m"), 0, Some("l_forget".to_owned())).unwrap();
        log.push(&line(1, 0.5, 0.2)).unwrap();
        assert!(!log.settled(Some(1)));
        log.push(&line(2, 0.0, 0.3)).unwrap();
        assert!(!log.settled(Some(1)), "the other terms moved");
        log.push(&line(3, 0.0, 0.3)).unwrap();
        assert!(log.settled(Some(1)) && log.settled(Some(2)) && !log.settled(Some(3)));
        log.hinge = None;
        assert!(!log.settled(Some(1)), "without a hinge nothing settles");
        log.hinge = Some("l_forget".to_owned());
        let mut unsupervised = line(4, 0.0, 0.3);
        unsupervised.terms.remove("l_forget");
        log.push(&unsupervised).unwrap();
        assert!(!log.settled(Some(1)), "a step that supervised nothing has no closed hinge");
    }

    #[test]
    fn a_hinge_that_was_never_open_unlearned_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("m"), 0, None).unwrap();
        let threshold = Some(Threshold { gamma: 1.8, measured: None });
        let nothing = |capped, threshold| {
            log.summary(&Position { step: 2, capped, threshold, ..Position::default() }, None).nothing_unlearned
        };
        assert!(nothing((4, 4), threshold) && !nothing((3, 4), threshold));
        assert!(nothing((0, 0), threshold), "nothing was supervised");
        assert!(!nothing((0, 0), None), "a method without a hinge");
    }
}
