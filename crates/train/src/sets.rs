//! The sets that a run learns from. In: records, by set; out: those of a set that a term sees.

use crate::Rows;
use eraser_data::Record;

/// The sets of a run.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    /// Harmful questions with harmful answers.
    pub harm: Vec<Record>,
    /// Questions about the entities involved, with the base model's answers.
    pub help: Vec<Record>,
    /// Harmful questions with the base model's refusals.
    pub align: Vec<Record>,
    /// Benign skills next to the harmful ones, with the base model's answers.
    pub retain: Option<Vec<Record>>,
    /// The align set with every question under every training jailbreak template; for methods that learn from those.
    pub wrapped: Vec<Record>,
}

impl Sets {
    /// The records of a set, none if it is not there.
    pub fn rows(&self, rows: Rows) -> &[Record] {
        match rows {
            Rows::Harm => &self.harm,
            Rows::Help => &self.help,
            Rows::Align => &self.align,
            Rows::Retain => self.retain.as_deref().unwrap_or_default(),
            Rows::Wrapped => &self.wrapped,
        }
    }
}
