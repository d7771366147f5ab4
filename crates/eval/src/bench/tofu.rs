//! TOFU (Maini et al. 2024): questions about invented authors, of whom some are to be forgotten; about the others;
//! about real authors; about the world. Columns: `question`, `answer`, `perturbed_answer` (a list of wrong answers), and in
//! the first two `paraphrased_answer`. The metrics are those of open-unlearning, each beside its formula in
//! `metric.rs`; what is made of several files is in `composite.rs`.

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::{Error, Result};

/// New tokens of an answer.
const MOST: usize = 200;

pub(super) const FORGET: Task = Task {
    metrics: &[
        Metric::Probability,
        Metric::RougeRecall,
        Metric::ForgetTruth,
        Metric::ExtractionStrength,
        Metric::ExactMemorization,
        Metric::Ratio,
        Metric::MinK,
    ],
    ..set("forget10_perturbed", invented)
};
pub(super) const RETAIN: Task = Task {
    metrics: &[Metric::Probability, Metric::RougeRecall, Metric::RetainTruth],
    ..set("retain_perturbed", invented)
};
pub(super) const REAL_AUTHORS: Task = real("real_authors_perturbed");
pub(super) const WORLD_FACTS: Task = real("world_facts_perturbed");
/// Questions that no model was trained on: what `privleak` compares the forget set with.
pub(super) const HOLDOUT: Task =
    Task { metrics: &[Metric::Probability, Metric::MinK], form: Form::Chat { most: None }, ..set("holdout10", plain) };

const fn set(config: &'static str, item: fn(&Fields<'_>) -> Result<Item>) -> Task {
    let hub = HubRows { dataset: "locuslab/TOFU", config, split: "train", examples: None };
    Task { metrics: &[], item, form: Form::Chat { most: Some(MOST) }, hub }
}

const fn real(config: &'static str) -> Task {
    Task {
        metrics: &[Metric::OptionProbability, Metric::RougeRecall, Metric::RetainTruth],
        ..set(config, with_wrong_answers)
    }
}

fn invented(row: &Fields<'_>) -> Result<Item> {
    let right = ["answer", "paraphrased_answer"].map(|key| row.text(&[key])).into_iter().collect::<Result<_>>()?;
    Item::known(&row.text(&["question"])?, right, wrong(row)?)
}

fn with_wrong_answers(row: &Fields<'_>) -> Result<Item> {
    Item::known(&row.text(&["question"])?, vec![row.text(&["answer"])?], wrong(row)?)
}

fn plain(row: &Fields<'_>) -> Result<Item> {
    Item::answer(&row.text(&["question"])?, row.text(&["answer"])?)
}

fn wrong(row: &Fields<'_>) -> Result<Vec<String>> {
    let wrong = row.texts(&["perturbed_answer"])?;
    if wrong.is_empty() {
        return Err(Error::request("`perturbed_answer` is empty: it lists the wrong answers"));
    }
    Ok(wrong)
}
