//! Eraser (arXiv 2404.05880): unlearn harmful answers up to a threshold, stay close to the base model elsewhere.
//!
//! With `L_f = mean log p(answer | T(question))` over the harm set, `f` the base and `h` the adapted model:
//!
//! `L = max(0, gamma + L_f) + KL_help(f || h) + KL_align(f || h)`
//!
//! A retain set, where there is one, adds a term like that of the help set; this goes beyond the paper.

use super::term::{Loss, Method, Term, TermSettings};
use eraser_data::SetName;

pub(super) const METHOD: Method = Method { name: "eraser", lr: 2e-5, terms };

fn terms(options: &TermSettings) -> Vec<Term> {
    let kl = |set: SetName, weight| Term {
        name: set.name(),
        set,
        noise: false,
        unrelated: false,
        loss: Loss::Kl(options.kl_scope),
        weight,
    };
    let harm = Term {
        name: "harm",
        set: SetName::Harm,
        noise: options.noise,
        unrelated: options.unrelated,
        loss: Loss::Hinge,
        weight: options.harm_weight,
    };
    vec![
        harm,
        kl(SetName::Help, options.help_weight),
        kl(SetName::Align, options.align_weight),
        kl(SetName::Retain, options.retain_weight),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("eraser");
    }
}
