//! RSFT, refusal fine-tuning: the defence of those who know some jailbreaks. Harmful questions wrapped in training
//! jailbreak templates are answered with refusals.
//!
//! With `W(x)` a harmful question under a template and `r` the model's own refusal of it:
//!
//! `L = CE(r | W(x))`, the mean cross-entropy of answer tokens
//!
//! The templates of the evaluation should be others than those of the training: figures under trained templates say how
//! well they were learnt, not how well the model is defended.

use super::term::{Loss, Method, Term, TermSettings};
use eraser_data::SetName;

pub(super) const METHOD: Method = Method::new("rsft", "arXiv 2404.05880 (a baseline there)", 2e-5, terms);

fn terms(options: &TermSettings) -> Vec<Term> {
    vec![Term::new("refuse", SetName::Wrapped, Loss::CrossEntropy, options.align_weight)]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("rsft");
    }
}
