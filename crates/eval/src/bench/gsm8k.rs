//! GSM8K: word problems with numbers; a solution is written, and the number in it compared. Columns: `question` and
//! `answer`, the solution with `#### ` and the number at its end.

use super::{Fields, Form, HubRows, Item, Metric, Task, Written};
use eraser_model::Result;

/// New tokens where lm-evaluation-harness has no number of its own for a task.
pub(super) const MOST: usize = 256;

pub(super) const TASK: Task = Task {
    metrics: &[Metric::StrictMatch, Metric::FlexibleMatch],
    item,
    form: Form::Written(Written {
        most: MOST,
        ends: &["Question:", "</s>", "<|im_end|>"],
        tail: "",
        all_examples: false,
    }),
    hub: HubRows { dataset: "openai/gsm8k", config: "main", split: "test", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    Item::answer(&format!("Question: {}\nAnswer:", row.text(&["question"])?), row.text(&["answer"])?)
}
