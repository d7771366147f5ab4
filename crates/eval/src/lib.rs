//! Attacks, judges, tasks and statistics: responses of subjects under attacks, judged, as files.

pub mod attack;
pub mod evaluate;
pub mod judge;
pub mod stats;
pub mod summary;
pub mod task;

pub use evaluate::{EvalOptions, Subject, evaluate};
pub use summary::Summary;
