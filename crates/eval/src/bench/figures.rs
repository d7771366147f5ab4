//! Figures of a task, and their differences to the base. In: the scores of its items; out: rows of a summary.
//! Invariant: a figure over nothing is None.

use super::metric::{Aggregate, Metric};
use super::paired;
use super::results::{Difference, ItemScore};
use crate::stats::{self, Cluster, Paired, mean, standard_error};
use crate::summary::UtilitySummary;

/// The values of all items under a metric.
pub(crate) fn values(scores: &[ItemScore], metric: Metric) -> Vec<f64> {
    scores.iter().filter_map(|s| s.metrics.get(metric.name()).copied()).collect()
}

/// The perplexity of some windows or answers together.
fn pooled<'a>(aggregate: Aggregate, scores: impl Iterator<Item = &'a ItemScore>) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for score in scores {
        sum += score.loglikelihoods.iter().sum::<f64>();
        count += if aggregate == Aggregate::PerItem { 1 } else { score.tokens.iter().sum::<usize>() };
    }
    (-sum / count as f64).exp()
}

/// The figure of a task.
pub(crate) fn figure(task: &str, metric: Metric, scores: &[ItemScore]) -> UtilitySummary {
    let values = values(scores, metric);
    let (value, stderr) = match metric.aggregate() {
        // The error of a ratio of sums is not that of a mean; the interval of the difference is resampled.
        aggregate @ (Aggregate::PerToken | Aggregate::PerItem) => {
            ((!scores.is_empty()).then(|| pooled(aggregate, scores.iter())), None)
        }
        _ => (mean(&values), standard_error(&values)),
    };
    // Each item is a question of its own.
    let right = values.iter().map(|v| Cluster { part: usize::from(*v > 0.5), n: 1 }).collect::<Vec<_>>();
    let ci = if metric.aggregate() == Aggregate::Share { stats::interval(&right) } else { None };
    let (task, metric, n) = (task.to_owned(), metric.name().to_owned(), values.len());
    UtilitySummary { task, metric, n, value, stderr, ci, change: None }
}

/// The difference of `subject` to the base on the same items.
pub(crate) fn difference(
    subject: &str,
    (task, metric): (&str, Metric),
    (before, after): (&[ItemScore], &[ItemScore]),
    seed: u64,
) -> Difference {
    let pairs: Vec<(f64, f64)> = values(before, metric).into_iter().zip(values(after, metric)).collect();
    let (a, b) = (figure(task, metric, before).value, figure(task, metric, after).value);
    let name = format!("{task}/{}", metric.name());
    let (ci, method) = match metric.aggregate() {
        aggregate @ (Aggregate::PerToken | Aggregate::PerItem) => {
            let of =
                |scores: &[ItemScore], items: &[usize]| pooled(aggregate, items.iter().filter_map(|&i| scores.get(i)));
            let statistic = |items: &[usize]| of(after, items) - of(before, items);
            (paired::bootstrap(pairs.len(), seed, &name, statistic), "bootstrap")
        }
        Aggregate::Share => {
            let pair = |(a, b): &(f64, f64)| Paired { change: i64::from(b > a) - i64::from(a > b), n: 1 };
            (stats::change(&pairs.iter().map(pair).collect::<Vec<_>>()).map(|c| c.ci), "bonett-price")
        }
        Aggregate::Mean | Aggregate::Part => (paired::means(&pairs, seed, &name), "bootstrap"),
    };
    Difference {
        subject: subject.to_owned(),
        task: task.to_owned(),
        metric: metric.name().to_owned(),
        n: pairs.len(),
        difference: a.zip(b).map(|(a, b)| b - a),
        ci,
        method: method.to_owned(),
    }
}
