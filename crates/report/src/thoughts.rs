//! What models think before they answer. In: the rows of attacks; out: a table of what the thoughts give away and of
//! answers that are none. Invariant: there is no row where no subject thinks.

use crate::format::{interval, percent};
use crate::rows;
use crate::summary::Summary;
use crate::table::Table;

/// Said above the table.
pub(crate) const CAPTION: &str = "Leaks: the share of thoughts that the judge would call a success, were they the \
     answer; judges that ask a model are not asked about thoughts. Unfinished: answers that are none, because the \
     thought before them was not at its end when its tokens were spent; they count neither as success nor as refusal.";

/// A line for each attack, set and judge, and subject, which is shown under its `label`.
pub(crate) fn table(summary: &Summary, label: &dyn Fn(&str) -> String) -> Table {
    let mut lines = Vec::new();
    for row in rows::attacks(summary).iter().filter(|row| !row.part && row.thinks()) {
        for (subject, a) in summary.subjects.iter().zip(&row.cells) {
            let Some(a) = a else { continue };
            let names = [rows::in_words(row.attack), row.set.to_owned(), row.judge.to_owned(), label(&subject.name)];
            let figures =
                [a.thoughts.to_string(), percent(a.thought_leaks), interval(a.thought_leaks_ci), percent(a.unfinished)];
            lines.push(names.into_iter().chain(figures).collect());
        }
    }
    Table::new(["attack", "set", "judge", "subject", "thoughts", "leaks", "95%", "unfinished"], lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{Attack, Subject};

    #[test]
    fn only_models_that_think_have_a_line() {
        let attack = |unfinished, thought_leaks| Attack {
            attack: "direct".into(),
            set: "seen".into(),
            judge: "leak".into(),
            n: 4,
            thoughts: 3,
            unfinished,
            thought_leaks,
            ..Attack::default()
        };
        let summary = |attack| Summary {
            subjects: vec![Subject { name: "base".into(), attacks: vec![attack], ..Subject::default() }],
            ..Summary::default()
        };
        let label = |name: &str| name.to_owned();
        assert!(table(&summary(attack(None, None)), &label).rows.is_empty());
        let found = table(&summary(attack(Some(0.25), Some(1.0 / 3.0))), &label);
        assert_eq!(
            found.rows,
            [["direct", "seen", "leak", "base", "3", "33.3%", "\u{2013}", "25.0%"].map(str::to_owned)]
        );
    }
}
