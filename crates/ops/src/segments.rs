//! Sequence boundaries of a pack: in, sequence lengths; out, cumulative offsets. Invariant: offsets never decrease,
//! the first is 0 and the last is the number of tokens in the pack.

use std::sync::Arc;

/// Where each sequence of a pack begins and ends. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    offsets: Arc<[usize]>,
}

impl Segments {
    /// Boundaries of sequences with these lengths, in order. A length may be 0.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        for n in lengths {
            end += n;
            offsets.push(end);
        }
        Self { offsets: offsets.into() }
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// True when the pack holds no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of all sequences together.
    pub fn tokens(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Row range of sequence `i`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.offsets[i]..self.offsets[i + 1]
    }

    /// Row ranges of all sequences, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> + '_ {
        self.offsets.windows(2).map(|w| w[0]..w[1])
    }

    /// Position of every token within its own sequence: `0, 1, .., 0, 1, ..`.
    pub fn positions(&self) -> Vec<u32> {
        self.iter().flat_map(|r| 0..r.len() as u32).collect()
    }
}
