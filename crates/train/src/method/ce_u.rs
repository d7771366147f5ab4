//! CE-U, cross-entropy unlearning (Yang 2025, arXiv 2503.01224): the model learns from its own distribution without the
//! harmful answer's next token.
//!
//! With `p` the model's distribution where the token `t` of a harmful answer comes next, and `q` the same with `q_t = 0`,
//! scaled to a sum of 1, which is a constant for the gradient:
//!
//! `L = -mean sum_v q_v log p_v`
//!
//! The mean leaves out the first token of each answer, as published. Nothing else is trained on. The rate is that of
//! full fine-tuning.

use super::term::{LogitLoss, Loss, Method, Term, TermSettings};

pub(super) const METHOD: Method = Method::new("ce-u", "arXiv 2503.01224", 1e-5, terms);

fn terms(options: &TermSettings) -> Vec<Term> {
    vec![options.forget(Loss::Logits(LogitLoss::WithoutToken), 1.0)]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("ce-u");
    }
}
