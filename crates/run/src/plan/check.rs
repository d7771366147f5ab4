//! Ranges of training settings. In: settings and where each was given; out: one error for each that cannot be.

use super::basics::{exists, wrong};
use crate::failure::Problems;
use eraser_train::{Templates, TrainOptions};

/// Notes what is wrong; `at` gives the flag or place of a field, or None for a field that somebody else answers for.
pub(crate) fn train_options(o: &TrainOptions, at: &dyn Fn(&str) -> Option<String>, problems: &mut Problems) {
    let mut need = |field: &str, good: bool, what: &str| {
        if let Some(at) = at(field).filter(|_| !good) {
            problems.push(wrong(&at, format!("must be {what}")));
        }
    };
    let positive = |x: f64| x.is_finite() && x > 0.0;
    let not_negative = |x: f64| x.is_finite() && x >= 0.0;
    for (field, n) in [("rank", o.rank), ("micro_batch", o.micro_batch), ("grad_accum", o.grad_accum)] {
        need(field, (1..=65_536).contains(&n), "from 1 to 65536");
    }
    need("steps", o.steps != Some(0), "at least 1");
    need("early_stop", o.early_stop != Some(0), "at least 1");
    need("max_length", (2..=1 << 24).contains(&o.max_length), "from 2 to 16777216");
    for (field, n) in [("noise_before", o.noise_before), ("noise_after", o.noise_after)] {
        need(field, n <= 65_536, "at most 65536");
    }
    for (field, x) in [("alpha", o.alpha), ("lr", o.lr), ("adam_epsilon", o.adam_epsilon), ("epochs", o.epochs)] {
        need(field, positive(x), "a positive number");
    }
    need("max_grad_norm", o.max_grad_norm.is_none_or(positive), "a positive number");
    for (field, x) in [
        ("weight_decay", o.weight_decay),
        ("gamma", o.gamma),
        ("harm_weight", o.harm_weight),
        ("help_weight", o.help_weight),
        ("align_weight", o.align_weight),
        ("retain_weight", o.retain_weight),
    ] {
        need(field, not_negative(x), "0 or a positive number");
    }
    for (field, x) in [("lora_dropout", o.lora_dropout), ("adam_beta1", o.adam_beta1), ("adam_beta2", o.adam_beta2)] {
        need(field, (0.0..1.0).contains(&x), "at least 0 and below 1");
    }
    need("targets", !o.targets.is_empty(), "at least one module");
    need("layers", o.layers.as_ref().is_none_or(|l| !l.is_empty()), "at least one layer");
    let mut files: Vec<(&str, &std::path::Path)> = Vec::new();
    if let Templates::File(file) = &o.templates {
        files.push(("templates", file));
    }
    files.extend(o.init_adapter.iter().map(|dir| ("init_adapter", dir.as_path())));
    for (field, path) in files {
        if let (Some(at), Err(e)) = (at(field), exists(path)) {
            problems.push(e.context(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(change: impl Fn(&mut TrainOptions)) -> Vec<String> {
        let mut options = TrainOptions::default();
        change(&mut options);
        let mut problems = Problems::default();
        train_options(&options, &|field| Some(format!("--{field}")), &mut problems);
        problems.messages()
    }

    #[test]
    fn the_published_settings_are_good() {
        assert!(errors(|_| {}).is_empty());
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let errors = errors(|o| {
            o.rank = 0;
            o.lr = f64::NAN;
            o.lora_dropout = 1.0;
            o.steps = Some(0);
        });
        let start = |s: &str| errors.iter().any(|e| e.starts_with(s));
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(start("--rank") && start("--lr") && start("--lora_dropout") && start("--steps"), "{errors:?}");
    }
}
