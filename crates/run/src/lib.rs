#![doc = include_str!("../README.md")]

mod bounded;
pub mod builtin;
mod directory;
mod doctor;
mod durability;
mod estimate;
mod export;
mod failure;
mod gate;
mod halving;
mod inputs;
pub mod machine;
pub mod manifest;
mod pipeline;
pub mod plan;
pub mod shards;
mod stage;
pub mod study;
pub mod tune;
mod watch;

pub use bounded::bounded;
pub use directory::{Earlier, run_name};
pub use doctor::{Diagnosis, Finding, Level, doctor};
pub use durability::{DurabilityOptions, durability};
pub use estimate::{Estimate, Step, Todo, estimate};
pub use export::{ExportKind, ExportPlan, export};
pub use failure::{Failure, Outcome, Problems};
pub use gate::{Condition, Found, Gate, gate};
pub use machine::Machine;
pub use pipeline::{describe, run};
pub use stage::bench::bench;
pub use stage::evaluate::eval;
pub use stage::prepare::prepare;
pub use stage::report::{data_table, durability_table, report, table};
pub use stage::train::train;
pub use watch::{Silent, Watch};
