//! Packing. In: samples; out: one sequence of tokens with its boundaries, and where each sample's tokens are in it.
//! Invariant: every token of every sample has a row; samples share the rows of a common beginning, and only those.

use crate::Sample;
use eraser_ops::Segments;
use std::{collections::HashMap, ops::Range};

/// Beginnings shorter than this are not shared: finding a place for them costs as much.
const MIN_SHARED: usize = 4;

/// Samples of a micro-batch, one after the other, without padding.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids of the pack.
    pub ids: Vec<u32>,
    /// Sequences of the pack: samples, and beginnings that some of them share.
    pub segments: Segments,
    /// Tokens of all samples, shared ones counted for each.
    pub tokens: usize,
    /// Where each sample's tokens are.
    places: Vec<Place>,
    /// Each sample's ids, and its range of supervised rows.
    samples: Vec<(Vec<u32>, Range<usize>)>,
}

/// Rows of a sample: those of its beginning, then its own.
#[derive(Clone, Debug)]
struct Place {
    beginning: Range<usize>,
    own: Range<usize>,
}

/// Rows of a pack that a loss is computed on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// The rows, each once.
    pub rows: Vec<u32>,
    /// How many tokens of samples share each row.
    pub counts: Vec<f32>,
    /// A sample that each row belongs to, and the row's place among that sample's scored tokens.
    pub origins: Vec<(usize, usize)>,
    /// Each sample's scored tokens as rows, shared ones included.
    pub samples: Vec<Vec<u32>>,
}

impl Scored {
    /// Boundaries of the samples among the rows; they mean something only where no row is shared.
    pub fn segments(&self) -> Segments {
        Segments::from_lengths(self.samples.iter().map(Vec::len))
    }
}

impl Batch {
    /// Packs `samples`, each in full.
    pub fn new(samples: &[&Sample]) -> Self {
        Self::packed(samples, |_| Vec::new())
    }

    /// Packs `samples`; a beginning that several of them share (a system prompt, the first part of a template) is in
    /// the pack once. Supervised rows are never shared.
    pub fn shared(samples: &[&Sample]) -> Self {
        Self::packed(samples, groups)
    }

    fn packed(samples: &[&Sample], groups: impl Fn(&[&Sample]) -> Vec<Group>) -> Self {
        let mut pack = Pack::default();
        let mut places: Vec<Option<Place>> = vec![None; samples.len()];
        for group in groups(samples) {
            let first = &samples[group.members[0]].ids;
            let beginning = pack.add(&first[..group.shared], None);
            for member in group.members {
                let own = pack.add(&samples[member].ids[group.shared..], Some(beginning.index));
                places[member] = Some(Place { beginning: beginning.rows.clone(), own: own.rows });
            }
        }
        let places = samples.iter().zip(places);
        let places = places.map(|(sample, place)| {
            place.unwrap_or_else(|| Place { beginning: 0..0, own: pack.add(&sample.ids, None).rows })
        });
        let places: Vec<Place> = places.collect();
        Self {
            segments: Segments::continuing(&pack.sequences),
            ids: pack.ids,
            tokens: samples.iter().map(|s| s.ids.len()).sum(),
            places,
            samples: samples.iter().map(|s| (s.ids.clone(), s.scored())).collect(),
        }
    }

    /// Rows that predict a supervised token, sample by sample.
    pub fn supervised(&self) -> Scored {
        self.scored(|i| self.samples[i].1.clone())
    }

    /// The rows of the answers' own tokens, sample by sample; of a text those of all tokens but its first.
    pub fn answers(&self) -> Scored {
        self.scored(|i| self.samples[i].1.start + 1..self.samples[i].1.end + 1)
    }

    /// Every row of the pack, in order.
    pub fn all(&self) -> Scored {
        let scored = self.scored(|i| 0..self.samples[i].0.len());
        let mut order: Vec<usize> = (0..scored.rows.len()).collect();
        order.sort_by_key(|&i| scored.rows[i]);
        Scored {
            rows: order.iter().map(|&i| scored.rows[i]).collect(),
            counts: order.iter().map(|&i| scored.counts[i]).collect(),
            origins: order.iter().map(|&i| scored.origins[i]).collect(),
            samples: scored.samples,
        }
    }

    /// The token after each supervised row, in the order of [`Self::supervised`].
    pub fn targets(&self) -> Vec<u32> {
        self.samples.iter().flat_map(|(ids, scored)| scored.clone().map(|t| ids[t + 1])).collect()
    }

    fn scored(&self, range: impl Fn(usize) -> Range<usize>) -> Scored {
        let mut scored = Scored::default();
        let mut seen: HashMap<u32, usize> = HashMap::new();
        for (sample, place) in self.places.iter().enumerate() {
            let rows: Vec<u32> = range(sample).map(|token| place.row(token)).collect();
            for (at, &row) in rows.iter().enumerate() {
                if let Some(&known) = seen.get(&row) {
                    scored.counts[known] += 1.0;
                    continue;
                }
                if place.beginning.contains(&(row as usize)) {
                    seen.insert(row, scored.rows.len());
                }
                scored.rows.push(row);
                scored.counts.push(1.0);
                scored.origins.push((sample, at));
            }
            scored.samples.push(rows);
        }
        scored
    }
}

impl Place {
    fn row(&self, token: usize) -> u32 {
        let row = match token.checked_sub(self.beginning.len()) {
            None => self.beginning.start + token,
            Some(own) => self.own.start + own,
        };
        row as u32
    }
}

/// A pack that is being built.
#[derive(Default)]
struct Pack {
    ids: Vec<u32>,
    sequences: Vec<(usize, Option<usize>)>,
}

struct Added {
    index: usize,
    rows: Range<usize>,
}

impl Pack {
    fn add(&mut self, ids: &[u32], beginning: Option<usize>) -> Added {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.sequences.push((ids.len(), beginning));
        Added { index: self.sequences.len() - 1, rows: start..self.ids.len() }
    }
}

/// Samples that begin alike.
struct Group {
    members: Vec<usize>,
    /// Tokens they share.
    shared: usize,
}

fn groups(samples: &[&Sample]) -> Vec<Group> {
    let mut members: Vec<(&[u32], Vec<usize>)> = Vec::new();
    for (i, sample) in samples.iter().enumerate() {
        let Some(head) = sharable(sample).get(..MIN_SHARED) else { continue };
        match members.iter_mut().find(|(known, _)| *known == head) {
            Some((_, members)) => members.push(i),
            None => members.push((head, vec![i])),
        }
    }
    let group = |(_, members): (&[u32], Vec<usize>)| {
        let (first, rest) = members.split_first()?;
        let first = sharable(samples[*first]);
        let common = |&i: &usize| first.iter().zip(sharable(samples[i])).take_while(|(a, b)| a == b).count();
        let shared = rest.iter().map(common).min()?;
        Some(Group { members, shared })
    };
    members.into_iter().filter_map(group).collect()
}

/// The part of a sample that may be shared: up to its first supervised row.
fn sharable(sample: &Sample) -> &[u32] {
    &sample.ids[..sample.scored().start]
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
        assert_eq!(batch.supervised().rows, [1, 2, 4]);
        assert_eq!(batch.targets(), [3, 4, 6]);
        let answers: Vec<u32> = batch.answers().rows.iter().map(|&row| batch.ids[row as usize]).collect();
        assert_eq!(answers, batch.targets());
        assert_eq!(batch.supervised().segments(), Segments::from_lengths([2, 1, 0, 0, 0]));
        assert_eq!(batch.all().rows, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_beginning_stands_once_and_counts_for_all_that_have_it() {
        let sample = |tail: &[u32], prompt_len| Sample { ids: [&[1, 2, 3, 4, 5], tail].concat(), prompt_len };
        let samples = [
            sample(&[6, 7], 6),
            Sample { ids: vec![9, 9], prompt_len: 1 },
            sample(&[6, 8, 8], 7),
            // Its own first supervised row is the sixth.
            sample(&[6, 7, 8], 6),
        ];
        let batch = Batch::shared(&samples.iter().collect::<Vec<_>>());
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6, 7, 6, 8, 8, 6, 7, 8, 9, 9]);
        assert_eq!(batch.segments.past(1), 0..5);
        assert_eq!(batch.supervised().rows, [5, 13, 8, 10, 11]);
        assert_eq!(batch.targets(), [7, 9, 8, 7, 8]);
        let answers: Vec<u32> = batch.answers().rows.iter().map(|&row| batch.ids[row as usize]).collect();
        assert_eq!(answers, batch.targets());
        assert_eq!(batch.supervised().origins, [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1)]);
        let all = batch.all();
        assert_eq!(all.rows, (0..15).collect::<Vec<u32>>());
        assert_eq!((all.origins[4], all.origins[9], all.origins[14]), ((0, 4), (2, 7), (1, 1)));
        assert_eq!(all.samples[2], [0, 1, 2, 3, 4, 7, 8, 9]);
        assert_eq!(all.counts[..7], [3.0, 3.0, 3.0, 3.0, 3.0, 1.0, 1.0]);
        assert_eq!(batch.tokens, 7 + 2 + 8 + 8);
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
            let expected: usize = lengths.iter().map(|&(p, a)| if p == 0 { a.saturating_sub(1) } else { a }).sum();
            let refs = samples.iter().collect::<Vec<_>>();
            for batch in [Batch::new(&refs), Batch::shared(&refs)] {
                let scored = batch.supervised();
                prop_assert_eq!(batch.targets().len(), expected);
                prop_assert_eq!(scored.segments().tokens(), expected);
                for (row, (sample, at)) in scored.rows.iter().zip(&scored.origins) {
                    let token = samples[*sample].scored().start + at;
                    prop_assert_eq!(batch.ids[*row as usize], samples[*sample].ids[token]);
                }
            }
        }

        /// Each sample reads the same through the rows of either pack, at the same positions.
        #[test]
        fn sharing_changes_no_sample(
            samples in prop::collection::vec((prop::collection::vec(0u32..2, 0..14), 0usize..14), 0..7)
        ) {
            let samples: Vec<Sample> = samples.into_iter().map(|(ids, prompt)| {
                Sample { prompt_len: prompt.min(ids.len()), ids }
            }).collect();
            let batch = Batch::shared(&samples.iter().collect::<Vec<_>>());
            let positions = batch.segments.positions();
            for (place, sample) in batch.places.iter().zip(&samples) {
                for (t, id) in sample.ids.iter().enumerate() {
                    let row = place.row(t) as usize;
                    prop_assert_eq!((batch.ids[row], positions[row] as usize), (*id, t));
                }
            }
            let tokens: f32 = batch.all().counts.iter().sum();
            prop_assert_eq!(tokens as usize, batch.tokens);
        }
    }
}
