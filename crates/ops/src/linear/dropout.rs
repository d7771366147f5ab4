//! Dropout of the input of a low-rank adapter. In: a probability and a seed; out: the factor of each element. Invariant: a
//! mask is a function of seed, row and column alone, the same on every device.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Dropout of the LoRA input. The mask is a pure function of `seed`, so backward regenerates it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is zeroed; kept ones are scaled by `1 / (1 - p)`.
    pub p: f32,
    /// Seed of the mask.
    pub seed: u64,
}

impl Dropout {
    /// An element whose 16 bits are below this is dropped.
    pub(crate) fn threshold(self) -> u32 {
        (f64::from(self.p) * 65536.0).round() as u32
    }

    /// What the others are multiplied by.
    pub(crate) fn keep(self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// The key of the stream cipher that the bits are taken from.
    #[cfg(feature = "cuda")]
    pub(crate) fn key(self) -> [u32; 8] {
        let seed = ChaCha8Rng::seed_from_u64(self.seed).get_seed();
        let words = seed.as_chunks::<4>().0;
        std::array::from_fn(|i| u32::from_le_bytes(words[i]))
    }

    /// Factors of the rows from `first` on, `width` each: 0 for a dropped element, `1 / (1 - p)` for a kept one. One
    /// `ChaCha8` stream per row, 16 bits per element.
    pub(crate) fn fill(self, factors: &mut [f32], first: usize, width: usize) {
        let (threshold, keep) = (self.threshold(), self.keep());
        let base = ChaCha8Rng::seed_from_u64(self.seed);
        for (i, row) in factors.chunks_exact_mut(width).enumerate() {
            let mut rng = base.clone();
            rng.set_stream((first + i) as u64);
            for pair in row.chunks_mut(2) {
                let bits = rng.next_u32();
                for (factor, bits) in pair.iter_mut().zip([bits & 0xffff, bits >> 16]) {
                    *factor = if bits < threshold { 0.0 } else { keep };
                }
            }
        }
    }
}
