//! The learning rate over the steps, as transformers' schedules define it. In: step, from 0; out: the rate.

use crate::options::Schedule;

/// Rate of step `step` (from 0) of `total`: linear warm-up from 0 over `warmup` steps, then `schedule`.
pub fn learning_rate(schedule: Schedule, peak: f64, step: usize, warmup: usize, total: usize) -> f64 {
    if step < warmup {
        return peak * step as f64 / warmup as f64;
    }
    match schedule {
        Schedule::Constant => peak,
        Schedule::Cosine => {
            let progress = (step - warmup) as f64 / (total.saturating_sub(warmup)).max(1) as f64;
            peak * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_starts_at_the_peak_and_ends_at_nothing() {
        let rate = |step| learning_rate(Schedule::Cosine, 2.0, step, 0, 10);
        assert!((rate(0) - 2.0).abs() < 1e-12);
        assert!((rate(5) - 1.0).abs() < 1e-12);
        assert!(rate(10).abs() < 1e-12);
    }

    #[test]
    fn warm_up_rises_from_zero() {
        let rate = |step| learning_rate(Schedule::Constant, 1.0, step, 4, 10);
        for (step, expected) in [(0, 0.0), (1, 0.25), (4, 1.0), (9, 1.0)] {
            assert!((rate(step) - expected).abs() < 1e-12, "{step}");
        }
    }
}
