//! PIQA: which of two ways reaches a goal.
//! Columns: `goal`, `sol1`, `sol2` and `label` as on the Hub; or `query` (the goal, with or without `Question: ` before
//! it), `choices`, `gold`.

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::Result;

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc, Metric::AccNorm],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "baber/piqa", config: "default", split: "validation", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let (goal, choices) = if row.has("goal") {
        (row.text(&["goal"])?, vec![row.text(&["sol1"])?, row.text(&["sol2"])?])
    } else {
        let query = row.text(&["query"])?;
        let goal = query.strip_prefix("Question: ").unwrap_or(&query);
        (goal.strip_suffix('\n').unwrap_or(goal).to_owned(), row.texts(&["choices"])?)
    };
    let labels = ["0", "1"].map(str::to_owned);
    let gold = row.gold(&["label", "gold"], &labels)?;
    Item::ask(&format!("Question: {goal}\nAnswer:"), choices, gold)
}
