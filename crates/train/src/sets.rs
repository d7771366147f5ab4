//! The sets that a run learns from. In: records and where they came from, by set; out: those of a set, and checks that
//! they look like what that set should hold. Invariant: a set that is not there has no records.

use crate::options::{HarmAnswers, TrainOptions};
use eraser_data::{Record, SetName, refusal::RefusalList};
use eraser_model::Error;
use std::collections::BTreeMap;

/// Records by set.
#[derive(Clone, Debug, Default)]
pub struct Sets(BTreeMap<SetName, Set>);

/// A set.
#[derive(Clone, Debug, Default)]
struct Set {
    records: Vec<Record>,
    /// The file or option that errors name.
    source: Option<String>,
}

impl Sets {
    /// Adds a set.
    pub fn insert(&mut self, name: SetName, records: Vec<Record>) {
        self.0.entry(name).or_default().records = records;
    }

    /// Says where a set came from (a file, the option that names it), for errors.
    pub fn name_source(&mut self, name: SetName, source: impl Into<String>) {
        self.0.entry(name).or_default().source = Some(source.into());
    }

    /// The records of a set, none if it is not there.
    pub fn rows(&self, name: SetName) -> &[Record] {
        self.0.get(&name).map_or(&[], |set| &set.records)
    }

    /// The set in an error: its name and where it came from.
    pub fn describe(&self, name: SetName) -> String {
        match self.0.get(&name).and_then(|set| set.source.as_deref()) {
            Some(source) => format!("the {} set ({source})", name.name()),
            None => format!("the {} set", name.name()),
        }
    }

    /// An error for each set that looks like another: a harm set most of whose answers are refusals, an align set most
    /// of whose answers are not. Refusals are found by the phrases of `gcg29`. None where `options` allow it.
    pub fn swapped(&self, options: &TrainOptions) -> Vec<Error> {
        if options.allow_swapped {
            return Vec::new();
        }
        let own_answers = |set: SetName| set != SetName::Harm || options.harm_answers == HarmAnswers::File;
        let sets = SetName::ALL.into_iter().filter(|&set| options.method.reads(set) && own_answers(set));
        let error = |set: SetName| {
            let what = set.unlike(self.rows(set), RefusalList::Gcg29)?;
            Some(
                Error::request(format!("{}: {what}", self.describe(set)))
                    .hint("check that the sets are not swapped: the harm set should hold answers that help, the align set refusals")
                    .hint("to train on them as they are, give --allow-swapped (in a run file allow_swapped = true)"),
            )
        };
        sets.filter_map(error).collect()
    }
}

impl FromIterator<(SetName, Vec<Record>)> for Sets {
    fn from_iter<I: IntoIterator<Item = (SetName, Vec<Record>)>>(sets: I) -> Self {
        let sets = sets.into_iter().map(|(name, records)| (name, Set { records, source: None }));
        Self(sets.collect())
    }
}
