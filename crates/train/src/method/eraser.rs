//! Eraser (arXiv 2404.05880): unlearn harmful answers up to a threshold, stay close to the base model elsewhere.
//!
//! With `L_f = mean log p(answer | T(question))` over the harm set, `f` the base and `h` the adapted model:
//!
//! `L = max(0, gamma + L_f) + KL_help(f || h) + KL_align(f || h)`
//!
//! A retain set, where there is one, adds a term like that of the help set. This goes beyond the paper, as do the
//! following, each off by default:
//!
//! - `T` can leave a share of the questions plain, or be benign text or turns (`noise_share`, `noise_kind`).
//! - With `harm_depth`, `L_f = mean log p(answer[c..] | T(question), answer[..c])` for a random cut `c`.
//! - With `align_noise` and `align_depth`, the align term asks what is answered in place of the harmful answer:
//!   `KL(f(refusal | question) || h(refusal | T(question), harmful answer[..c]))`, or with `align_loss =
//!   "cross-entropy"` `-mean log h(refusal | T(question), harmful answer[..c])`.
//! - With `retain_noise`, the term of the retain set is `KL(f(answer | request) || h(answer | T(request)))`: what
//!   stands around a request is not to become the sign to refuse by.

use super::term::{AlignLoss, Given, Loss, Method, Term, TermSettings};
use eraser_data::SetName;

pub(super) const METHOD: Method = Method::new("eraser", "arXiv 2404.05880", 2e-5, terms);

fn terms(options: &TermSettings) -> Vec<Term> {
    let kl = Loss::Kl(options.kl_scope);
    let given = |depth: usize, given: fn(usize) -> Given| if depth == 0 { Given::Nothing } else { given(depth) };
    let harm = Term {
        noise: options.noise,
        unrelated: options.unrelated,
        given: given(options.harm_depth, Given::Own),
        ..Term::new("harm", SetName::Harm, Loss::Hinge, options.harm_weight)
    };
    let refuse = match options.align_loss {
        AlignLoss::Kl => kl,
        AlignLoss::CrossEntropy => Loss::CrossEntropy,
    };
    let align = Term {
        noise: options.align_noise,
        given: given(options.align_depth, Given::Harmful),
        ..Term::new("align", SetName::Align, refuse, options.align_weight)
    };
    let retain =
        Term { noise: options.retain_noise, ..Term::new("retain", SetName::Retain, kl, options.retain_weight) };
    vec![harm, Term::new("help", SetName::Help, kl, options.help_weight), align, retain]
}

#[cfg(test)]
mod tests {
    use super::super::{AlignLoss, parity};
    use crate::{GammaScope, TrainOptions};

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("eraser");
        parity::check_variant("eraser, in full", parity::in_full(TrainOptions::default()));
    }

    #[test]
    fn noise_is_around_the_sets_that_are_named() {
        let noisy = |options: &TrainOptions| -> Vec<&str> {
            options.terms().iter().filter(|term| term.noise).map(|term| term.name).collect()
        };
        let published = TrainOptions::default();
        assert_eq!(noisy(&published), ["harm"]);
        assert_eq!(noisy(&TrainOptions { align_noise: true, ..published.clone() }), ["harm", "align"]);
        assert_eq!(noisy(&TrainOptions { retain_noise: true, ..published }), ["harm", "retain"]);
    }

    /// Options beyond the paper: a hinge for each token, answers of which a beginning is given.
    fn deep(align_loss: AlignLoss) -> TrainOptions {
        TrainOptions {
            gamma_scope: GammaScope::Token,
            harm_depth: 3,
            align_depth: 3,
            align_loss,
            ..TrainOptions::default()
        }
    }

    #[test]
    fn refusals_after_a_harmful_opening_are_those_of_pytorch() {
        parity::check_variant("eraser, deep, kl", deep(AlignLoss::Kl));
        parity::check_variant("eraser, deep, cross-entropy", deep(AlignLoss::CrossEntropy));
    }
}
