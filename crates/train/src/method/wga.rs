//! WGA, weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301), and SatImp (Yang et al. 2025, arXiv 2505.11953):
//! ascent that looks at the tokens that the model is still sure of.
//!
//! With `p` the probability of a token of a harmful answer, which is a constant for the gradient, `ce` its
//! cross-entropy, and CE as in NPO:
//!
//! `L_WGA = -mean(p^beta ce) + CE`, `L_SatImp = -0.1 mean(p^5 (1 - p) ce) + CE`
//!
//! `beta` of WGA is 1. The rates are those of full fine-tuning.

use super::term::{Loss, Method, Term, TermSettings};

/// The published beta.
const BETA: f64 = 1.0;
pub(super) const WGA: Method = Method { beta: Some(BETA), ..Method::new("wga", "arXiv 2502.19301", 1e-5, wga) };
pub(super) const SATIMP: Method = Method::new("satimp", "arXiv 2505.11953", 1e-5, satimp);

/// The published powers of `p` and of `1 - p`, and the weight of the harm term.
const POWERS: (f64, f64) = (5.0, 1.0);
const FORGET: f64 = 0.1;

fn wga(options: &TermSettings) -> Vec<Term> {
    let beta = options.beta.unwrap_or(BETA);
    let [help, retain] = options.kept();
    vec![options.forget(Loss::WeightedAscent(beta, 0.0), 1.0), help, retain]
}

fn satimp(options: &TermSettings) -> Vec<Term> {
    let [help, retain] = options.kept();
    vec![options.forget(Loss::WeightedAscent(POWERS.0, POWERS.1), FORGET), help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("wga");
        parity::check("satimp");
    }
}
