//! Objectives, optimiser, schedule, trainer, checkpoints.

pub mod options;
pub mod trainer;

pub use options::{GammaScope, KlScope, Order, Schedule, Templates, TrainOptions};
pub use trainer::{Control, Observer, Sets, StepMetrics, TrainSummary, train};
