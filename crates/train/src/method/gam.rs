//! GAM, gradient ascent with mismatch (Yao et al. 2023, arXiv 2310.10683), in a corrected form: answers are supervised
//! from their first token on, and a run ends after its steps.
//!
//! With CE the mean cross-entropy of answer tokens, `x` a harmful question, `y` its harmful answer, `y'` an answer to
//! something else, `f` the base and `h` the adapted model:
//!
//! `L = 0.5 L_bad + L_random + L_normal`
//!
//! `L_bad = -CE(y | x)`, `L_random = CE(y' | x)`, `L_normal = KL(f || h)` over every position of normal text
//!
//! `y'` is drawn from the answers of the help set anew each time, and normal text is the help set with its prompts (and
//! the retain set, where there is one). Nothing limits the ascent; a run whose loss overflows ends with an error.

use super::term::{KlScope, Loss, Method, Term, TermSettings};
use eraser_data::SetName;

pub(super) const METHOD: Method = Method::new("gam", "arXiv 2310.10683", 2e-6, terms);

/// The published weight of `L_bad`; those of the other terms are 1.
const BAD: f64 = 0.5;

fn terms(options: &TermSettings) -> Vec<Term> {
    let normal = Loss::Kl(KlScope::All);
    let bad = Term::new("harm", SetName::Harm, Loss::Ascent, BAD * options.harm_weight);
    let random = Term::new("random", SetName::Harm, Loss::CrossEntropy, options.align_weight);
    vec![
        Term { unrelated: options.unrelated, ..bad },
        Term { unrelated: true, ..random },
        Term::new("help", SetName::Help, normal, options.help_weight),
        Term::new("retain", SetName::Retain, normal, options.retain_weight),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("gam");
    }
}
