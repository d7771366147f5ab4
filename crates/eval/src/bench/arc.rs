//! ARC, easy and challenge: science questions of school exams.
//! Columns: `question`, `choices` (`{"text", "label"}`) and `answerKey` as on the Hub; or `query`, `choices`, `gold`.

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::Result;

pub(super) const EASY: Task = task("ARC-Easy");
pub(super) const CHALLENGE: Task = task("ARC-Challenge");

const fn task(config: &'static str) -> Task {
    let hub = HubRows { dataset: "allenai/ai2_arc", config, split: "test", examples: Some("train") };
    Task { metrics: &[Metric::Acc, Metric::AccNorm], item, form: Form::Choices, hub }
}

fn item(row: &Fields<'_>) -> Result<Item> {
    let (choices, labels) = row.choices()?;
    let gold = row.gold(&["answerKey", "gold"], &labels)?;
    Item::ask(&format!("Question: {}\nAnswer:", row.text(&["question", "query"])?), choices, gold)
}
