//! `OpenBookQA`: a sentence to be completed by common knowledge. Columns: `question_stem`, `choices` (`{"text",
//! "label"}`) and `answerKey` as on the Hub; or `query`, `choices`, `gold`.

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::Result;

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc, Metric::AccNorm],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "allenai/openbookqa", config: "main", split: "test", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let (choices, labels) = row.choices()?;
    let gold = row.gold(&["answerKey", "gold"], &labels)?;
    Item::ask(&row.text(&["question_stem", "query"])?, choices, gold)
}
