//! Exact and near duplicates among questions. In: texts; out: which are the same, which nearly so. Invariant: a near
//! duplicate has a Jaccard similarity of its shingles of at least [`NEAR`], computed exactly; `MinHash` only finds the
//! pairs to look at (Broder 1997, bands as in Leskovec et al., Mining of Massive Datasets, 3.4), and misses 0.3 % of
//! those at the threshold itself.

use crate::stream;
use rand::RngExt as _;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Characters of a shingle.
pub(super) const SHINGLE: usize = 5;
/// Similarity from which two texts are near duplicates.
pub(super) const NEAR: f64 = 0.8;

const BANDS: usize = 20;
const ROWS: usize = 6;
/// A text is compared with at most so many others of its kind: bounds the time on texts made from one template.
const MOST_CANDIDATES: usize = 1000;

/// `text` in lower case, letters and digits only, single spaces between words: texts that agree here are the same.
pub fn normal(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// A text, ready to be compared.
struct Sketch {
    normal: String,
    /// Hashes of its shingles, sorted, each once.
    shingles: Vec<u64>,
    bands: Vec<u64>,
}

/// Texts, ready to be compared.
pub struct Sketches(Vec<Sketch>);

/// Rows with an equal, and rows with a similar one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Rows with an equal one.
    pub exact: usize,
    /// Rows with a similar one and no equal one.
    pub near: usize,
}

impl Sketches {
    /// Prepares every text.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut rng = stream(0, "minhash", &[]);
        let salts: Vec<u64> = (0..BANDS * ROWS).map(|_| rng.random()).collect();
        Self(texts.into_iter().map(|text| sketch(text, &salts)).collect())
    }

    /// Rows that have an equal or a similar row before them.
    pub fn within(&self) -> Count {
        let mut count = Count::default();
        let mut texts = HashSet::new();
        let mut buckets = Buckets::default();
        for (i, sketch) in self.0.iter().enumerate() {
            if !texts.insert(sketch.normal.as_str()) {
                count.exact += 1;
                continue;
            }
            count.near += usize::from(buckets.candidates(sketch).any(|j| similar(sketch, &self.0[j])));
            buckets.add(sketch, i);
        }
        count
    }

    /// Rows of this that have an equal or a similar row in `other`.
    pub fn against(&self, other: &Self) -> Count {
        let texts: HashSet<&str> = other.0.iter().map(|s| s.normal.as_str()).collect();
        let mut buckets = Buckets::default();
        for (i, sketch) in other.0.iter().enumerate() {
            buckets.add(sketch, i);
        }
        let mut count = Count::default();
        for sketch in &self.0 {
            if texts.contains(sketch.normal.as_str()) {
                count.exact += 1;
            } else if buckets.candidates(sketch).any(|j| similar(sketch, &other.0[j])) {
                count.near += 1;
            }
        }
        count
    }
}

/// Rows by the bands of their signatures.
#[derive(Default)]
struct Buckets(HashMap<(usize, u64), Vec<usize>>);

impl Buckets {
    fn add(&mut self, sketch: &Sketch, row: usize) {
        for (band, hash) in sketch.bands.iter().enumerate() {
            self.0.entry((band, *hash)).or_default().push(row);
        }
    }

    fn candidates(&self, sketch: &Sketch) -> impl Iterator<Item = usize> + use<> {
        let found = sketch.bands.iter().enumerate().filter_map(|(band, hash)| self.0.get(&(band, *hash))).flatten();
        let found: BTreeSet<usize> = found.copied().collect();
        found.into_iter().take(MOST_CANDIDATES)
    }
}

fn sketch(text: &str, salts: &[u64]) -> Sketch {
    let normal = normal(text);
    let chars: Vec<char> = normal.chars().collect();
    let mut shingles: Vec<u64> = chars.windows(SHINGLE.min(chars.len()).max(1)).map(hash).collect();
    shingles.sort_unstable();
    shingles.dedup();
    let minimum = |salt: &u64| shingles.iter().map(|s| mix(s ^ salt)).min().unwrap_or(u64::MAX);
    let signature: Vec<u64> = salts.iter().map(minimum).collect();
    let bands = signature.chunks(ROWS).map(|rows| rows.iter().fold(0, |h, row| mix(h ^ row))).collect();
    Sketch { normal, shingles, bands }
}

fn hash(chars: &[char]) -> u64 {
    let text: String = chars.iter().collect();
    Sha256::digest(text.as_bytes()).iter().take(8).fold(0, |h, byte| h << 8 | u64::from(*byte))
}

/// The finaliser of splitmix64: a bijection that spreads every bit.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn similar(a: &Sketch, b: &Sketch) -> bool {
    let (mut i, mut j, mut both) = (0, 0, 0_usize);
    while let (Some(x), Some(y)) = (a.shingles.get(i), b.shingles.get(j)) {
        match x.cmp(y) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, both) = (i + 1, j + 1, both + 1),
        }
    }
    let either = a.shingles.len() + b.shingles.len() - both;
    either > 0 && both as f64 >= NEAR * either as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn case_and_punctuation_do_not_matter() {
        assert_eq!(normal("  How do I -- bake\tBREAD? "), "how do i bake bread");
        let texts = ["How do I bake bread?", "how do I bake bread", "What is rye?", ""];
        assert_eq!(Sketches::new(texts).within(), Count { exact: 1, near: 0 });
    }

    #[test]
    fn small_changes_are_near_and_others_are_not() {
        let long = "Explain to a beginner how the bread in this village is baked in winter";
        let near = Sketches::new([long]);
        assert_eq!(near.against(&Sketches::new([&*format!("{long}s")])), Count { exact: 0, near: 1 });
        assert_eq!(near.against(&Sketches::new(["Explain how a clock is made"])), Count::default());
        assert_eq!(near.against(&near), Count { exact: 1, near: 0 });
    }

    #[test]
    fn every_pair_well_above_the_threshold_is_found() {
        let base = |i: usize| (0..30).map(|w| format!("w{}", i * 31 + w * 7)).collect::<Vec<_>>().join(" ");
        let left: Vec<String> = (0..100).map(base).collect();
        let right: Vec<String> = left.iter().map(|t| format!("{t} end")).collect();
        let count =
            Sketches::new(left.iter().map(String::as_str)).against(&Sketches::new(right.iter().map(String::as_str)));
        assert_eq!(count, Count { exact: 0, near: 100 });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_set_is_a_duplicate_of_itself(texts in prop::collection::vec("\\PC{0,12}", 0..6)) {
            let sketches = Sketches::new(texts.iter().map(String::as_str));
            prop_assert_eq!(sketches.against(&sketches), Count { exact: texts.len(), near: 0 });
        }
    }
}
