//! The summary turned from "per subject" to "per measurement": one row for what can be compared, one cell a subject.
//! Invariant: cells are in the order of the summary's subjects; a subject without that measurement has None.

use crate::format::{NONE, number, percent, points, signed};
use crate::summary::{Attack, Summary, Utility};

/// One attack, set and judge over all subjects.
pub(crate) struct AttackRow<'a> {
    pub(crate) attack: &'a str,
    pub(crate) set: &'a str,
    pub(crate) judge: &'a str,
    /// One template of many: its attack's pool has a row of its own.
    pub(crate) part: bool,
    pub(crate) cells: Vec<Option<&'a Attack>>,
}

/// One task and metric over all subjects.
pub(crate) struct UtilityRow<'a> {
    pub(crate) task: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) is_share: bool,
    pub(crate) cells: Vec<Option<&'a Utility>>,
}

impl AttackRow<'_> {
    /// The answers behind the row, and the questions that they answer where a question has several.
    pub(crate) fn n(&self) -> String {
        let questions = counts(self.cells.iter().flatten().map(|a| a.questions).filter(|n| *n > 0));
        let answers = counts(self.cells.iter().flatten().map(|a| a.n));
        if questions.is_empty() || questions == answers { answers } else { format!("{answers} ({questions})") }
    }
}

impl UtilityRow<'_> {
    /// The items behind the row.
    pub(crate) fn n(&self) -> String {
        counts(self.cells.iter().flatten().map(|u| u.n))
    }
}

/// A utility value with its difference to the base: `93.0% (-2.0)`.
pub(crate) fn utility_cell(row: &UtilityRow<'_>, i: usize, base: Option<usize>) -> String {
    let value = |i: usize| row.cells[i].and_then(|u| u.value);
    let Some(x) = value(i) else { return NONE.into() };
    let text = if row.is_share { percent(Some(x)) } else { number(x) };
    let paired = row.cells[i].is_some_and(|u| u.change.is_some());
    match base.filter(|b| *b != i).and_then(value) {
        None => text,
        // Shares of other items, or under other settings, are no difference.
        Some(_) if row.is_share && !paired => text,
        Some(b) if row.is_share => format!("{text} ({})", points(x - b)),
        Some(b) => format!("{text} ({})", signed(x - b, 3)),
    }
}

/// Rows in the order of first appearance.
pub(crate) fn attacks(summary: &Summary) -> Vec<AttackRow<'_>> {
    let mut rows: Vec<AttackRow<'_>> = Vec::new();
    for (i, subject) in summary.subjects.iter().enumerate() {
        for a in &subject.attacks {
            let found = rows.iter().position(|r| (r.attack, r.set, r.judge) == a.key());
            let at = found.unwrap_or_else(|| {
                let (attack, set, judge) = a.key();
                rows.push(AttackRow { attack, set, judge, part: false, cells: vec![None; summary.subjects.len()] });
                rows.len() - 1
            });
            rows[at].cells[i] = Some(a);
        }
    }
    for at in 0..rows.len() {
        let AttackRow { attack, set, judge, .. } = rows[at];
        let pool = attack.split_once(':').map(|(pool, _)| (pool, set, judge));
        rows[at].part = pool.is_some_and(|key| rows.iter().any(|r| (r.attack, r.set, r.judge) == key));
    }
    rows
}

/// Rows in the order of first appearance.
pub(crate) fn utility(summary: &Summary) -> Vec<UtilityRow<'_>> {
    let mut rows: Vec<UtilityRow<'_>> = Vec::new();
    for (i, subject) in summary.subjects.iter().enumerate() {
        for u in &subject.utility {
            let found = rows.iter().position(|r| (r.task, r.metric) == u.key());
            let at = found.unwrap_or_else(|| {
                let cells = vec![None; summary.subjects.len()];
                rows.push(UtilityRow { task: &u.task, metric: &u.metric, is_share: u.is_share(), cells });
                rows.len() - 1
            });
            rows[at].cells[i] = Some(u);
        }
    }
    rows
}

/// The answers of a row, and the questions that they answer where a question has several: `120 (10)`.
pub(crate) fn answers(a: &Attack) -> String {
    if a.questions > 0 && a.questions != a.n { format!("{} ({})", a.n, a.questions) } else { a.n.to_string() }
}

/// The counts of a row's cells as one text: `320`, or `320/318` when subjects differ.
pub(crate) fn counts(ns: impl Iterator<Item = u64>) -> String {
    let mut all: Vec<u64> = Vec::new();
    for n in ns {
        if !all.contains(&n) {
            all.push(n);
        }
    }
    all.iter().map(u64::to_string).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Subject;

    #[test]
    fn templates_are_parts_of_their_pool() {
        let attack = |name: &str| Attack { attack: name.into(), ..Attack::default() };
        let subject = |name: &str, attacks| Subject { name: name.into(), attacks, ..Subject::default() };
        let summary = Summary {
            schema: 1,
            subjects: vec![
                subject("base", vec![attack("template"), attack("template:a"), attack("other:a")]),
                subject("x", vec![attack("template:b")]),
            ],
            ..Summary::default()
        };
        let rows = super::attacks(&summary);
        let parts: Vec<_> = rows.iter().map(|r| (r.attack, r.part)).collect();
        assert_eq!(parts, [("template", false), ("template:a", true), ("other:a", false), ("template:b", true)]);
        assert!(rows[3].cells[0].is_none() && rows[3].cells[1].is_some());
        assert_eq!(counts([3, 3, 4].into_iter()), "3/4");
    }
}
