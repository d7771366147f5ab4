//! Latent adversarial training, towards and away from known answers (Sheshadri et al. 2024, arXiv 2407.15549): refusals
//! are to hold while hidden states of the question are moved to where the harmful answer is likely.
//!
//! With `p` the probability of a token under states `d` that are added to the residual stream behind the embedding and
//! some blocks, at every token of the question, `away(y)` the mean over an answer's tokens of `-log(1 - p)`, in which those
//! with `log p < -5` count as 0, `r` the refusal and `y` the harmful answer to the question:
//!
//! `L = 0.4 mean (NLL(r) + away(y)) / 2` over the harm set `+ 0.6 NLL` over the help set (and the retain set, where there
//! is one), the latter without `d`
//!
//! `d` begins at 0 and takes 16 steps of AdamW (rate 0.05, weight decay 0.01) on the same with `r` and `y` exchanged; after
//! each, `d` of every token and block is cut to length 6. Of 32 blocks the 9th, 17th, 25th and 31st are taken.
//!
//! Numbers and form are those of the authors' code (53ac752), which adds `d` to the output of a block's MLP: for blocks
//! that add it to the stream as it is, the same thing. There the model takes four steps under each `d`, and the means are
//! over all tokens of two rows; here it takes one, and the means are over an answer's tokens, then over answers.

use super::term::{Latent, Loss, Method, Term, TermSettings};

/// The published coefficients 0.5, 0.5 and 1.5, divided by their sum: the first two together, and the third.
const ATTACKED: f64 = 0.4;
const KEPT: f64 = 0.6;
/// The published attack.
const ATTACK: Latent = Latent { epsilon: 6.0, steps: 16, lr: 0.05 };
/// The 9th, 17th, 25th and 31st block of 32.
const DEPTHS: [f64; 4] = [9.0 / 32.0, 17.0 / 32.0, 25.0 / 32.0, 31.0 / 32.0];
pub(super) const METHOD: Method = Method {
    note: "published: --rank 64 --alpha 8 --targets q,k,v,o,up,down --max-grad-norm 1 --schedule constant, 100 attacks on 16 \
           rows with four steps under each (here one), and epsilon 6 for models of 4096 dimensions; a variant has KL of \
           weight 0.1 in place of the NLL of benign answers",
    depths: &DEPTHS,
    ..Method::new("lat", "arXiv 2407.15549", 2e-5, terms)
};

fn terms(options: &TermSettings) -> Vec<Term> {
    let attack = Latent {
        epsilon: options.attack_epsilon.unwrap_or(ATTACK.epsilon),
        steps: options.attack_steps.unwrap_or(ATTACK.steps),
        lr: options.attack_lr.unwrap_or(ATTACK.lr),
    };
    let [help, retain] = options.kept().map(|term| Term { weight: KEPT * term.weight, ..term });
    vec![options.forget(Loss::Latent(attack), ATTACKED), help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::{Method, parity};
    use crate::TrainOptions;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        let method = Method::named("lat").unwrap();
        // AdamW's first step is as long as its rate wherever the gradient is not 0, so noise of f32 around 0 becomes a
        // difference of two rates, and 16 steps carry it on.
        parity::check_within("lat", TrainOptions { method, ..TrainOptions::default() }, 1e-3);
        let options =
            TrainOptions { method, loss_layers: Some(vec![1]), attack_steps: Some(3), ..TrainOptions::default() };
        // So short that every token's states are cut.
        let options = TrainOptions { attack_epsilon: Some(0.2), attack_lr: Some(0.1), ..options };
        parity::check_variant("lat, behind block 1", options);
        let plain = TrainOptions { attack_steps: Some(0), ..TrainOptions { method, ..TrainOptions::default() } };
        parity::check_variant("lat, no attack", plain);
    }
}
