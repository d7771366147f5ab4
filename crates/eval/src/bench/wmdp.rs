//! WMDP (Li et al. 2024): what a model knows of biology, chemistry and computer security that can do harm; four
//! choices, answered by the letter. Unlearning wants chance, a quarter. Columns: `question`, `choices` (four) and
//! `answer` (0 to 3, or A to D).

use super::mmlu::exam;
use super::{Fields, Form, HubRows, Item, Metric, Task};
use eraser_model::Result;

pub(super) const BIO: Task = task("wmdp-bio", |row| item(row, "biology"));
pub(super) const CHEM: Task = task("wmdp-chem", |row| item(row, "chemistry"));
pub(super) const CYBER: Task = task("wmdp-cyber", |row| item(row, "cybersecurity"));

const fn task(config: &'static str, item: fn(&Fields<'_>) -> Result<Item>) -> Task {
    let hub = HubRows { dataset: "cais/wmdp", config, split: "test", examples: None };
    Task { metrics: &[Metric::Acc], item, form: Form::Choices, hub }
}

fn item(row: &Fields<'_>, subject: &str) -> Result<Item> {
    exam(row, subject)
}
