//! DPO, direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), towards an answer that says nothing, as
//! unlearning uses it (Maini et al. 2024, arXiv 2401.06121: `IdkDPO`).
//!
//! With `l` the sum of the negative log-likelihoods of the tokens of a harmful answer, `w` that of a refusal of the same
//! question, `l_0` and `w_0` those under the base, and CE as in NPO:
//!
//! `L = -(2 / beta) mean log sigma(beta ((l - l_0) - (w - w_0))) + CE`
//!
//! `beta` is 0.1; the factor `2 / beta` is that of the unlearning code, where DPO itself has 1. The refusal is that of
//! the align set to the same question; one drawn from all of them where it has none. The published code draws from a
//! list of sentences like "I don't know". The rate is that of full fine-tuning.

use super::term::{Loss, Method, Preference, Term, TermSettings};

/// The published beta.
const BETA: f64 = 0.1;
pub(super) const METHOD: Method = Method {
    beta: Some(BETA),
    note: "the preferred answers are the align set's; published: drawn from a list of \"I don't know\" sentences",
    ..Method::new("dpo", "arXiv 2305.18290, 2401.06121", 1e-5, terms)
};

fn terms(options: &TermSettings) -> Vec<Term> {
    let beta = options.beta.unwrap_or(BETA);
    let [help, retain] = options.kept();
    vec![options.forget(Loss::Preference(Preference { beta, scale: 2.0 / beta }), 1.0), help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("dpo");
    }
}
