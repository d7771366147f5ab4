//! Invented names. In: a random stream; out: names that were not given before. Invariant: a name is built of the
//! letters below only, so it can be read aloud and no seed spells anything but nonsense.

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

const ONSETS: [&str; 12] = ["b", "d", "f", "l", "m", "n", "r", "v", "br", "dr", "tr", "vl"];
const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
const CODAS: [&str; 4] = ["m", "n", "r", "v"];

/// Gives out names.
pub(super) struct Names {
    rng: ChaCha8Rng,
    given: HashSet<String>,
}

impl Names {
    /// Draws from `rng`.
    pub(super) fn new(rng: ChaCha8Rng) -> Self {
        Self { rng, given: HashSet::new() }
    }

    /// A new name of `syllables` open syllables and, if there is an `ending`, a consonant and the ending.
    pub(super) fn draw(&mut self, syllables: usize, ending: Option<&str>) -> String {
        loop {
            let mut name = String::new();
            for i in 0..syllables {
                // Clusters only begin a word.
                let onsets = if i == 0 { &ONSETS[..] } else { &ONSETS[..8] };
                name.push_str(pick(&mut self.rng, onsets));
                name.push_str(pick(&mut self.rng, &VOWELS));
            }
            if let Some(ending) = ending {
                name.push_str(pick(&mut self.rng, &CODAS));
                name.push_str(ending);
            }
            if self.given.insert(name.clone()) {
                return name;
            }
        }
    }

    /// As [`Self::draw`], with a capital.
    pub(super) fn draw_proper(&mut self, syllables: usize) -> String {
        let name = self.draw(syllables, Some(""));
        let mut letters = name.chars();
        letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
    }
}

/// One of a list that is not empty.
pub(super) fn pick<'a>(rng: &mut ChaCha8Rng, list: &[&'a str]) -> &'a str {
    list.choose(rng).copied().unwrap_or_default()
}

/// One index below `n`.
pub(super) fn index(rng: &mut ChaCha8Rng, n: usize) -> usize {
    rng.random_range(0..n)
}
