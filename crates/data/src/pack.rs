//! Packing. In: samples; out: one sequence of tokens with its boundaries, and the rows to score. Invariant:
//! `targets[i]` is the token after row `scored_rows[i]`, in the same sample.

use crate::Sample;
use eraser_ops::Segments;

/// Samples of a micro-batch, one after the other, without padding.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids of all samples.
    pub ids: Vec<u32>,
    /// Sample boundaries.
    pub segments: Segments,
    /// Rows that predict a response token, in order.
    pub scored_rows: Vec<u32>,
    /// The token each scored row predicts.
    pub targets: Vec<u32>,
    /// Boundaries of the samples among the scored rows.
    pub scored_segments: Segments,
}

impl Batch {
    /// Packs `samples`. Row t of a sample predicts its token t + 1, so the scored rows of a sample are those from its
    /// last prompt token to its last token but one; a sample without prompt cannot score its first token.
    pub fn new(samples: &[&Sample]) -> Self {
        let ids: Vec<u32> = samples.iter().flat_map(|s| s.ids.iter().copied()).collect();
        let segments = Segments::from_lengths(samples.iter().map(|s| s.ids.len()));
        let mut scored_rows = Vec::new();
        let mut targets = Vec::new();
        for (sample, rows) in samples.iter().zip(segments.iter()) {
            for t in sample.scored() {
                scored_rows.push((rows.start + t) as u32);
                targets.push(sample.ids[t + 1]);
            }
        }
        let scored_segments = Segments::from_lengths(samples.iter().map(|s| s.scored().len()));
        Self { ids, segments, scored_rows, targets, scored_segments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_and_targets() {
        let samples = [
            Sample { ids: vec![1, 2, 3, 4], prompt_len: 2 },
            Sample { ids: vec![5, 6], prompt_len: 0 },
            Sample { ids: vec![7, 8], prompt_len: 2 },
            Sample { ids: vec![], prompt_len: 0 },
            Sample { ids: vec![9], prompt_len: 0 },
        ];
        let batch = Batch::new(&samples.iter().collect::<Vec<_>>());
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(batch.scored_rows, [1, 2, 4]);
        assert_eq!(batch.targets, [3, 4, 6]);
        assert_eq!(batch.scored_segments, Segments::from_lengths([2, 1, 0, 0, 0]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_response_token_after_the_first_is_a_target(
            lengths in prop::collection::vec((0usize..6, 0usize..6), 0..6)
        ) {
            let samples: Vec<Sample> = lengths.iter().map(|&(prompt, answer)| Sample {
                ids: (0..(prompt + answer) as u32).collect(), prompt_len: prompt,
            }).collect();
            let batch = Batch::new(&samples.iter().collect::<Vec<_>>());
            let expected: usize = lengths.iter().map(|&(p, a)| if p == 0 { a.saturating_sub(1) } else { a }).sum();
            prop_assert_eq!(batch.targets.len(), expected);
            prop_assert_eq!(batch.scored_segments.tokens(), expected);
            for (row, target) in batch.scored_rows.iter().zip(&batch.targets) {
                prop_assert_eq!(batch.ids[*row as usize + 1], *target);
            }
        }
    }
}
