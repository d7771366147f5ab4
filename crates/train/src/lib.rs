//! Methods, their losses, optimiser, schedule, trainer, checkpoints.

pub mod adamw;
pub mod checkpoint;
pub mod feed;
pub mod method;
pub mod metrics;
pub mod objective;
pub mod options;
pub mod reference;
pub mod schedule;
mod store;
pub mod trainer;

pub use adamw::AdamW;
pub use method::{METHODS, Method, Rows};
pub use options::{CheckpointActivations, GammaScope, HarmAnswers, KlScope, Order, Schedule, Templates, TrainOptions};
pub use trainer::{Control, Observer, Sets, StepMetrics, TrainSummary, train};
