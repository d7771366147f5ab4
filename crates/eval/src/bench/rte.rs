//! RTE of GLUE: whether the second sentence follows from the first.
//! Columns: `sentence1`, `sentence2` and `label` (0 or `entailment`: it does; 1 or `not_entailment`).

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::Result;

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "nyu-mll/glue", config: "rte", split: "validation", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let gold = row.gold(&["label"], &["entailment", "not_entailment"].map(str::to_owned))?;
    let context =
        format!("{}\nQuestion: {} True or False?\nAnswer:", row.text(&["sentence1"])?, row.text(&["sentence2"])?);
    Item::ask(&context, vec!["True".into(), "False".into()], gold)
}
