//! Benchmarks by log-likelihood and by written answers, by the rules of lm-evaluation-harness 0.4.13; those of
//! unlearning by the rules of TOFU and MUSE. In: rows of local files; out: per-item log-likelihoods, texts and metrics,
//! figures with their errors, paired differences to the base. Invariant: an item's figures depend on the subject, the
//! item and its examples only, not on what else is scored.
//!
//! Adding a task is one file (a function from a row to an `Item`) and one line in `TASKS`.

mod arc;
mod boolq;
mod composite;
mod copa;
mod coqa;
mod encode;
mod extract;
mod fields;
mod figures;
mod gsm8k;
mod hellaswag;
mod item;
mod lambada;
mod metric;
mod mmlu;
mod mmlu_pro;
mod muse;
mod openbookqa;
mod options;
mod paired;
mod piqa;
mod plan;
mod results;
mod rte;
mod run;
mod scorer;
mod shots;
mod siqa;
mod squad;
mod suite;
mod text;
mod tofu;
mod truthfulqa;
mod unit;
mod winogrande;
mod wmdp;

pub use encode::Bos;
pub use options::{BenchOptions, TaskRows, TextFile};
pub use plan::Plan;
pub use results::{BenchSubject, BenchSummary, Difference, ItemScore};
pub use run::bench;
pub use suite::{Suite, SuiteFile, suites};

use fields::Fields;
use item::Item;
use metric::Metric;

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
    /// What a model is asked for.
    pub(crate) form: Form,
    /// Where its rows are.
    pub(crate) hub: HubRows,
}

/// What a model is asked for, of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The log-likelihood of every answer behind its context.
    Choices,
    /// A text behind the context of the first answer.
    Written(Written),
    /// The log-likelihood of every answer to the context as a user turn in the model's chat template, the end of
    /// sequence behind each; and, with a number of tokens, a written answer.
    Chat { most: Option<usize> },
    /// The log-likelihood of a text from its second token on, the beginning of sequence counted.
    Whole,
}

/// A text that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Most new tokens.
    pub(crate) most: usize,
    /// It is over before any of these.
    pub(crate) ends: &'static [&'static str],
    /// Put behind the context.
    pub(crate) tail: &'static str,
    /// Every row for examples is put before the question, in their order, however many are asked for.
    pub(crate) all_examples: bool,
}

/// Every task, under its name in lm-evaluation-harness where it has one.
const TASKS: &[(&str, Task)] = &[
    ("arc_challenge", arc::CHALLENGE),
    ("arc_easy", arc::EASY),
    ("boolq", boolq::TASK),
    ("copa", copa::TASK),
    ("coqa", coqa::TASK),
    ("gsm8k", gsm8k::TASK),
    ("hellaswag", hellaswag::TASK),
    ("lambada_openai", lambada::TASK),
    ("mmlu", mmlu::TASK),
    ("mmlu_pro", mmlu_pro::TASK),
    ("muse_forget", muse::FORGET),
    ("muse_holdout", muse::HOLDOUT),
    ("muse_knowmem_forget", muse::KNOWLEDGE_FORGET),
    ("muse_knowmem_retain", muse::KNOWLEDGE_RETAIN),
    ("muse_verbmem", muse::VERBATIM),
    ("openbookqa", openbookqa::TASK),
    ("piqa", piqa::TASK),
    ("rte", rte::TASK),
    ("social_iqa", siqa::TASK),
    ("tofu_forget", tofu::FORGET),
    ("tofu_holdout", tofu::HOLDOUT),
    ("tofu_real_authors", tofu::REAL_AUTHORS),
    ("tofu_retain", tofu::RETAIN),
    ("tofu_world_facts", tofu::WORLD_FACTS),
    ("truthfulqa_mc1", truthfulqa::MC1),
    ("truthfulqa_mc2", truthfulqa::MC2),
    ("winogrande", winogrande::TASK),
    ("wmdp_bio", wmdp::BIO),
    ("wmdp_chem", wmdp::CHEM),
    ("wmdp_cyber", wmdp::CYBER),
];

/// Where the hub keeps the rows of the task called `name`.
///
/// # Errors
/// No such task.
pub fn hub_rows(name: &str) -> Result<HubRows> {
    find(name).map(|task| task.hub)
}

/// True if all rows for examples of the task called `name` are shown, however many are asked for.
pub fn shows_all_examples(name: &str) -> bool {
    find(name).is_ok_and(|task| matches!(task.form, Form::Written(Written { all_examples: true, .. })))
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
