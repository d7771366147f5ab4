//! Circuit breakers, or representation rerouting (Zou et al. 2024, arXiv 2406.04313): hidden states over harmful answers
//! are to have nothing in common with those of the base, all others stay what they were.
//!
//! With `h` the residual stream behind a block at a token of a question or its answer, `h_0` that of the base, and
//! `s = step / (2 steps)`:
//!
//! `L = 10 (1 - s) sum over chosen blocks of mean max(0, cos(h, h_0))` over the harm set `+ 10 s mean |h - h_0|` over the
//! help set (and the retain set, where there is one), the latter behind the embedding and every block
//!
//! A new adapter changes nothing, so every cosine is 1 and has no gradient; the first step goes in a drawn direction
//! (`states.rs`). The chosen blocks are the 10th and the 20th of 32. The factor 10 is that for Llama-3-8B; for Mistral-7B
//! it is 5. The published sets are larger: chats, refusals, and for Llama-3 half of the answers without their questions.

use super::term::{Loss, Method, Ramp, StateLoss, Term, TermSettings};

/// The published factor, for Llama-3-8B.
const ALPHA: f64 = 10.0;
/// The 10th and the 20th block of 32.
const DEPTHS: [f64; 2] = [10.0 / 32.0, 20.0 / 32.0];
pub(super) const METHOD: Method = Method {
    note: "s = step / (2 steps). Published: --rank 16 --alpha 16 --targets all-linear --schedule constant, 150 steps of 16 \
           rows; 10 is the weight for Llama-3-8B, 5 that for Mistral-7B; half of Llama-3's answers are without their questions",
    depths: &DEPTHS,
    ..Method::new("circuit-breakers", "arXiv 2406.04313", 1e-4, terms)
};

fn terms(options: &TermSettings) -> Vec<Term> {
    let kept = |term: Term| {
        let loss = Loss::States(StateLoss::Distance);
        Term { loss, weight: ALPHA * term.weight, ramp: Ramp::Rising, ..term }
    };
    let [help, retain] = options.kept().map(kept);
    let harm = options.forget(Loss::States(StateLoss::Reroute), ALPHA);
    vec![Term { ramp: Ramp::Falling, ..harm }, help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::parity;
    use super::*;
    use crate::TrainOptions;

    /// The terms that weigh nothing in the first step, at their full weight.
    fn kept(options: &TermSettings) -> Vec<Term> {
        let own = terms(options).into_iter().skip(1);
        own.map(|term| Term { ramp: Ramp::None, ..term }).collect()
    }

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("circuit-breakers");
        let method = Method { terms: kept, ..METHOD };
        parity::check_variant("circuit-breakers, kept", TrainOptions { method, ..TrainOptions::default() });
    }

    #[test]
    fn what_is_kept_weighs_more_with_every_step() {
        let weights = |step| [Ramp::Falling, Ramp::Rising, Ramp::None].map(|ramp| ramp.factor(step, 150));
        assert_eq!((weights(0), weights(75), weights(150)), ([1.0, 0.0, 1.0], [0.75, 0.25, 1.0], [0.5, 0.5, 1.0]));
    }
}
