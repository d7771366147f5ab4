//! Attacks, judges, tasks and statistics: responses of subjects under attacks, judged, as files.

pub mod answers;
pub mod attack;
pub mod bench;
pub mod degenerate;
pub mod evaluate;
mod facts;
pub mod figures;
pub mod judge;
mod name;
pub mod options;
mod respond;
pub mod stats;
pub mod summary;
mod tally;
mod task;

pub use answers::Answer;
pub use bench::{BenchOptions, BenchSummary, bench};
pub use evaluate::{Progress, Subject, evaluate};
pub use figures::{Choice, Figure, Figures};
pub use options::{EvalOptions, QuestionSet, TaskFile};
pub use respond::adapter_fingerprint;
pub use summary::Summary;
