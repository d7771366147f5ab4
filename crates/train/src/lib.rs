#![doc = include_str!("../README.md")]

// The ranks of the tests are shared by tests of this crate from within and from without, which name it so.
#[cfg(test)]
extern crate self as eraser_train;

pub mod adamw;
mod agree;
pub mod checkpoint;
mod deal;
pub mod dual;
pub mod feed;
pub mod gamma;
mod gradients;
pub mod group;
mod latent;
mod logits;
pub mod method;
pub mod metrics;
mod micro_batch;
pub mod objective;
pub mod options;
mod parts;
pub mod preset;
pub mod reference;
pub mod schedule;
pub mod sets;
pub mod settings;
mod states;
mod step;
mod store;
pub mod threshold;
pub mod trainer;

pub use adamw::AdamW;
pub use dual::Dual;
pub use eraser_data::SetName;
pub use gamma::Gamma;
pub use group::{Alone, Group, Traffic, Transport};
pub use method::{
    AlignLoss, Extra, Given, KlScope, Latent, LogitLoss, Loss, METHODS, Method, Npo, Preference, Ramp, StateLoss, Term,
    TermSettings,
};
pub use metrics::{LARGE_NORM, LargeGradients, StepMetrics, TrainSummary};
pub use micro_batch::Seen;
pub use options::{
    CheckpointActivations, GammaScope, HarmAnswers, MAX_LR, Order, Overlong, Preset, Schedule, Templates, TrainOptions,
};
pub use sets::Sets;
pub use trainer::{Control, Observer, Training, check, resumable, train};
