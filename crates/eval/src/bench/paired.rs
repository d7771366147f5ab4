//! Differences between two subjects on the same items, with 95 % intervals. Invariant: only the differences within an
//! item count, so what makes all items hard for both subjects does not widen the interval.

use crate::stats::mean;
use eraser_data::stream;
use rand::RngExt as _;

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;
/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;

/// The adjusted Wald interval of a difference of paired proportions (Bonett and Price, 2012): one discordant pair is
/// added each way, so no change at all does not claim certainty. `pairs` hold 0 or 1 of the base and of the subject.
pub(crate) fn proportions(pairs: &[(f64, f64)]) -> Option<[f64; 2]> {
    if pairs.is_empty() {
        return None;
    }
    let count = |gained: bool| pairs.iter().filter(|(a, b)| if gained { b > a } else { a > b }).count() as f64;
    let n = pairs.len() as f64 + 2.0;
    let (gained, lost) = ((count(true) + 1.0) / n, (count(false) + 1.0) / n);
    let centre = gained - lost;
    let half = Z * ((gained + lost - centre * centre) / n).sqrt();
    Some([(centre - half).max(-1.0), (centre + half).min(1.0)])
}

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

    #[test]
    fn proportions_follow_the_formula() {
        // 100 pairs: 7 gained, 15 lost.
        let mut pairs = vec![(0.0, 1.0); 7];
        pairs.extend(vec![(1.0, 0.0); 15]);
        pairs.extend(vec![(1.0, 1.0); 78]);
        let (p, q): (f64, f64) = (8.0 / 102.0, 16.0 / 102.0);
        let half = 1.959_963_984_540_054 * ((p + q - (p - q).powi(2)) / 102.0).sqrt();
        let [low, high] = proportions(&pairs).unwrap();
        assert!((low - (p - q - half)).abs() < 1e-12 && (high - (p - q + half)).abs() < 1e-12);
        let [low, high] = proportions(&[(1.0, 1.0); 10]).unwrap();
        assert!(low < 0.0 && high > 0.0, "no change is no certainty");
        assert_eq!(proportions(&[]), None);
    }

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
