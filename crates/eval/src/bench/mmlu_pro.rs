//! MMLU-Pro: exam questions with up to ten answers; thoughts are written, and the letter behind "the answer is"
//! compared. Columns: `category`, `question`, `options`, `answer` (a letter), and in rows for examples `cot_content`.

use super::fields::letter;
use super::{Fields, Form, HubRows, Item, Metric, Task, Written};
use eraser_model::{Error, Result};
use std::fmt::Write as _;

/// Answers that a question may have; lm-evaluation-harness leaves out what comes after.
const OPTIONS: usize = 10;
/// What a worked answer begins with in the file; the prompt ends with these words already.
const THINK: &str = "A: Let's think step by step. ";

pub(super) const TASK: Task = Task {
    metrics: &[Metric::LetterMatch],
    item,
    form: Form::Written(Written { most: 2048, ends: &["Question:"], tail: "", all_examples: false }),
    hub: HubRows { dataset: "TIGER-Lab/MMLU-Pro", config: "default", split: "test", examples: Some("validation") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let mut context = format!("Question:\n{}\nOptions:\n", row.text(&["question"])?);
    let options = row.texts(&["options"])?;
    for (i, option) in options.iter().enumerate().take(OPTIONS) {
        // Writing to a string cannot fail.
        let _ = writeln!(context, "{}. {}", letter(i), option.trim());
    }
    context.push_str("Answer: Let's think step by step.");
    let answer = row.text(&["answer"])?;
    if !(0..options.len().min(OPTIONS)).any(|i| letter(i) == answer) {
        return Err(Error::request(format!("`answer` is {answer}, which is no letter of {} options", options.len())));
    }
    let mut item = Item::answer(&context, answer)?;
    item.worked = row.has("cot_content").then(|| row.text(&["cot_content"])).transpose()?;
    item.worked = item.worked.filter(|worked| !worked.is_empty()).map(|worked| worked.replace(THINK, ""));
    item.head = format!(
        "The following are multiple choice questions (with answers) about {}. Think step by step and then finish your \
         answer with \"the answer is (X)\" where X is the correct letter choice.\n",
        row.text(&["category"])?
    );
    Ok(item)
}
