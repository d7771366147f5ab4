//! LAMBADA, as OpenAI cut it: the last word of a passage. Column: `text`.

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::{Error, Result};

pub(super) const TASK: Task = Task {
    metrics: &[Metric::AnswerPerplexity, Metric::Greedy],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "EleutherAI/lambada_openai", config: "default", split: "test", examples: None },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let text = row.text(&["text"])?;
    let (before, word) = text.rsplit_once(' ').ok_or_else(|| Error::request("`text` is a single word"))?;
    if word.is_empty() {
        return Err(Error::request("`text` ends with a space, and has no last word"));
    }
    Item::answer(before, word.to_owned())
}
