//! COPA: which of two sentences is the cause, or the effect, of a first. Columns: `premise`, `choice1`, `choice2`,
//! `question` (`cause` or `effect`) and `label` (0 or 1).

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::{Error, Result};

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "aps/super_glue", config: "copa", split: "validation", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let question = row.text(&["question"])?;
    let word = match question.as_str() {
        "cause" => "because",
        "effect" => "therefore",
        _ => return Err(Error::request(format!("`question` is {question}: it must be cause or effect"))),
    };
    let premise = row.text(&["premise"])?;
    // Without the full stop.
    let mut premise = premise.trim().chars();
    premise.next_back();
    // The harness puts a space before each choice, and another between question and choice.
    let choices = ["choice1", "choice2"].map(|key| row.text(&[key]).map(|text| format!(" {}", uncapitalised(&text))));
    let choices = choices.into_iter().collect::<Result<_>>()?;
    let gold = row.gold(&["label"], &["0", "1"].map(str::to_owned))?;
    Item::ask(&format!("{} {word}", premise.as_str()), choices, gold)
}

/// The first character lower case.
fn uncapitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
