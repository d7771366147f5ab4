//! Sequence boundaries of a pack: in, sequence lengths and which sequence continues which; out, cumulative offsets.
//! Invariant: offsets never decrease, the first is 0 and the last is the number of tokens in the pack.
//!
//! A sequence may continue another one, its beginning: tokens that several sequences start with are in the pack once,
//! as a sequence of their own, and are computed once forward and once backward. Causal attention makes that exact.

use std::ops::Range;
use std::sync::Arc;

/// Where each sequence of a pack begins and ends, and which it continues. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    offsets: Arc<[usize]>,
    /// The sequence that each one continues; empty when none does.
    beginnings: Arc<[Option<usize>]>,
}

impl Default for Segments {
    fn default() -> Self {
        Self::from_lengths([])
    }
}

impl Segments {
    /// Boundaries of sequences with these lengths, in order. A length may be 0.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        Self { offsets: offsets(lengths), beginnings: Arc::new([]) }
    }

    /// Boundaries of sequences of which some continue an earlier one: `(length, beginning)`, the length without the
    /// beginning's.
    ///
    /// # Panics
    /// When a beginning does not come before its continuation or continues another sequence itself.
    pub fn continuing(sequences: &[(usize, Option<usize>)]) -> Self {
        for (i, beginning) in sequences.iter().enumerate() {
            if let Some(beginning) = beginning.1 {
                assert!(beginning < i && sequences[beginning].1.is_none(), "sequence {i} cannot continue {beginning}");
            }
        }
        let continues = sequences.iter().any(|(_, beginning)| beginning.is_some());
        let beginnings = sequences.iter().filter(|_| continues).map(|&(_, beginning)| beginning).collect();
        Self { offsets: offsets(sequences.iter().map(|&(length, _)| length)), beginnings }
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

    /// Row range of sequence `i`, without its beginning.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.offsets[i]..self.offsets[i + 1]
    }

    /// Row ranges of all sequences, in order, without their beginnings.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|w| w[0]..w[1])
    }

    /// The sequence that sequence `i` continues.
    pub fn beginning(&self, i: usize) -> Option<usize> {
        self.beginnings.get(i).copied().flatten()
    }

    /// Rows of the sequence that sequence `i` continues; an empty range when it continues none.
    pub fn past(&self, i: usize) -> Range<usize> {
        self.beginning(i).map_or(0..0, |beginning| self.range(beginning))
    }

    /// Position of every token within its own sequence, beginning included: `0, 1, .., 0, 1, ..`.
    pub fn positions(&self) -> Vec<u32> {
        let sequences = (0..self.len()).map(|i| (self.past(i).len() as u32, self.range(i).len() as u32));
        sequences.flat_map(|(past, own)| past..past + own).collect()
    }

    /// Tokens of the longest sequence, beginning included.
    pub fn longest(&self) -> usize {
        (0..self.len()).map(|i| self.past(i).len() + self.range(i).len()).max().unwrap_or(0)
    }
}

fn offsets(lengths: impl IntoIterator<Item = usize>) -> Arc<[usize]> {
    let mut offsets = vec![0];
    let mut end = 0;
    for n in lengths {
        end += n;
        offsets.push(end);
    }
    offsets.into()
}

#[cfg(test)]
mod tests {
    use super::Segments;

    #[test]
    fn a_continuation_counts_on_from_its_beginning() {
        let segments = Segments::continuing(&[(2, None), (3, Some(0)), (1, None), (0, Some(2)), (1, Some(0))]);
        assert_eq!(segments.positions(), [0, 1, 2, 3, 4, 0, 2]);
        assert_eq!((segments.longest(), segments.tokens(), segments.len()), (5, 7, 5));
        assert_eq!((segments.past(1), segments.past(0), segments.past(3)), (0..2, 0..0, 5..6));
        assert_eq!(Segments::continuing(&[(2, None), (1, None)]), Segments::from_lengths([2, 1]));
    }

    #[test]
    #[should_panic(expected = "cannot continue")]
    fn a_continuation_of_a_continuation_is_refused() {
        Segments::continuing(&[(1, None), (1, Some(0)), (1, Some(1))]);
    }
}
