//! Benchmarks by log-likelihood, by the rules of lm-evaluation-harness 0.4.13. In: rows of local files; out: per-item
//! log-likelihoods, accuracies with their errors, paired differences to the base. Invariant: an item's figures depend
//! on the subject, the item and its examples only, not on what else is scored.
//!
//! Adding a task is one file (a function from a row to an `Item`) and one line in `TASKS`.

mod arc;
mod boolq;
mod encode;
mod fields;
mod hellaswag;
mod item;
mod mmlu;
mod openbookqa;
mod options;
mod paired;
mod piqa;
mod plan;
mod results;
mod rte;
mod run;
mod shots;
mod text;
mod truthfulqa;
mod winogrande;

pub use encode::Bos;
pub use options::{BenchOptions, TaskRows, TextFile};
pub use plan::Plan;
pub use results::{BenchSubject, BenchSummary, Difference, ItemScore};
pub use run::bench;

use fields::Fields;
use item::{Item, Metric};

use eraser_model::Result;

/// Where the hub keeps the rows of a task: those that lm-evaluation-harness scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubRows {
    /// `org/name` of the data set.
    pub dataset: &'static str,
    /// Its configuration.
    pub config: &'static str,
    /// The split that is scored.
    pub split: &'static str,
    /// The split that examples are taken from; None: the one that is scored.
    pub examples: Option<&'static str>,
}

impl HubRows {
    /// The file of a split, in the hub's Parquet conversion.
    pub fn file(&self, split: &str) -> String {
        format!("{}/{split}/0000.parquet", self.config)
    }
}

/// How the rows of a benchmark become items, and what is measured on them.
pub(crate) struct Task {
    /// What is computed from the log-likelihoods of an item.
    pub(crate) metrics: &'static [Metric],
    /// One row as an item.
    pub(crate) item: fn(&Fields<'_>) -> Result<Item>,
    /// Where its rows are.
    pub(crate) hub: HubRows,
}

/// Every task, under its name in lm-evaluation-harness.
const TASKS: &[(&str, Task)] = &[
    ("arc_challenge", arc::CHALLENGE),
    ("arc_easy", arc::EASY),
    ("boolq", boolq::TASK),
    ("hellaswag", hellaswag::TASK),
    ("mmlu", mmlu::TASK),
    ("openbookqa", openbookqa::TASK),
    ("piqa", piqa::TASK),
    ("rte", rte::TASK),
    ("truthfulqa_mc1", truthfulqa::MC1),
    ("truthfulqa_mc2", truthfulqa::MC2),
    ("winogrande", winogrande::TASK),
];

/// Where the hub keeps the rows of the task called `name`.
///
/// # Errors
/// No such task.
pub fn hub_rows(name: &str) -> Result<HubRows> {
    find(name).map(|task| task.hub)
}

/// The names of all tasks.
pub fn tasks() -> impl Iterator<Item = &'static str> {
    TASKS.iter().map(|(name, _)| *name)
}

/// The task called `name`.
fn find(name: &str) -> Result<&'static Task> {
    TASKS.iter().find(|(known, _)| *known == name).map(|(_, task)| task).ok_or_else(|| {
        let known: Vec<&str> = tasks().collect();
        crate::name::unknown("benchmark task", name, &known)
    })
}
