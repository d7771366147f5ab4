#![doc = include_str!("../README.md")]

pub mod answers;
pub mod attack;
pub mod bench;
mod changes;
pub mod degenerate;
pub mod evaluate;
mod facts;
pub mod figures;
pub mod judge;
pub mod leakage;
pub mod likelihood;
mod marks;
pub mod merge;
mod name;
pub mod options;
pub mod plan;
pub mod stats;
pub mod subject;
pub mod summary;
mod tally;
mod target;
mod task;
mod verdict;
pub mod work;

pub use answers::Answer;
pub use bench::{BenchOptions, BenchSummary, bench};
pub use evaluate::evaluate;
pub use figures::{Choice, Figure, Figures, Measure};
pub use leakage::leakage;
pub use likelihood::{AnswerSet, likelihood};
pub use merge::{Admitted, record};
pub use name::{At, key};
pub use options::{EvalOptions, QuestionSet, TaskFile};
pub use plan::{Asked, Plan};
pub use subject::{Fingerprint, Subject, adapter_fingerprint};
pub use summary::Summary;
