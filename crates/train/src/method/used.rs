//! Which options a method uses. In: a method and the name of an option; out: whether it changes anything. Invariant: an
//! option that reaches the terms is asked of the terms, so that a new method needs no line here.

use super::term::{AlignLoss, KlScope, Loss, Method, Term, TermSettings};
use eraser_data::SetName;

/// Whether a change of the option changes a method.
type Uses = fn(&Method) -> bool;

/// Every option that not all methods use.
const OPTIONS: [(&str, Uses); 35] = [
    ("extra", |m| m.name == "eraser"),
    ("gamma", hinged),
    ("gamma_margin", hinged),
    ("gamma_scope", hinged),
    ("early_stop", hinged),
    ("kl_scope", |m| changes(m, |s| s.kl_scope = KlScope::All)),
    ("harm_answers", |m| changes(m, |s| s.unrelated = true)),
    ("jailbreaks", |m| m.reads(SetName::Wrapped)),
    ("harm_weight", |m| changes(m, |s| s.harm_weight = 2.0)),
    ("help_weight", |m| changes(m, |s| s.help_weight = 2.0)),
    ("align_weight", |m| changes(m, |s| s.align_weight = 2.0)),
    ("retain_weight", |m| changes(m, |s| s.retain_weight = 2.0)),
    ("retain_take", |m| changes(m, |s| s.retain_weight = 2.0)),
    ("beta", |m| changes(m, |s| s.beta = Some(f64::MIN_POSITIVE))),
    ("steering", |m| changes(m, |s| s.steering = Some(f64::MIN_POSITIVE))),
    ("attack_epsilon", |m| changes(m, |s| s.attack_epsilon = Some(f64::MIN_POSITIVE))),
    ("attack_steps", |m| changes(m, |s| s.attack_steps = Some(0))),
    ("attack_lr", |m| changes(m, |s| s.attack_lr = Some(f64::MIN_POSITIVE))),
    ("loss_layers", |m| !m.depths.is_empty()),
    ("noise", |m| changes(m, |s| s.noise = false)),
    ("align_noise", |m| changes(m, |s| s.align_noise = true)),
    ("retain_noise", |m| changes(m, |s| s.retain_noise = true)),
    ("noise_before", noisy),
    ("noise_after", noisy),
    ("noise_kind", noisy),
    ("noise_share", noisy),
    ("harm_depth", |m| changes(m, |s| s.harm_depth = 1)),
    ("align_depth", |m| changes(m, |s| s.align_depth = 1)),
    ("align_loss", |m| changes(m, |s| s.align_loss = AlignLoss::CrossEntropy)),
    ("rounds", unlearns),
    ("round_questions", unlearns),
    ("round_tokens", unlearns),
    ("retain_eps", constrained),
    ("dual_step", constrained),
    ("dual_warmup", constrained),
];

impl Method {
    /// Whether the option `name` (the key of a run file) changes anything under this method.
    pub fn uses(&self, name: &str) -> bool {
        OPTIONS.iter().find(|(option, _)| *option == name).is_none_or(|(_, uses)| uses(self))
    }

    /// The options that it does not use.
    pub fn unused(&self) -> impl Iterator<Item = &'static str> + use<> {
        let method = *self;
        OPTIONS.iter().filter(move |(_, uses)| !uses(&method)).map(|(name, _)| *name)
    }
}

fn terms(method: &Method) -> Vec<Term> {
    (method.terms)(&TermSettings::default())
}

fn changes(method: &Method, change: fn(&mut TermSettings)) -> bool {
    let mut settings = TermSettings::default();
    change(&mut settings);
    (method.terms)(&settings) != terms(method)
}

fn hinged(method: &Method) -> bool {
    terms(method).iter().any(|term| term.loss == Loss::Hinge)
}

fn noisy(method: &Method) -> bool {
    let all = TermSettings { noise: true, align_noise: true, retain_noise: true, ..TermSettings::default() };
    (method.terms)(&all).iter().any(|term| term.noise)
}

/// What is still said after a training joins the harm set.
fn unlearns(method: &Method) -> bool {
    method.reads(SetName::Harm)
}

fn constrained(method: &Method) -> bool {
    terms(method).iter().any(|term| term.constrained)
}

#[cfg(test)]
mod tests {
    use super::super::{LogitLoss, METHODS};
    use super::*;
    use crate::TrainOptions;

    #[test]
    fn options_are_used_by_the_methods_that_read_them() {
        let users = |option: &str| -> Vec<&str> { METHODS.iter().filter(|m| m.uses(option)).map(|m| m.name).collect() };
        for option in ["extra", "gamma", "gamma_scope", "early_stop", "noise", "noise_kind", "harm_depth", "align_loss"]
        {
            assert_eq!(users(option), ["eraser"], "{option}");
        }
        assert_eq!(users("kl_scope"), ["eraser", "sft"]);
        assert_eq!(users("align_weight"), ["eraser", "gam", "rsft", "sft", "safe-unlearning"]);
        assert_eq!(users("beta"), ["npo", "simnpo", "wga", "safe-unlearning", "dpo", "undial"]);
        assert_eq!(users("retain_eps"), ["pdu"]);
        assert_eq!(users("steering"), ["rmu"]);
        assert_eq!(users("loss_layers"), ["rmu", "circuit-breakers", "lat"]);
        for option in ["attack_epsilon", "attack_steps", "attack_lr"] {
            assert_eq!(users(option), ["lat"]);
        }
        assert_eq!(users("lr").len(), METHODS.len());
        for method in METHODS {
            assert_eq!(method.beta.is_some(), method.uses("beta"), "{}", method.name);
        }
    }

    #[test]
    fn every_option_of_the_table_is_one() {
        let known = serde_json::to_value(TrainOptions::default()).unwrap();
        for (name, _) in OPTIONS {
            // The templates of a method are a source of data, as its sets are.
            assert!(known.get(name).is_some() || name == "jailbreaks", "{name}");
        }
    }

    #[test]
    fn every_loss_of_logits_has_a_beta_where_it_is_given_one() {
        let undial = Method::named("undial").unwrap();
        let terms = (undial.terms)(&TermSettings { beta: Some(3.0), ..TermSettings::default() });
        assert_eq!(terms[0].loss, Loss::Logits(LogitLoss::Distilled(3.0)));
    }
}
