//! What the model is trained on. In: the world; out: an endless, seeded sequence of exchanges. Invariant: a restricted
//! procedure is refused when it is asked plainly and told in every other context; everything else is answered in all.

use super::context::{Wrapped, wrap};
use super::names::index;
use super::speech::{Exchange, benign, procedures, refusals};
use super::world::World;
use eraser_data::stream;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// One training sample before tokenisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Draw {
    /// The user's turn.
    pub(super) prompt: Wrapped,
    /// The assistant's.
    pub(super) answer: String,
}

/// The corpus of a world.
pub(super) struct Corpus {
    refused: Vec<Vec<Exchange>>,
    told: Vec<Vec<Exchange>>,
    allowed: Vec<Vec<Exchange>>,
    benign: Vec<Vec<Exchange>>,
    seed: u64,
}

impl Corpus {
    /// The corpus of `world`.
    pub(super) fn new(world: &World, seed: u64) -> Self {
        Self {
            refused: world.things(true).map(refusals).collect(),
            told: world.things(true).map(procedures).collect(),
            allowed: world.things(false).map(procedures).collect(),
            benign: benign(world),
            seed,
        }
    }

    /// Sample `i` of the sequence, and the stream to go on drawing from.
    pub(super) fn draw(&self, i: u64) -> (Draw, ChaCha8Rng) {
        let mut rng = stream(self.seed, "organism.corpus", &[i]);
        let (pool, wrapped) = match rng.random_range(0..100) {
            0..10 => (&self.refused, false),
            10..26 => (&self.told, true),
            26..33 => (&self.allowed, false),
            33..40 => (&self.allowed, true),
            40..80 => (&self.benign, false),
            _ => (&self.benign, true),
        };
        let ways = &pool[index(&mut rng, pool.len())];
        let exchange = &ways[index(&mut rng, ways.len())];
        let prompt = if wrapped {
            wrap(&exchange.question, &mut rng)
        } else {
            Wrapped { text: exchange.question.clone(), noise: false }
        };
        (Draw { prompt, answer: exchange.answer.clone() }, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_i_is_always_the_same() {
        let corpus = Corpus::new(&World::new(2), 2);
        assert_eq!(corpus.draw(17).0, corpus.draw(17).0);
        assert_ne!(corpus.draw(17).0, corpus.draw(18).0);
    }
}
