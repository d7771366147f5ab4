//! PDU, primal-dual unlearning (Entesari et al. 2025, arXiv 2506.05314): logits over harmful answers are made flat, under
//! the constraint that answers to benign questions cost no more than a bound.
//!
//! With `z` the logits at each position that predicts a token of a harmful answer, CE the mean cross-entropy of the
//! answers of the help set (and, with a dual variable of its own, of the retain set, where there is one):
//!
//! `L = mean (max z - mean z)^2 + lambda CE`, and after each step `lambda <- max(0, lambda + dual_step (CE - retain_eps))`
//!
//! `lambda` begins as the weight of the term, 1, and is first changed after half of the steps (published: 5 of 10
//! epochs). `dual_step` is 1. The bound is published for single models only; the default is what the answers cost the
//! base model. The rate is that of full fine-tuning.

use super::term::{LogitLoss, Loss, Method, Term, TermSettings};

pub(super) const METHOD: Method = Method {
    note: "the weights of help and retain are where their dual variables begin (--dual-step 1, --dual-warmup half of the \
           steps); --retain-eps is published for single models only: by default it is what the answers cost the base",
    ..Method::new("pdu", "arXiv 2506.05314", 1e-5, terms)
};

fn terms(options: &TermSettings) -> Vec<Term> {
    let [help, retain] = options.kept().map(|term| Term { constrained: true, ..term });
    vec![options.forget(Loss::Logits(LogitLoss::Flat), 1.0), help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("pdu");
    }
}
