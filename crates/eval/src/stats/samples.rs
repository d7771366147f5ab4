//! Statistics of two samples, and the harmonic mean. In: values; out: a p-value, an area, a mean. Invariant: None where
//! a sample is empty.

/// The p-value of the two-sided two-sample Kolmogorov-Smirnov test: how often samples of these sizes, drawn from one
/// continuous distribution, are as far apart as these; as `scipy.stats.ks_2samp` gives it in its exact mode, whatever
/// the sizes.
///
/// The largest distance between the two empirical distributions is a whole number over `n m`. Every order of all values
/// is equally likely, so the p-value is the share of lattice paths from `(0, 0)` to `(n, m)` that somewhere are as far
/// from the diagonal (Hodges 1958). The recursion is over the share among paths to `(i, j)`, of which the last step
/// came from the left with probability `i / (i + j)`; all its terms are positive, so small p-values are exact too.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Option<f64> {
    let (n, m) = (a.len() as u64, b.len() as u64);
    if n == 0 || m == 0 {
        return None;
    }
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort_unstable_by(f64::total_cmp);
    b.sort_unstable_by(f64::total_cmp);
    let (mut i, mut j, mut most) = (0, 0, 0);
    while let Some(&next) = match (a.get(i), b.get(j)) {
        (Some(x), Some(y)) => Some(if x.total_cmp(y).is_le() { x } else { y }),
        (x, y) => x.or(y),
    } {
        // Equal values are passed together.
        i += a[i..].iter().take_while(|x| x.total_cmp(&next).is_le()).count();
        j += b[j..].iter().take_while(|y| y.total_cmp(&next).is_le()).count();
        most = most.max((i as u64 * m).abs_diff(j as u64 * n));
    }
    let mut row = vec![0.0; b.len() + 1];
    for i in 0..=n {
        for j in 0..=m {
            let at = j as usize;
            row[at] = if (i * m).abs_diff(j * n) >= most {
                1.0
            } else {
                // What the row holds is of i - 1 still.
                let (left, below) = (if i > 0 { row[at] } else { 0.0 }, if j > 0 { row[at - 1] } else { 0.0 });
                (i as f64 * left + j as f64 * below) / ((i + j) as f64).max(1.0)
            };
        }
    }
    row.last().copied()
}

/// The area under the receiver operating characteristic: how often a value of `positive` is above one of `negative`, a
/// tie counted half (Mann and Whitney 1947).
pub fn area_under_curve(positive: &[f64], negative: &[f64]) -> Option<f64> {
    if positive.is_empty() || negative.is_empty() {
        return None;
    }
    let mut sorted = negative.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let twice = |value: &f64| {
        let below = sorted.partition_point(|other| other < value);
        (below + sorted.partition_point(|other| other <= value)) as f64
    };
    Some(positive.iter().map(twice).sum::<f64>() / (2.0 * positive.len() as f64 * sorted.len() as f64))
}

/// The harmonic mean of values that are not negative: 0 if one of them is.
pub fn harmonic_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|value| *value < 0.0) {
        return None;
    }
    // A zero makes the sum infinite and the mean 0.
    Some(values.len() as f64 / values.iter().map(|value| 1.0 / value).sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// Recorded by tests/fixtures/unlearning.py.
    #[derive(Deserialize)]
    struct Case {
        a: Vec<f64>,
        b: Vec<f64>,
        ks: f64,
        auc: f64,
        hmean: f64,
    }

    #[test]
    fn as_scipy_and_scikit_learn_give_them() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/fixtures/samples.json")).unwrap();
        for case in &cases {
            let ks = kolmogorov_smirnov(&case.a, &case.b).unwrap();
            assert!((ks - case.ks).abs() <= 1e-9 * case.ks.abs(), "{ks} {}", case.ks);
            assert!((area_under_curve(&case.a, &case.b).unwrap() - case.auc).abs() < 1e-12);
            assert!((harmonic_mean(&case.a).unwrap() - case.hmean).abs() < 1e-12);
        }
        assert!(cases.iter().any(|case| case.ks < 1e-30) && cases.len() > 6);
    }

    #[test]
    fn nothing_has_none() {
        assert_eq!(kolmogorov_smirnov(&[], &[1.0]), None);
        assert_eq!((area_under_curve(&[1.0], &[]), harmonic_mean(&[])), (None, None));
        assert_eq!(kolmogorov_smirnov(&[1.0, f64::NAN], &[1.0, f64::NAN]), Some(1.0));
    }
}
