//! Statistics of an evaluation. In: counts by question, values; out: shares, 95 % intervals, standard errors.
//! Invariants: a figure that the data do not determine is None, never 0; answers to one question never count as
//! independent.

mod samples;

pub use samples::{area_under_curve, harmonic_mean, kolmogorov_smirnov};

use serde::{Deserialize, Serialize};

/// The 97.5 % quantile of the standard normal distribution: two-sided 95 %.
pub(crate) const Z: f64 = 1.959_963_984_540_054;

/// `part / whole`; None over nothing.
pub fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Answers that one question got: how many there are, and how many of them count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Answers that count: successes, refusals.
    pub part: usize,
    /// All answers.
    pub n: usize,
}

/// The same prompts of one question answered by two subjects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paired {
    /// Answers that count of the second subject, less those of the first.
    pub change: i64,
    /// Prompts that both answered.
    pub n: usize,
}

/// A difference of two shares on the same questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The second share less the first.
    pub difference: f64,
    /// Its 95 % interval.
    pub ci: [f64; 2],
    /// Prompts that both subjects answered.
    pub n: usize,
    /// Questions that these prompts ask.
    pub questions: usize,
}

/// The 95 % interval of a share whose answers come in clusters, one per question: twelve templates around one question
/// are not twelve independent answers. `[low, high]` within `[0, 1]`; None without answers.
///
/// It is Wilson's score interval (1927) with the effective number of answers `n / deff` in place of `n` (Kish 1965;
/// Korn and Graubard 1998; Dean and Pagano 2015 and Franco et al. 2019 compare it with others). The design effect is
/// `deff = 1 + (m - 1) rho` with `m` the mean cluster size as an answer sees it (`sum n_i^2 / n`). `rho`, how alike
/// answers to one question are, is that of the linearised variance between clusters, drawn towards 1 as if one more
/// question had shown complete likeness: it is badly known where few questions show both outcomes. The normal quantile
/// becomes Student's with one degree of freedom less than there are questions.
///
/// Special cases: with one answer per question it is Wilson's interval; where all answers are the same, Wilson's
/// interval with the number of questions as `n`. The upper end is never below that of no success at all, nor the lower
/// end above that of successes only: another success must not make the interval narrower.
pub fn interval(clusters: &[Cluster]) -> Option<[f64; 2]> {
    let clusters: Vec<Cluster> = clusters.iter().copied().filter(|c| c.n > 0).collect();
    let sum = |of: &dyn Fn(&Cluster) -> f64| clusters.iter().map(of).sum::<f64>();
    let (count, n) = (clusters.len() as f64, sum(&|c| c.n as f64));
    if clusters.is_empty() {
        return None;
    }
    let p = sum(&|c| c.part as f64) / n;
    if p <= 0.0 || p >= 1.0 {
        return Some(wilson(p, count, Z));
    }
    let size = sum(&|c| (c.n as f64).powi(2)) / n;
    if size <= 1.0 {
        return Some(wilson(p, n, Z));
    }
    // Questions that show the rarer outcome are those that tell how alike answers to one question are.
    let rarer = |c: &Cluster| if p <= 0.5 { c.part > 0 } else { c.part < c.n };
    let informative = clusters.iter().filter(|c| rarer(c)).count() as f64;
    let between = count / (count - 1.0) * sum(&|c| (c.part as f64 - p * c.n as f64).powi(2)) / (n * n);
    let measured = (between * n / (p * (1.0 - p)) - 1.0) / (size - 1.0);
    let rho =
        if clusters.len() > 1 { (measured.clamp(0.0, 1.0) * informative + 1.0) / (informative + 1.0) } else { 1.0 };
    let [low, high] = wilson(p, n / (1.0 + (size - 1.0) * rho), student(clusters.len() - 1));
    let nothing = Z * Z / (count + Z * Z);
    Some([low.min(1.0 - nothing), high.max(nothing)])
}

/// The difference of two shares on the same prompts, with its 95 % interval; None without prompts.
///
/// Adjusted Wald interval of paired proportions (Bonett and Price 2012), by question: to the questions one is added on
/// which every answer was gained and one on which every answer was lost, both of mean size, so that no change at all
/// does not claim certainty; the variance is that between questions, the quantile Student's. With one prompt per
/// question it is the published interval.
pub fn change(clusters: &[Paired]) -> Option<Change> {
    let clusters: Vec<Paired> = clusters.iter().copied().filter(|c| c.n > 0).collect();
    let questions = clusters.len();
    let n: usize = clusters.iter().map(|c| c.n).sum();
    let net: i64 = clusters.iter().map(|c| c.change).sum();
    if questions == 0 {
        return None;
    }
    let difference = net as f64 / n as f64;
    let mean_size = n as f64 / questions as f64;
    let (all, count) = (n as f64 + 2.0 * mean_size, questions as f64 + 2.0);
    let centre = net as f64 / all;
    let spread = |change: f64, n: f64| (change - centre * n).powi(2);
    let added = spread(mean_size, mean_size) + spread(-mean_size, mean_size);
    let squares = added + clusters.iter().map(|c| spread(c.change as f64, c.n as f64)).sum::<f64>();
    let (scale, quantile) = if n == questions { (1.0, Z) } else { (count / (count - 1.0), student(questions + 1)) };
    let half = quantile * (scale * squares).sqrt() / all;
    let ci = [(centre - half).max(-1.0), (centre + half).min(1.0)];
    Some(Change { difference, ci, n, questions })
}

/// The 95 % interval of the mean of independent values, one per question: Student's, with the standard error between
/// them; None for fewer than two. Several values of one question are to be averaged first.
pub fn mean_interval(values: &[f64]) -> Option<[f64; 2]> {
    let (centre, error) = (mean(values)?, standard_error(values)?);
    let half = student(values.len() - 1) * error;
    Some([centre - half, centre + half])
}

/// Wilson's score interval of the share `p` of `n` answers, with the quantile `z`; the ends at 0 and 1 are exact.
fn wilson(p: f64, n: f64, z: f64) -> [f64; 2] {
    let z2 = z * z;
    let centre = p + z2 / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // Rounding would leave them an ulp away.
    let low = if p <= 0.0 { 0.0 } else { ((centre - half) / scale).max(0.0) };
    let high = if p >= 1.0 { 1.0 } else { ((centre + half) / scale).min(1.0) };
    [low, high]
}

/// The 97.5 % quantile of Student's t distribution: a table, then the expansion in powers of `1 / freedom` (Abramowitz
/// and Stegun 26.7.5), whose error is below 1e-5 there.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 10] =
        [12.706_205, 4.302_653, 3.182_446, 2.776_445, 2.570_582, 2.446_912, 2.364_624, 2.306_004, 2.262_157, 2.228_139];
    if let Some(&value) = freedom.checked_sub(1).and_then(|at| TABLE.get(at)) {
        return value;
    }
    let (z, v) = (Z, freedom.max(1) as f64);
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
        (79.0 * z.powi(9) + 776.0 * z.powi(7) + 1482.0 * z.powi(5) - 1920.0 * z.powi(3) - 945.0 * z) / 92160.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| (sum + term) / v) + z
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
mod tests;
