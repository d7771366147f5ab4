//! SimNPO (Fan et al. 2024, arXiv 2410.07163): NPO by the mean of an answer's tokens, and without the base model.
//!
//! With `NLL` the sum of the negative log-likelihoods of the `|y|` tokens of an answer, and CE as in NPO:
//!
//! `L = -0.125 (2 / beta) mean log sigma(beta NLL / |y|) + CE`
//!
//! `beta` is 4.5. The published margin of 0 is left out. The rate is that of full fine-tuning.

use super::term::{Loss, Method, Npo, Term, TermSettings};

/// The published beta.
const BETA: f64 = 4.5;
pub(super) const METHOD: Method = Method { beta: Some(BETA), ..Method::new("simnpo", "arXiv 2410.07163", 1e-5, terms) };

/// The published weight of the harm term; those of the other terms are 1.
const FORGET: f64 = 0.125;

fn terms(options: &TermSettings) -> Vec<Term> {
    let beta = options.beta.unwrap_or(BETA);
    let npo = Npo { beta, scale: 2.0 / beta, per_token: true, reference: false };
    let [help, retain] = options.kept();
    vec![options.forget(Loss::Npo(npo), FORGET), help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("simnpo");
    }
}
