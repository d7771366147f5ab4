//! `HellaSwag`: how a description goes on. Columns: `activity_label`, `ctx_a`, `ctx_b`, `endings` and `label` as on the
//! Hub; or `query`, `choices`, `gold`, which are taken unchanged.

use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::Result;

pub(super) const TASK: Task = Task {
    metrics: &[Metric::Acc, Metric::AccNorm],
    item,
    form: Form::Choices,
    hub: HubRows { dataset: "Rowan/hellaswag", config: "default", split: "validation", examples: Some("train") },
};

fn item(row: &Fields<'_>) -> Result<Item> {
    let labels = ["0", "1", "2", "3"].map(str::to_owned);
    if !row.has("endings") {
        return Item::ask(&row.text(&["query"])?, row.texts(&["choices"])?, row.gold(&["gold"], &labels)?);
    }
    let (a, b) = (row.text(&["ctx_a"])?, row.text(&["ctx_b"])?);
    let context = clean(&format!("{}: {a} {}", row.text(&["activity_label"])?, capitalised(&b)));
    let endings = row.texts(&["endings"])?.iter().map(|e| clean(e)).collect();
    Item::ask(&context, endings, row.gold(&["label"], &labels)?)
}

/// The first character upper case, all others lower case.
fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
        .unwrap_or_default()
}

/// The text without the marks that its collection left in it: ` [title]` ends a sentence, other brackets go.
fn clean(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, bracket)) = rest.split_once('[') {
        // A bracket that is not closed on its line stays.
        let end = bracket.find(']').filter(|&end| !bracket[..end].contains('\n'));
        out.push_str(before);
        if let Some(end) = end {
            rest = &bracket[end + 1..];
        } else {
            out.push('[');
            rest = bracket;
        }
    }
    out.push_str(rest);
    out.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_the_harness_does() {
        assert_eq!(
            clean(" How to fold [title] Take it. [step] Then [substeps] go. "),
            "How to fold. Take it. Then go."
        );
        assert_eq!(clean("an [open one"), "an [open one");
        assert_eq!(capitalised("then SHE runs"), "Then she runs");
        assert_eq!(capitalised(""), "");
    }
}
