//! `SIQA`: a question about people in a situation. Columns: `context`, `question`, `answerA`, `answerB`, `answerC` and
//! `label` (1 to 3).

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::{Error, Result};

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "lighteval/siqa", config: "default", split: "validation", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let choices = ["answerA", "answerB", "answerC"].map(|key| row.text(&[key])).into_iter().collect::<Result<_>>()?;
    let label = row.text(&["label"])?;
    let gold = ["1", "2", "3"].iter().position(|known| *known == label.trim());
    let gold = gold.ok_or_else(|| Error::request(format!("`label` is {label}: it must be 1, 2 or 3")))?;
    Item::ask(&format!("Q: {} {}\nA:", row.text(&["context"])?, row.text(&["question"])?), choices, gold)
}
