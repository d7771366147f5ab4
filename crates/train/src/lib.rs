//! Objectives, optimiser, schedule, trainer, checkpoints.

pub mod adamw;
pub mod checkpoint;
pub mod feed;
pub mod metrics;
pub mod objective;
pub mod options;
pub mod reference;
pub mod schedule;
mod store;
pub mod trainer;

pub use adamw::AdamW;
pub use options::{CheckpointActivations, GammaScope, KlScope, Order, Schedule, Templates, TrainOptions};
pub use trainer::{Control, Observer, Sets, StepMetrics, TrainSummary, train};
