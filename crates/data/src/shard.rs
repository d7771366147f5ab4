//! Shards of work that several processes do. In: the rounds of some work, each by what is in it; out: which shard does
//! each. Invariant: every round belongs to one shard, whichever process asks, and not because of its place in a list.
//!
//! What is dealt is a round, that is what is computed together, and not a single prompt: beside other prompts an answer
//! can differ by rounding, so only whole rounds give what one process alone would have given.

use eraser_model::Error;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

/// Most shards.
const MOST: usize = 4096;

/// One part of some work: number `index` of `of`, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    index: usize,
    of: NonZeroUsize,
}

impl Shard {
    /// The only one.
    pub const ONLY: Self = Self { index: 1, of: NonZeroUsize::MIN };

    /// Number `index` of `of`; None where there is no such shard.
    pub fn new(index: usize, of: usize) -> Option<Self> {
        let there = (1..=of).contains(&index) && of <= MOST;
        NonZeroUsize::new(of).filter(|_| there).map(|of| Self { index, of })
    }

    /// Its number, from 1.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many there are.
    pub fn of(self) -> usize {
        self.of.get()
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(index, of)| Self::new(index.parse().ok()?, of.parse().ok()?));
        parsed.ok_or_else(|| format!("write it as I/N, as 1/4 to 4/4; there are at most {MOST} shards"))
    }
}

/// How much of some work a process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    #[default]
    Whole,
    /// The rounds of one shard.
    Part(Shard),
    /// None: all shards, so many, have been joined, and what one of them lacks is an error.
    Joined(usize),
}

impl Share {
    /// Whether this is one shard of several.
    pub fn is_part(self) -> bool {
        matches!(self, Self::Part(_))
    }

    /// Deals rounds; each is named by what is in it.
    pub fn deal(self, rounds: &[String]) -> Dealt {
        let of = match self {
            Self::Whole => 1,
            Self::Part(shard) => shard.of(),
            Self::Joined(of) => of.max(1),
        };
        let hash = |name: &String| -> [u8; 32] { Sha256::digest(name.as_bytes()).into() };
        let mut order: Vec<([u8; 32], usize)> = rounds.iter().map(hash).zip(0..).collect();
        order.sort_unstable();
        // Where there are fewer rounds than shards, it is not always the first shards that have some.
        let first =
            order.first().map_or(0, |(hash, _)| hash[16..24].iter().fold(0, |n, b| (n * 256 + usize::from(*b)) % of));
        let mut shards = vec![1; rounds.len()];
        for (n, (_, round)) in order.into_iter().enumerate() {
            shards[round] = (first + n) % of + 1;
        }
        Dealt { share: self, shards, of }
    }
}

/// Rounds that have been dealt.
#[derive(Clone, Debug)]
pub struct Dealt {
    share: Share,
    /// The number of each round's shard.
    shards: Vec<usize>,
    of: usize,
}

impl Dealt {
    /// Whether this process does round `i`, or has it done.
    pub fn takes(&self, i: usize) -> bool {
        match self.share {
            Share::Whole | Share::Joined(_) => true,
            Share::Part(shard) => self.shards.get(i) == Some(&shard.index()),
        }
    }

    /// That round `i` cannot be computed, since all that there is comes from shards; None where it can. `what` is what
    /// is lacking.
    pub fn lacking(&self, i: usize, what: &str) -> Option<Error> {
        let Share::Joined(_) = self.share else { return None };
        if self.of == 1 {
            let error = Error::request(format!("the shards lack results of {what}"));
            return Some(error.hint("run the one that made them again, by the same command, and merge again"));
        }
        let shard = self.shards.get(i).copied().unwrap_or_default();
        Some(
            Error::request(format!("shard {shard}/{} lacks results of {what}", self.of))
                .hint(format!("run it again, by the same command with --shard {shard}/{}, and merge again", self.of)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(text: &str) -> Share {
        Share::Part(text.parse().unwrap())
    }

    #[test]
    fn a_shard_is_one_of_so_many() {
        for text in ["0/4", "5/4", "4", "1/0", "a/b", "-1/2", "1/2/3", "", "1/99999999999999999999", "1/5000"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
        assert_eq!("4/4".parse::<Shard>().unwrap().to_string(), "4/4");
    }

    #[test]
    fn what_is_lacking_names_its_shard() {
        let rounds = ["a".to_owned(), "b".to_owned()];
        assert!(Share::Whole.deal(&rounds).lacking(0, "x").is_none());
        let joined = Share::Joined(2).deal(&rounds);
        let said = joined.lacking(1, "base direct").unwrap().to_string();
        let own = if share("1/2").deal(&rounds).takes(1) { 1 } else { 2 };
        assert_eq!(said, format!("shard {own}/2 lacks results of base direct"));
    }

    proptest! {
        #[test]
        fn every_round_has_one_shard_wherever_it_stands(
            names in proptest::collection::hash_set("[a-z]{1,6}", 0..40),
            of in 1_usize..9,
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let mut turned = names.clone();
            turned.reverse();
            let mut counts = Vec::new();
            let mut taken = vec![0; names.len()];
            for index in 1..=of {
                let share = share(&format!("{index}/{of}"));
                let (dealt, other) = (share.deal(&names), share.deal(&turned));
                for (i, taken) in taken.iter_mut().enumerate() {
                    *taken += usize::from(dealt.takes(i));
                    prop_assert_eq!(dealt.takes(i), other.takes(names.len() - 1 - i));
                }
                counts.push((0..names.len()).filter(|i| dealt.takes(*i)).count());
            }
            prop_assert!(taken.iter().all(|n| *n == 1));
            // No shard has two rounds more than another.
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }
}
