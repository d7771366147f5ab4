//! Named random streams of one seed. In: seed, name, indices; out: a ChaCha generator. Invariant: a stream depends on
//! nothing but these, so the order in which streams are used, or the thread they are used on, changes no result.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};

/// The stream `name` at `indices` (epoch, sample, ..) of `seed`.
pub fn stream(seed: u64, name: &str, indices: &[u64]) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name.as_bytes());
    for i in indices {
        hash.update(i.to_le_bytes());
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}
