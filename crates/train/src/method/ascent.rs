//! Gradient ascent, and gradient difference: ascent beside ordinary training on what is to stay (Maini et al. 2024,
//! arXiv 2401.06121, section 4).
//!
//! With CE the mean cross-entropy of answer tokens, `(x, y)` from the harm set and `(b, a)` from the help set (and from
//! the retain set, where there is one):
//!
//! `L_ascent = -CE(y | x)`, `L_difference = -CE(y | x) + CE(a | b)`
//!
//! Nothing limits the ascent; a run whose loss overflows ends with an error. The published rate is that of full
//! fine-tuning.

use super::term::{Loss, Method, Term, TermSettings};

pub(super) const ASCENT: Method = Method::new("grad-ascent", SOURCE, 1e-5, ascent);
pub(super) const DIFFERENCE: Method = Method::new("grad-diff", SOURCE, 1e-5, difference);

const SOURCE: &str = "arXiv 2401.06121";

fn ascent(options: &TermSettings) -> Vec<Term> {
    vec![options.forget(Loss::Ascent, 1.0)]
}

fn difference(options: &TermSettings) -> Vec<Term> {
    let [help, retain] = options.kept();
    vec![options.forget(Loss::Ascent, 1.0), help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("grad-ascent");
        parity::check("grad-diff");
    }
}
