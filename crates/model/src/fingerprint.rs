//! What identifies a model: a SHA-256 over its configuration, tokenizer and stored weights; with how it was loaded, its
//! identity. Invariant: every field is hashed with its length, so that different fields cannot give the same bytes.

use crate::{Error, ModelConfig, Result, Tokenizer, decoder::WeightStorage, in_file::InFile};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Tensors of more bytes than this in all are sampled: hashing all of a 70B model would take minutes.
const FULL: usize = 1 << 30;
/// Bytes of a sample, and samples of a tensor.
const SAMPLE: usize = 4096;
const SAMPLES: usize = 64;

/// A fingerprint that is being computed.
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    /// Starts with the tensors, in the order of their names.
    pub(crate) fn of_tensors(tensors: &[InFile<'_>]) -> Self {
        let sampled = tensors.iter().map(|t| t.bytes.len()).sum::<usize>() > FULL;
        let mut order: Vec<&InFile<'_>> = tensors.iter().collect();
        order.sort_by_key(|t| t.name);
        let digests: Vec<_> = order.par_iter().map(|t| digest(t, sampled)).collect();
        let mut this = Self(Sha256::new());
        this.field(b"eraser model 1");
        for digest in digests {
            this.field(&digest);
        }
        this
    }

    pub(crate) fn config(&mut self, config: &ModelConfig) -> Result<()> {
        let text = serde_json::to_vec(config).map_err(|e| Error::failed(format!("configuration: {e}")))?;
        self.field(&text);
        Ok(())
    }

    pub(crate) fn tokenizer(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        self.field(tokenizer.to_json()?.as_bytes());
        let ends =
            format!("{:?} {:?} {:?} {}", tokenizer.bos(), tokenizer.eos(), tokenizer.stops(), tokenizer.adds_bos());
        self.field(ends.as_bytes());
        Ok(())
    }

    /// The fingerprint in hexadecimal.
    pub(crate) fn finish(self) -> String {
        crate::files::hex(&self.0.finalize())
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// The identity of a loaded model, in hexadecimal: its files' fingerprint, how the weights are held, its chat template.
pub(crate) fn identity(fingerprint: &str, held: WeightStorage, template: Option<&str>) -> String {
    let mut hash = Fingerprint(Sha256::new());
    hash.field(b"eraser identity 1");
    hash.field(fingerprint.as_bytes());
    hash.field(held.to_string().as_bytes());
    // No template and an empty one are different.
    hash.field(&[u8::from(template.is_some())]);
    hash.field(template.unwrap_or_default().as_bytes());
    hash.finish()
}

fn digest(tensor: &InFile<'_>, sampled: bool) -> [u8; 32] {
    let mut hash = Fingerprint(Sha256::new());
    hash.field(tensor.name.as_bytes());
    hash.field(format!("{} {:?} {}", tensor.dtype, tensor.shape, tensor.bytes.len()).as_bytes());
    if sampled && tensor.bytes.len() > SAMPLE * SAMPLES {
        // Evenly spaced, the first and the last bytes among them.
        let last = tensor.bytes.len() - SAMPLE;
        for i in 0..SAMPLES {
            let start = (last as u128 * i as u128 / (SAMPLES as u128 - 1)) as usize;
            hash.field(&tensor.bytes[start..start + SAMPLE]);
        }
    } else {
        hash.field(tensor.bytes);
    }
    hash.0.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tensors: &[InFile<'_>]) -> String {
        Fingerprint::of_tensors(tensors).finish()
    }

    #[test]
    fn every_part_of_a_tensor_counts_and_their_order_does_not() {
        let tensor = |name, dtype: &str, shape, bytes| InFile { name, dtype: dtype.to_owned(), shape, bytes };
        let a = || tensor("a", "F32", &[1, 2], &[1; 8]);
        let b = || tensor("b", "F32", &[2, 1], &[2; 8]);
        let base = of(&[a(), b()]);
        assert_eq!(base.len(), 64);
        assert_eq!(base, of(&[b(), a()]));
        for changed in [
            tensor("c", "F32", &[1, 2], &[1; 8]),
            tensor("a", "F16", &[1, 2], &[1; 8]),
            tensor("a", "F32", &[2, 1], &[1; 8]),
            tensor("a", "F32", &[1, 2], &[3; 8]),
        ] {
            assert_ne!(base, of(&[changed, b()]));
        }
    }

    #[test]
    fn a_sample_sees_both_ends() {
        let bytes = vec![0; SAMPLE * SAMPLES * 3];
        let of = |bytes: &[u8]| digest(&InFile { name: "a", dtype: String::new(), shape: &[], bytes }, true);
        for at in [0, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] = 1;
            assert_ne!(of(&bytes), of(&changed));
        }
    }
}
