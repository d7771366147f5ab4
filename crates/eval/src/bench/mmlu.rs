//! MMLU: exam questions in 57 subjects, answered by the letter. Columns: `subject`, `question`, `answer` (0 to 3, or A
//! to D), and the four answers in `choices` or in `A`, `B`, `C`, `D`.

use super::fields::letter;
use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::{Error, Result};
use std::fmt::Write as _;

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "cais/mmlu", config: "all", split: "test", examples: Some("dev") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    exam(row, &row.text(&["subject"])?.replace('_', " "))
}

/// A question of an exam in `subject`, with four answers, that is answered by the letter of one.
pub(super) fn exam(row: &Fields<'_>, subject: &str) -> Result<Item> {
    let letters: Vec<String> = (0..4).map(letter).collect();
    let choices = if row.has("choices") {
        row.texts(&["choices"])?
    } else {
        letters.iter().map(|l| row.text(&[l])).collect::<Result<_>>()?
    };
    if choices.len() != letters.len() {
        return Err(Error::request(format!("{} choices: this task has four", choices.len())));
    }
    let mut context = row.text(&["question"])?.trim().to_owned();
    for (letter, choice) in letters.iter().zip(&choices) {
        // Writing to a string cannot fail.
        let _ = write!(context, "\n{letter}. {choice}");
    }
    context.push_str("\nAnswer:");
    let mut item = Item::ask(&context, letters.clone(), row.gold(&["answer"], &letters)?)?;
    item.head = format!("The following are multiple choice questions (with answers) about {subject}.\n\n");
    Ok(item)
}
