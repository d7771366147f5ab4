//! NPO, negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868, equation 3): ascent that slows down by
//! itself where an answer has become less likely than it was.
//!
//! With `NLL` the sum of the negative log-likelihoods of an answer's tokens under the adapted model, `NLL_0` under the
//! base, and CE the mean cross-entropy of the answers of the help set (and of the retain set, where there is one):
//!
//! `L = -(2 / beta) mean log sigma(beta (NLL - NLL_0)) + CE`
//!
//! `beta` is 0.1, the rate that of full fine-tuning.

use super::term::{Loss, Method, Npo, Term, TermSettings};

/// The published beta.
const BETA: f64 = 0.1;
pub(super) const METHOD: Method = Method { beta: Some(BETA), ..Method::new("npo", "arXiv 2404.05868", 1e-5, terms) };

fn terms(options: &TermSettings) -> Vec<Term> {
    let beta = options.beta.unwrap_or(BETA);
    let npo = Npo { beta, scale: 2.0 / beta, per_token: false, reference: true };
    let [help, retain] = options.kept();
    vec![options.forget(Loss::Npo(npo), 1.0), help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::parity;
    use crate::{Method, TrainOptions};

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("npo");
        let options =
            TrainOptions { method: Method::named("npo").unwrap(), beta: Some(0.5), ..TrainOptions::default() };
        parity::check_variant("npo, beta 0.5", options);
    }
}
