//! Which rows of a step a rank takes. In: the ranks, and the micro-batches of a step; out: shares of micro-batches.
//! Invariant: every row belongs to exactly one rank, and a micro-batch is taken apart only where there are more ranks
//! than micro-batches.

use eraser_model::{Error, Result, counted};
use std::ops::Range;

/// Rows of a micro-batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// The micro-batch.
    pub(crate) micro: usize,
    /// Which of its rows.
    pub(crate) rows: Range<usize>,
}

/// How the micro-batches of a step go to the ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deal {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    /// Micro-batches of a step.
    pub(crate) micro_batches: usize,
    /// Rows of each.
    pub(crate) rows: usize,
}

impl Deal {
    /// Whether ranks share micro-batches. Each of them then has one share.
    pub(crate) fn apart(&self) -> bool {
        self.ranks > self.micro_batches
    }

    /// What is this rank's.
    pub(crate) fn shares(&self) -> Vec<Share> {
        let Self { rank, ranks, micro_batches, rows } = *self;
        if !self.apart() {
            return (rank..micro_batches).step_by(ranks).map(|micro| Share { micro, rows: 0..rows }).collect();
        }
        let (micro, member) = (rank % micro_batches, rank / micro_batches);
        let members = (ranks - micro).div_ceil(micro_batches);
        vec![Share { micro, rows: member * rows / members..(member + 1) * rows / members }]
    }

    /// An error where a rank would have nothing to do.
    pub(crate) fn check(&self) -> Result<()> {
        let rows = self.micro_batches * self.rows;
        if self.ranks <= rows {
            return Ok(());
        }
        Err(Error::request(format!("{} for a step of {}", counted(self.ranks, "rank"), counted(rows, "row"))).hint(
            "start fewer, or give a step more rows by --grad-accum or --micro-batch (in a run file grad_accum, micro_batch)",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(ranks: usize, micro_batches: usize, rows: usize) -> Vec<Vec<Share>> {
        (0..ranks).map(|rank| Deal { rank, ranks, micro_batches, rows }.shares()).collect()
    }

    #[test]
    fn micro_batches_stay_whole_while_there_is_one_for_each_rank() {
        let whole = |micro| Share { micro, rows: 0..4 };
        assert_eq!(shares(2, 3, 4), [vec![whole(0), whole(2)], vec![whole(1)]]);
        assert_eq!(shares(3, 1, 4), [0..1, 1..2, 2..4].map(|rows| vec![Share { micro: 0, rows }]));
    }

    #[test]
    fn more_ranks_than_rows_are_refused() {
        let deal = |ranks| Deal { rank: 0, ranks, micro_batches: 2, rows: 3 };
        assert!(deal(6).check().is_ok());
        assert_eq!(deal(7).check().unwrap_err().to_string(), "7 ranks for a step of 6 rows");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_row_is_one_ranks(ranks in 1usize..20, micro_batches in 1usize..9, rows in 1usize..9) {
            prop_assume!(ranks <= micro_batches * rows);
            let mut seen = vec![0; micro_batches * rows];
            for shares in shares(ranks, micro_batches, rows) {
                prop_assert!(!shares.is_empty());
                for Share { micro, rows: range } in shares {
                    prop_assert!(!range.is_empty());
                    range.for_each(|row| seen[micro * rows + row] += 1);
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1), "{seen:?}");
        }
    }
}
