//! Preparation of the three sets from a list of questions. In: questions, a source of harmful answers, the model that is to
//! be hardened; out: `data/{harm,help,align}.jsonl` and `data_report.json`. Invariant: every answer is stored when it comes
//! (`prepare/*.jsonl`), so that whatever stops the work costs no more than the answers under way.

mod ask;
mod duplicates;
mod endpoint;
mod entities;
mod forms;
mod journal;
mod local;
mod options;
mod reply;
mod report;
mod stages;

pub use endpoint::Endpoint;
pub use options::{Answers, EntitySource, PrepareOptions, Unfit};
pub use report::{DataReport, Evaluation, Lengths, Near, Overlap, SetReport};
pub use stages::{Inputs, Tally, prepare};

use ask::Answer;

/// What watches a preparation.
pub trait Progress {
    /// `done` of `total` answers of the stage `what` are there; false stops the work.
    fn tick(&mut self, what: &str, done: usize, total: usize) -> bool;
}

impl<F: FnMut(&str, usize, usize) -> bool> Progress for F {
    fn tick(&mut self, what: &str, done: usize, total: usize) -> bool {
        self(what, done, total)
    }
}
