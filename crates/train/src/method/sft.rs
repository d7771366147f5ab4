//! SFT, supervised fine-tuning: a model learns to refuse plain harmful questions, as a lab aligns it. It is what a
//! model needs before a defence of its refusals can be measured.
//!
//! With `x` a harmful question and `r` a refusal of it, `b` a benign request and `a` its answer:
//!
//! `L = CE(a | b) + CE(r | x)`, each the mean cross-entropy of answer tokens
//!
//! The first term is that of the help set, the second that of the align set. A retain set, where there is one, holds
//! what the model is to go on doing as it does, and adds a term `KL(f || h)` with the base `f` and the adapted model
//! `h`.

use super::term::{Loss, Method, Term, TermSettings};
use eraser_data::SetName;

pub(super) const METHOD: Method = Method::new("sft", "usual practice", 2e-4, terms);

fn terms(options: &TermSettings) -> Vec<Term> {
    vec![
        Term::new("help", SetName::Help, Loss::CrossEntropy, options.help_weight),
        Term::new("align", SetName::Align, Loss::CrossEntropy, options.align_weight),
        Term::new("retain", SetName::Retain, Loss::Kl(options.kl_scope), options.retain_weight),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("sft");
    }
}
