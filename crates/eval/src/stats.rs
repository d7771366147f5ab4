//! Statistics of an evaluation: counts and values in, shares, intervals and errors out.
//! Invariant: a figure that the data do not determine is None, never 0.

/// The 97.5 % quantile of the standard normal distribution: two-sided 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// `part / whole`; None over nothing.
pub fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The Wilson score interval (E. B. Wilson, 1927) of a proportion at 95 %, without continuity correction:
/// `[low, high]` within `[0, 1]`; None over nothing.
pub fn wilson(successes: usize, n: usize) -> Option<[f64; 2]> {
    let p = share(successes, n)?;
    let n = n as f64;
    let z2 = Z * Z;
    let centre = p + z2 / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // At p = 0 and p = 1 one end is exact; rounding would leave it an ulp away.
    let low = if p == 0.0 { 0.0 } else { ((centre - half) / scale).max(0.0) };
    let high = if p >= 1.0 { 1.0 } else { ((centre + half) / scale).min(1.0) };
    Some([low, high])
}

/// The interval of a difference of two proportions, first minus second, at 95 %: R. G. Newcombe's hybrid of Wilson
/// intervals (1998, method 10), for independent samples; conservative where both are of the same questions. Each
/// proportion is successes and their number; None over nothing.
pub fn newcombe(first: (usize, usize), second: (usize, usize)) -> Option<[f64; 2]> {
    let of = |(successes, n)| Some((share(successes, n)?, wilson(successes, n)?));
    let ((p, [p_low, p_high]), (q, [q_low, q_high])) = (of(first)?, of(second)?);
    let difference = p - q;
    Some([difference - (p - p_low).hypot(q_high - q), difference + (p_high - p).hypot(q - q_low)])
}

/// Arithmetic mean; None over nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard error of the mean: sample standard deviation (divisor n - 1) / sqrt(n); None for fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values)?;
    let n = values.len() as f64;
    let variance = values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / (n - 1.0);
    Some((variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        wilson: Vec<Wilson>,
        newcombe: Vec<Newcombe>,
        standard_error: Vec<Sample>,
    }
    #[derive(Deserialize)]
    struct Newcombe {
        first: (usize, usize),
        second: (usize, usize),
        interval: [f64; 2],
    }
    #[derive(Deserialize)]
    struct Wilson {
        successes: usize,
        n: usize,
        interval: [f64; 2],
    }
    #[derive(Deserialize)]
    struct Sample {
        values: Vec<f64>,
        value: f64,
    }

    fn fixture() -> Fixture {
        serde_json::from_str(include_str!("../tests/fixtures/stats.json")).unwrap()
    }

    #[test]
    fn wilson_equals_statsmodels() {
        for Wilson { successes, n, interval: [low, high] } in fixture().wilson {
            let [l, h] = wilson(successes, n).unwrap();
            assert!((l - low).abs() < 1e-12 && (h - high).abs() < 1e-12, "{successes}/{n}: {l} {h}");
        }
    }

    #[test]
    fn newcombe_equals_statsmodels() {
        for Newcombe { first, second, interval: [low, high] } in fixture().newcombe {
            let [l, h] = newcombe(first, second).unwrap();
            assert!((l - low).abs() < 1e-12 && (h - high).abs() < 1e-12, "{first:?} {second:?}: {l} {h}");
        }
        assert_eq!(newcombe((0, 0), (1, 2)), None);
    }

    #[test]
    fn standard_error_equals_scipy() {
        for Sample { values, value } in fixture().standard_error {
            assert!((standard_error(&values).unwrap() - value).abs() < 1e-12);
        }
        assert!((mean(&[2.5, 3.5, 1.0]).unwrap() - 7.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn wilson_ends_are_exact() {
        assert_eq!(wilson(0, 7).unwrap()[0].to_bits(), 0.0f64.to_bits());
        assert_eq!(wilson(7, 7).unwrap()[1].to_bits(), 1.0f64.to_bits());
    }

    #[test]
    fn nothing_is_none() {
        assert_eq!(share(0, 0), None);
        assert_eq!(wilson(0, 0), None);
        assert_eq!(mean(&[]), None);
        assert_eq!(standard_error(&[]), None);
        assert_eq!(standard_error(&[1.0]), None);
    }
}
