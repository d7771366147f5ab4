//! `WinoGrande`: which of two names fills a blank. Scored by partial evaluation: the rest of the sentence is scored
//! after its beginning with either name filled in.
//! Columns: `sentence` (with `_` for the blank), `option1`, `option2` and `answer` (1 or 2) as on the Hub; or
//! `context_options` (two beginnings), `continuation`, `gold`.

use super::item::Choice;
use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::{Error, Result};

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc],
    item,
    form: Form::Choices,
    hub: HubRows {
        dataset: "allenai/winogrande",
        config: "winogrande_xl",
        split: "validation",
        examples: Some("train"),
    },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let (beginnings, rest, gold) = if row.has("sentence") {
        let sentence = row.text(&["sentence"])?;
        let (before, rest) =
            sentence.split_once('_').ok_or_else(|| Error::request("`sentence` holds no blank, which is written _"))?;
        let fill = |key: &str| Ok(format!("{before}{}", row.text(&[key])?));
        let options: Vec<String> = [fill("option1"), fill("option2")].into_iter().collect::<Result<_>>()?;
        let answer = row.text(&["answer"])?;
        let gold = ["1", "2"].iter().position(|a| *a == answer.trim());
        let gold = gold.ok_or_else(|| Error::request(format!("`answer` is {answer}: it must be 1 or 2")))?;
        (options, rest.trim().to_owned(), gold)
    } else {
        let labels = ["0", "1"].map(str::to_owned);
        (row.texts(&["context_options"])?, row.text(&["continuation"])?, row.gold(&["gold"], &labels)?)
    };
    let choice = |context| Choice { context, continuation: rest.clone() };
    Item::new(beginnings.into_iter().map(choice).collect(), |i| i == gold)
}
