//! The sets of a run, by name. In: a set; out: its name, its file, what its answers should be. Invariant: whatever goes
//! through the sets goes through [`SetName::ALL`], so that another set is a variant here and its line in each `match`.

use crate::Record;
use crate::record::{read_retain_set, read_set};
use crate::refusal::RefusalList;
use eraser_model::Result;
use std::path::Path;

/// A set that training learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Harmful questions with harmful answers.
    Harm,
    /// Benign questions about the same things with the model's own answers.
    Help,
    /// Harmful questions with the model's own refusals.
    Align,
    /// Allowed skills with the model's own answers. It can be left out.
    Retain,
    /// The align set under every training jailbreak template.
    Wrapped,
}

impl SetName {
    /// Every set.
    pub const ALL: [Self; 5] = [Self::Harm, Self::Help, Self::Align, Self::Retain, Self::Wrapped];

    /// The sets that a preparation makes.
    pub const PREPARED: [Self; 3] = [Self::Harm, Self::Help, Self::Align];

    /// Name of the set, of its file and of its random streams.
    pub fn name(self) -> &'static str {
        match self {
            Self::Harm => "harm",
            Self::Help => "help",
            Self::Align => "align",
            Self::Retain => "retain",
            Self::Wrapped => "wrapped",
        }
    }

    /// Name of the file in a run's `data` directory.
    pub fn file(self) -> String {
        format!("{}.jsonl", self.name())
    }

    /// The records of a file of this set. Running texts can be in the retain set only.
    ///
    /// # Errors
    /// Those of [`read_set`].
    pub fn read(self, path: &Path) -> Result<Vec<Record>> {
        if self == Self::Retain { read_retain_set(path) } else { read_set(path) }
    }

    /// Why the records cannot be those of this set: a harm set most of whose answers are refusals, an align or wrapped
    /// set most of whose answers are not. None: nothing speaks against it.
    pub fn unlike(self, records: &[Record], refusals: RefusalList) -> Option<String> {
        let (n, refused) = (records.len(), records.iter().filter(|r| refusals.refuses(&r.output)).count());
        match self {
            Self::Harm if 2 * refused > n => Some(format!("most of its answers are refusals: {refused} of {n}")),
            Self::Align | Self::Wrapped if 2 * (n - refused) > n => {
                Some(format!("most of its answers are not refusals: {} of {n}", n - refused))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(refused: usize, told: usize) -> Vec<Record> {
        let record = |output: &str| Record { input: "q".into(), output: output.into(), ..Record::default() };
        let mut records = vec![record("I cannot say."); refused];
        records.resize(refused + told, record("Take two."));
        records
    }

    #[test]
    fn swapped_sets_are_unlike_what_they_are_given_as() {
        let unlike = |set: SetName, refused, told| set.unlike(&records(refused, told), RefusalList::Gcg29);
        assert_eq!(unlike(SetName::Harm, 2, 1).unwrap(), "most of its answers are refusals: 2 of 3");
        assert_eq!(unlike(SetName::Align, 1, 2).unwrap(), "most of its answers are not refusals: 2 of 3");
        assert_eq!(unlike(SetName::Wrapped, 0, 1).unwrap(), "most of its answers are not refusals: 1 of 1");
        for set in SetName::ALL {
            assert_eq!(unlike(set, 0, 0), None);
            assert_eq!(unlike(set, 1, 1), None, "half is not most");
        }
        assert_eq!((unlike(SetName::Harm, 0, 3), unlike(SetName::Align, 3, 0)), (None, None));
        assert_eq!((unlike(SetName::Help, 3, 0), unlike(SetName::Retain, 3, 0)), (None, None));
    }
}
