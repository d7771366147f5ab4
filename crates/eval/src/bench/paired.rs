//! Differences of means and of perplexities between two subjects on the same items, with 95 % intervals; those of
//! shares are in [`crate::stats`]. Invariant: only the differences within an item count, so what makes all items hard
//! for both subjects does not widen the interval.

use crate::stats::mean;
use eraser_data::stream;
use rand::RngExt as _;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;

/// The percentile interval of `statistic` over resamples of `n` items drawn with replacement (Efron and Tibshirani,
/// 1993); None for fewer than two.
pub(crate) fn bootstrap(n: usize, seed: u64, name: &str, statistic: impl Fn(&[usize]) -> f64) -> Option<[f64; 2]> {
    if n < 2 {
        return None;
    }
    let mut rng = stream(seed, &format!("bootstrap/{name}"), &[]);
    let mut items = vec![0; n];
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            items.fill_with(|| rng.random_range(0..n));
            statistic(&items)
        })
        .collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| values[((RESAMPLES - 1) as f64 * share).round() as usize];
    Some([at(0.025), at(0.975)])
}

/// The bootstrap interval of a mean difference.
pub(crate) fn means(pairs: &[(f64, f64)], seed: u64, name: &str) -> Option<[f64; 2]> {
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    bootstrap(pairs.len(), seed, name, |items| {
        mean(&items.iter().map(|&i| differences[i]).collect::<Vec<_>>()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Z;

    #[test]
    fn a_bootstrap_of_a_mean_is_near_its_normal_interval() {
        let pairs: Vec<(f64, f64)> = (0..400).map(|i| (0.0, f64::from(i % 20))).collect();
        let differences: Vec<f64> = pairs.iter().map(|p| p.1).collect();
        let error = crate::stats::standard_error(&differences).unwrap();
        let [low, high] = means(&pairs, 1, "t").unwrap();
        assert!((low - (9.5 - Z * error)).abs() < 0.05 && (high - (9.5 + Z * error)).abs() < 0.05, "{low} {high}");
        assert_eq!(means(&pairs, 1, "t"), Some([low, high]));
        assert_eq!(means(&pairs[..1], 1, "t"), None);
    }
}
