//! SafeUnlearning (Zhang et al. 2024, arXiv 2407.02855): harmful answers are unlearned by a bounded ascent, refusals of
//! the same questions and answers to benign ones are learnt beside it. Of the published methods it is the nearest to
//! Eraser.
//!
//! With `a` the mean log-likelihood of an answer's tokens under the adapted model, `a_0` under the base, `r` a refusal
//! of the question `x`, and `(b, a)` a benign request with its answer:
//!
//! `L = CE(a | b) + CE(r | x) - mean log sigma(-beta (a - a_0))`
//!
//! `beta` is 1. The rate is this tool's for refusals, as no published one holds for adapters.

use super::term::{Loss, Method, Npo, Term, TermSettings};
use eraser_data::SetName;

/// The published beta.
const BETA: f64 = 1.0;
pub(super) const METHOD: Method =
    Method { beta: Some(BETA), ..Method::new("safe-unlearning", "arXiv 2407.02855", 2e-5, terms) };

fn terms(options: &TermSettings) -> Vec<Term> {
    let beta = options.beta.unwrap_or(BETA);
    let npo = Npo { beta, scale: 1.0, per_token: true, reference: true };
    let [help, retain] = options.kept();
    let refuse = Term::new("align", SetName::Align, Loss::CrossEntropy, options.align_weight);
    vec![options.forget(Loss::Npo(npo), 1.0), help, refuse, retain]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("safe-unlearning");
    }
}
