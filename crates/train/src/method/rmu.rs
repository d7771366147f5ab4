//! RMU, representation misdirection for unlearning (Li et al. 2024, arXiv 2403.03218): hidden states over harmful answers
//! are steered to a random vector, those over benign ones stay what they were.
//!
//! With `h` the residual stream behind a block at a token of an answer, `h_0` that of the base, and `u` a direction that
//! is drawn once from the seed of the run (uniform in 0..1, then scaled to length 1):
//!
//! `L = mean (h - c u)^2` over the harm set `+ mean (h - h_0)^2` over the help set (and the retain set, where there is one)
//!
//! The means are over the numbers of a state, the tokens of an answer, and answers. `c` (`steering`) is 2 and the block is
//! the 8th of 32, as open-unlearning has them; the authors' code has 6.5 or 20, takes every position of running text,
//! and weighs the second term by 100 to 1200. Both train `down_proj` of three blocks in full (`full`); here it is an
//! adapter, of the blocks up to that one, where nothing else is asked for.

use super::term::{Loss, Method, StateLoss, Term, TermSettings};

/// The length of the vector.
const STEERING: f64 = 2.0;
/// The 8th block of 32.
const DEPTHS: [f64; 1] = [8.0 / 32.0];
pub(super) const METHOD: Method = Method {
    note: "published: down_proj of blocks 5, 6 and 7 of 32 trained in full, with the loss behind block 7: --full \
           --targets down --layers 5-7 --loss-layers 7. The authors' code has --steering 6.5 and --help-weight 1200 for \
           Zephyr-7B",
    depths: &DEPTHS,
    ..Method::new("rmu", "arXiv 2403.03218", 5e-5, terms)
};

fn terms(options: &TermSettings) -> Vec<Term> {
    let steer = StateLoss::Steer(options.steering.unwrap_or(STEERING));
    let [help, retain] = options.kept().map(|term| Term { loss: Loss::States(StateLoss::Drift), ..term });
    vec![options.forget(Loss::States(steer), 1.0), help, retain]
}

#[cfg(test)]
mod tests {
    use super::super::{Method, parity};
    use crate::TrainOptions;

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        parity::check("rmu");
        let method = Method::named("rmu").unwrap();
        let options =
            TrainOptions { method, loss_layers: Some(vec![1]), steering: Some(6.5), ..TrainOptions::default() };
        parity::check_variant("rmu, behind block 1", options.clone());
        parity::check_variant("rmu, behind block 1, in full", parity::in_full(options));
    }
}
