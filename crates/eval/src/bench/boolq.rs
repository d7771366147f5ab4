//! `BoolQ`: a yes/no question about a passage. Columns: `passage`, `question` (without its question mark) and `label`
//! (0 no, 1 yes) as on the Hub; or `query` (passage and question, with or without `Passage: ` before them) and `gold`.

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::Result;
use serde_json::Value;

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "aps/super_glue", config: "boolq", split: "validation", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let question = if row.has("passage") {
        format!("{}\nQuestion: {}?", row.text(&["passage"])?, row.text(&["question"])?)
    } else {
        let query = row.text(&["query"])?;
        query.strip_prefix("Passage: ").unwrap_or(&query).to_owned()
    };
    let gold = match row.0.get("answer") {
        // As its authors published it.
        Some(Value::Bool(yes)) => usize::from(*yes),
        _ => row.gold(&["label", "answer", "gold"], &["false", "true"].map(str::to_owned))?,
    };
    Item::ask(&format!("{question}\nAnswer:"), vec!["no".into(), "yes".into()], gold)
}
