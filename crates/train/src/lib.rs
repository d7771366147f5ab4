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
pub mod sets;
mod settings;
mod store;
pub mod trainer;

pub use adamw::AdamW;
pub use method::{METHODS, Method, Rows};
pub use metrics::{StepMetrics, TrainSummary};
pub use options::{CheckpointActivations, GammaScope, HarmAnswers, KlScope, Order, Schedule, Templates, TrainOptions};
pub use sets::Sets;
pub use trainer::{Control, Observer, resumable, train};
