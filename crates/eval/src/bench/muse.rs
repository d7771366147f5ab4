//! MUSE (Shi et al. 2024): news or books that are to be forgotten. `verbmem`: whether a passage is gone on with in its
//! words (`prompt`, `gt`); `knowmem`: questions about what they tell, and about what is to stay (`question`, `answer`);
//! texts that were, or were not, trained on (`text`), for `privleak` in `composite.rs`.

use super::{Fields, Form, HubRows, Item, Metric, Task, Written};
use eraser_model::Result;

pub(super) const VERBATIM: Task = Task {
    metrics: &[Metric::RougeF1],
    item: |row| Item::answer(&row.text(&["prompt"])?, row.text(&["gt"])?),
    form: Form::Written(Written { most: 128, ends: &[], tail: "", all_examples: false }),
    hub: hub("verbmem", "forget", None),
};
pub(super) const KNOWLEDGE_FORGET: Task = knowledge("forget_qa", "forget_qa_icl");
pub(super) const KNOWLEDGE_RETAIN: Task = knowledge("retain_qa", "retain_qa_icl");
pub(super) const FORGET: Task = texts("forget");
pub(super) const HOLDOUT: Task = texts("holdout");

const fn hub(config: &'static str, split: &'static str, examples: Option<&'static str>) -> HubRows {
    HubRows { dataset: "muse-bench/MUSE-News", config, split, examples }
}

const fn knowledge(split: &'static str, examples: &'static str) -> Task {
    let ends: &[&str] = &["\n\n", "\nQuestion", "Question:"];
    Task {
        metrics: &[Metric::RougeF1],
        item: question,
        form: Form::Written(Written { most: 32, ends, tail: " ", all_examples: true }),
        hub: hub("knowmem", split, Some(examples)),
    }
}

const fn texts(split: &'static str) -> Task {
    let item: fn(&Fields<'_>) -> Result<Item> = |row| Item::answer("", row.text(&["text"])?);
    Task { metrics: &[Metric::MinK], item, form: Form::Whole, hub: hub("privleak", split, None) }
}

fn question(row: &Fields<'_>) -> Result<Item> {
    Item::answer(&format!("Question: {}\nAnswer:", row.text(&["question"])?), row.text(&["answer"])?)
}
