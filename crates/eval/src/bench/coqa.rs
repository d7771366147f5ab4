//! `CoQA`: the last question of a conversation about a story. Columns as on the Hub: `story`, `questions` and `answers`
//! with their texts in `input_text`, and `additional_answers` of other people, where there are some.

use super::fields::{parsed, strings};
use super::gsm8k::MOST;
use super::{Fields, Form, HubRows, Item, Metric, Task, Written};
use eraser_model::{Error, Result};
use serde_json::Value;

pub(super) const TASK: Task = Task {
    metrics: &[Metric::ExactAnswer, Metric::AnswerF1],
    item,
    form: Form::Written(Written { most: MOST, ends: &["\nQ:"], tail: "", all_examples: false }),
    hub: HubRows { dataset: "EleutherAI/coqa", config: "default", split: "validation", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let turns = |key: &str, value: &Value| strings(&format!("{key}.input_text"), &parsed(value)["input_text"]);
    let column = |key: &str| turns(key, row.0.get(key).unwrap_or(&Value::Null));
    let (questions, answers) = (column("questions")?, column("answers")?);
    let last = questions.len().checked_sub(1).ok_or_else(|| Error::request("`questions` has none"))?;
    let known = |key: &str, answers: &[String]| {
        answers.get(last).cloned().ok_or_else(|| {
            Error::request(format!("`{key}` has {} answers, `questions` has {}", answers.len(), last + 1))
        })
    };
    let mut golds = vec![known("answers", &answers)?];
    if let Some(Value::Object(others)) = row.0.get("additional_answers").map(parsed) {
        for (who, value) in &others {
            let key = format!("additional_answers.{who}");
            let other = known(&key, &turns(&key, value)?)?;
            if golds.iter().all(|gold| gold.to_lowercase() != other.to_lowercase()) {
                golds.push(other);
            }
        }
    }
    let turn = |(question, answer): (&String, &String)| format!("Q: {question}\n\nA: {answer}\n\n");
    let before: String = questions.iter().zip(&answers).take(last).map(turn).collect();
    let text = format!("{}\n\n{before}Q: {}\n\nA:", row.text(&["story"])?, questions[last]);
    Item::known(&text, golds, Vec::new())
}
