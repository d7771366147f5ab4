//! Preparation of the three sets from a list of questions. In: questions, a source of harmful answers, the model that
//! is to be hardened; out: `data/{harm,help,align}.jsonl` and `data_report.json`. Invariant: every answer is stored
//! when it comes (`prepare/*.jsonl`), so that an interruption costs no more than the answers that were being generated.

mod duplicates;
mod entities;
mod forms;
mod options;
mod report;
mod stages;
mod tally;
mod wordings;

pub use crate::Progress;
pub use crate::ask::Endpoint;
pub use duplicates::{Count, Sketches, normal};
pub use options::{Answers, EntitySource, Missing, PrepareOptions, Unfit};
pub use report::{DataReport, Evaluation, Lengths, Near, Overlap, SetReport};
pub use stages::{Inputs, prepare, prepare_part};
pub use tally::Tally;
