//! `TruthfulQA`, multiple choice: mc1, one true answer; mc2, the probability of all true answers together.
//! Columns as on the Hub: `question`, `mc1_targets` and `mc2_targets`, each `{"choices": [..], "labels": [1, 0, ..]}`.
//!
//! The published figures have six questions of the authors before each question; they are not part of this program, and
//! are given as the task's `preamble`.

use super::item::Choice;
use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::Result;

pub(super) const MC1: Task =
    Task { metrics: &[Metric::Mc1], item: |row| item(row, "mc1_targets"), form: Form::Choices, hub: HUB };
pub(super) const MC2: Task =
    Task { metrics: &[Metric::Mc2], item: |row| item(row, "mc2_targets"), form: Form::Choices, hub: HUB };
const HUB: HubRows =
    HubRows { dataset: "truthfulqa/truthful_qa", config: "multiple_choice", split: "validation", examples: None };

fn item(row: &Fields<'_>, targets: &str) -> Result<Item> {
    let (choices, right) = row.targets(targets)?;
    let context = format!("Q: {}\nA:", row.text(&["question"])?);
    let choice = |continuation| Choice { context: context.clone(), continuation };
    Item::new(choices.into_iter().map(choice).collect(), |i| right.get(i) == Some(&true))
}
