//! UNDIAL (Dong et al. 2024, arXiv 2402.10052): the model learns from its own frozen logits, in which the harmful
//! answer's next token was made less likely.
//!
//! With `z_0` the base model's logits where the token `t` of a harmful answer comes next, and `p` the adapted model's
//! distribution there:
//!
//! `L = -mean sum_v q_v log p_v`, `q = softmax(z_0 - beta e_t)`
//!
//! `beta` is 10, and nothing else is trained on. The mean is over the answers' tokens, as in the paper; the code of
//! open-unlearning takes every position of the padded batch.

use super::term::{LogitLoss, Loss, Method, Term, TermSettings};

/// The published beta.
const BETA: f64 = 10.0;
pub(super) const METHOD: Method = Method {
    beta: Some(BETA),
    note: "the mean is over answer tokens; open-unlearning takes prompts and padding in too",
    ..Method::new("undial", "arXiv 2402.10052", 1e-4, terms)
};

fn terms(options: &TermSettings) -> Vec<Term> {
    vec![options.forget(Loss::Logits(LogitLoss::Distilled(options.beta.unwrap_or(BETA))), 1.0)]
}

#[cfg(test)]
mod tests {
    use super::super::parity;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("undial");
    }
}
