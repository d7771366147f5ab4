//! Against recorded figures of statsmodels and scipy, and against simulated evaluations.

use super::*;
use eraser_data::stream;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

#[derive(Deserialize)]
struct Fixture {
    wilson: Vec<Wilson>,
    student: Vec<(usize, f64)>,
    standard_error: Vec<Sample>,
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
    serde_json::from_str(include_str!("../../tests/fixtures/stats.json")).unwrap()
}

/// `parts` successes of `n` answers to each question.
fn clusters(parts: &[usize], n: usize) -> Vec<Cluster> {
    parts.iter().map(|&part| Cluster { part, n }).collect()
}

/// One answer per question.
fn single(successes: usize, n: usize) -> Vec<Cluster> {
    (0..n).map(|i| Cluster { part: usize::from(i < successes), n: 1 }).collect()
}

fn close([a, b]: [f64; 2], [c, d]: [f64; 2], tolerance: f64) -> bool {
    (a - c).abs() < tolerance && (b - d).abs() < tolerance
}

#[test]
fn with_one_answer_per_question_it_is_the_wilson_interval_of_statsmodels() {
    for Wilson { successes, n, interval: expected } in fixture().wilson {
        let found = interval(&single(successes, n)).unwrap();
        assert!(close(found, expected, 1e-12), "{successes}/{n}: {found:?}");
    }
}

#[test]
fn quantiles_equal_scipy() {
    for (freedom, value) in fixture().student {
        assert!((student(freedom) - value).abs() < 1e-5 * value, "{freedom}: {} {value}", student(freedom));
    }
}

#[test]
fn standard_error_equals_scipy() {
    for Sample { values, value } in fixture().standard_error {
        assert!((standard_error(&values).unwrap() - value).abs() < 1e-12);
    }
    assert!((mean(&[2.5, 3.5, 1.0]).unwrap() - 7.0 / 3.0).abs() < 1e-12);
}

/// 28 successes of 120 answers to 10 questions were printed as [16.7, 31.7], 0 of 300 answers to 25 questions as [0,
/// 1.3].
#[test]
fn templates_around_one_question_are_not_independent_answers() {
    let [low, high] = interval(&clusters(&[12, 8, 4, 2, 1, 1, 0, 0, 0, 0], 12)).unwrap();
    assert!(low < 0.10 && high > 0.44, "{low} {high}");
    let [low, high] = interval(&clusters(&[0; 25], 12)).unwrap();
    assert!(low == 0.0 && (high - 0.1332).abs() < 1e-4, "{high}");
    let [low, high] = interval(&clusters(&[12; 25], 12)).unwrap();
    assert!((low - 0.8668).abs() < 1e-4 && high >= 1.0, "{low}");
    // Every question answered alike: as many answers as questions.
    let alike: Vec<usize> = (0..25).map(|i| if i < 5 { 12 } else { 0 }).collect();
    let [low, high] = interval(&clusters(&alike, 12)).unwrap();
    assert!(close([low, high], interval(&single(5, 25)).unwrap(), 0.03), "{low} {high}");
    // Spread evenly over the questions: nearly as good as independent ones.
    let [low, high] = interval(&clusters(&[3; 25], 12)).unwrap();
    let [l, h] = interval(&single(75, 300)).unwrap();
    assert!(high - low < 1.35 * (h - l), "{low} {high}, {l} {h}");
}

#[test]
fn one_more_success_never_makes_the_upper_end_lower_than_none_had() {
    for questions in [1, 2, 5, 10, 25, 100] {
        let [_, none] = interval(&clusters(&vec![0; questions], 12)).unwrap();
        for successes in 1..=12 {
            let mut parts = vec![0; questions];
            parts[0] = successes;
            let [low, high] = interval(&clusters(&parts, 12)).unwrap();
            assert!(high >= none && low >= 0.0 && high <= 1.0, "{questions} {successes}: {low} {high} {none}");
        }
    }
}

#[test]
fn nothing_is_none() {
    assert_eq!(share(0, 0), None);
    assert_eq!(interval(&[]), None);
    assert_eq!(interval(&[Cluster::default()]), None);
    assert_eq!(change(&[]), None);
    assert_eq!(mean(&[]), None);
    assert_eq!(standard_error(&[]), None);
    assert_eq!(standard_error(&[1.0]), None);
}

#[test]
fn the_change_with_one_prompt_per_question_follows_the_published_formula() {
    // 100 pairs: 7 gained, 15 lost.
    let pair = |change| Paired { change, n: 1 };
    let pairs: Vec<Paired> = [vec![pair(1); 7], vec![pair(-1); 15], vec![pair(0); 78]].concat();
    let (p, q): (f64, f64) = (8.0 / 102.0, 16.0 / 102.0);
    let half = Z * ((p + q - (p - q).powi(2)) / 102.0).sqrt();
    let found = change(&pairs).unwrap();
    assert!(close(found.ci, [p - q - half, p - q + half], 1e-12), "{found:?}");
    assert!((found.difference + 0.08).abs() < 1e-12 && (found.n, found.questions) == (100, 100));
}

#[test]
fn no_change_is_no_certainty_and_a_reversal_is_one() {
    let of = |change, n| vec![Paired { change, n }; 10];
    let still = change(&of(0, 12)).unwrap();
    assert!(still.difference == 0.0 && still.ci[0] < -0.1 && still.ci[1] > 0.1, "{still:?}");
    let reversed = change(&of(-12, 12)).unwrap();
    assert!(reversed.ci[1] < 0.0 && (reversed.n, reversed.questions) == (120, 10), "{reversed:?}");
    assert!(change(&[Paired { change: 1, n: 1 }]).unwrap().ci[0] < 0.0, "one question shows nothing");
}

/// Questions' own rates of success: beta distributed with mean `p` and correlation `rho` within a question, by the
/// Polya urn, which gives beta-binomial counts without a beta variate: each answer repeats what earlier ones of its
/// question drew.
fn urn(rng: &mut ChaCha8Rng, p: f64, rho: f64, n: usize) -> usize {
    if rho >= 1.0 {
        return if rng.random::<f64>() < p { n } else { 0 };
    }
    let weight = rho / (1.0 - rho);
    let mut part = 0;
    for drawn in 0..n {
        let chance = (p + weight * part as f64) / (1.0 + weight * drawn as f64);
        part += usize::from(rng.random::<f64>() < chance);
    }
    part
}

/// Cluster sizes: all alike, or mixed.
fn sizes(kind: usize, questions: usize) -> Vec<usize> {
    (0..questions).map(|i| if kind == 0 { 1 + (i * 7) % 12 } else { kind }).collect()
}

#[test]
fn the_interval_of_a_share_covers_in_simulated_evaluations() {
    const RUNS: usize = 1200;
    // Binomial noise of a coverage of 0.95 over so many runs is 0.0063.
    const LEAST: f64 = 0.93 - 0.015;
    let mut rng = stream(1, "coverage", &[]);
    let (mut worst, mut all) = (1.0_f64, Vec::new());
    for questions in [5, 8, 10, 25, 60] {
        for kind in [0, 3, 12] {
            for p in [0.05, 0.1, 0.23, 0.5, 0.8, 0.95] {
                for rho in [0.0, 0.1, 0.3, 0.6, 0.9, 1.0] {
                    let sizes = sizes(kind, questions);
                    let (mut covered, mut width, mut by_question) = (0, 0.0, 0.0);
                    for _ in 0..RUNS {
                        let clusters: Vec<Cluster> =
                            sizes.iter().map(|&n| Cluster { part: urn(&mut rng, p, rho, n), n }).collect();
                        let [low, high] = interval(&clusters).unwrap();
                        covered += usize::from(low <= p + 1e-9 && p <= high + 1e-9);
                        width += high - low;
                        let (part, n) = clusters.iter().fold((0, 0), |(p, m), c| (p + c.part, m + c.n));
                        let [low, high] = wilson(part as f64 / n as f64, questions as f64, Z);
                        by_question += high - low;
                    }
                    let coverage = covered as f64 / RUNS as f64;
                    assert!(coverage >= LEAST, "{questions} x {kind}, p {p}, rho {rho}: {coverage}");
                    // One answer per question would give the other width: no method should be much worse than that.
                    assert!(width < 1.4 * by_question, "{questions} x {kind}, p {p}, rho {rho}: {width} {by_question}");
                    worst = worst.min(coverage);
                    all.push(coverage);
                }
            }
        }
    }
    let average = mean(&all).unwrap();
    println!("coverage: lowest {worst}, mean {average} of {} cells", all.len());
    assert!(all.iter().filter(|c| **c < 0.93).count() * 50 < all.len() && (0.95..0.99).contains(&average), "{average}");
}

#[test]
fn the_interval_of_a_change_covers_in_simulated_evaluations() {
    const RUNS: usize = 1200;
    let mut rng = stream(2, "coverage", &[]);
    let mut all = Vec::new();
    for questions in [5, 10, 25, 60] {
        for kind in [0, 1, 3, 12] {
            for (before, after) in [(0.05, 0.05), (0.5, 0.5), (0.9, 0.02), (0.5, 0.3), (0.3, 0.1), (0.95, 0.9)] {
                for rho in [0.0, 0.1, 0.3, 0.9] {
                    let sizes = sizes(kind, questions);
                    let mut covered = 0;
                    for _ in 0..RUNS {
                        let pairs: Vec<Paired> = sizes
                            .iter()
                            .map(|&n| {
                                let (first, second) = (urn(&mut rng, before, rho, n), urn(&mut rng, after, rho, n));
                                Paired { change: second as i64 - first as i64, n }
                            })
                            .collect();
                        let [low, high] = change(&pairs).unwrap().ci;
                        covered += usize::from(low <= after - before + 1e-9 && after - before <= high + 1e-9);
                    }
                    let coverage = covered as f64 / RUNS as f64;
                    assert!(
                        coverage >= 0.93 - 0.015,
                        "{questions} x {kind}, {before} to {after}, rho {rho}: {coverage}"
                    );
                    all.push(coverage);
                }
            }
        }
    }
    let average = mean(&all).unwrap();
    println!("coverage of changes: mean {average} of {} cells", all.len());
    assert!((0.95..0.99).contains(&average), "{average}");
}

#[test]
fn the_interval_of_a_mean_is_students() {
    // 4 +- 3.182446 * sqrt(38 / 12), the quantile of three degrees of freedom.
    let [low, high] = mean_interval(&[1.0, 2.0, 4.0, 9.0]).unwrap();
    assert!((low - -1.663_204).abs() < 1e-4 && (high - 9.663_204).abs() < 1e-4, "{low} {high}");
    assert_eq!(mean_interval(&[2.0]), None);
    assert_eq!(mean_interval(&[2.0, 2.0]), Some([2.0, 2.0]));
}
