//! The summary turned from "per subject" to "per measurement": one row for what can be compared, one cell a subject.
//! Invariant: cells are in the order of the summary's subjects; a subject without that measurement has None.

use crate::format::{NONE, number, percent, points, signed};
use crate::summary::{Attack, OverRefusal, Subject, Summary, Utility};

/// One attack, set and judge over all subjects.
pub(crate) struct AttackRow<'a> {
    pub(crate) attack: &'a str,
    pub(crate) set: &'a str,
    pub(crate) judge: &'a str,
    /// One template of many: its attack's pool has a row of its own.
    pub(crate) part: bool,
    pub(crate) cells: Vec<Option<&'a Attack>>,
}

/// Shown behind a figure that cannot be compared with the base's in the same row.
pub(crate) const APART: &str = "*";
/// What [`APART`] means.
pub(crate) const APART_NOTE: &str = "* Not comparable with the base's figure in this row: it was measured on other prompts, on \
     another number of questions, or under other settings, for example another limit of tokens.";

/// One task and metric over all subjects.
pub(crate) struct UtilityRow<'a> {
    pub(crate) task: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) is_share: bool,
    pub(crate) cells: Vec<Option<&'a Utility>>,
}

impl AttackRow<'_> {
    /// Whether the attacker gives the opening of the answer, which a prompt alone cannot do.
    pub(crate) fn gives_opening(&self) -> bool {
        ["prefill", "prefill-thought"].contains(&self.stem())
    }

    /// The attack without what tells its parts apart.
    pub(crate) fn stem(&self) -> &str {
        self.attack.split([':', ' ']).next().unwrap_or_default()
    }

    /// The highest `value` of the hardened subjects, or of the base; negative infinity where there is none.
    pub(crate) fn most(&self, base: Option<usize>, hardened: bool, value: fn(&Attack) -> Option<f64>) -> f64 {
        let cells = self.cells.iter().enumerate().filter(|(i, _)| (Some(*i) != base) == hardened);
        cells.filter_map(|(_, a)| value(a.as_ref()?)).fold(f64::NEG_INFINITY, f64::max)
    }

    /// The highest success against a hardened subject, or against any where there is none.
    pub(crate) fn left(&self, base: Option<usize>) -> f64 {
        let hardened = self.most(base, true, |a| a.asr);
        if hardened.is_finite() { hardened } else { self.most(base, false, |a| a.asr) }
    }
}

impl AttackRow<'_> {
    /// Whether a subject thinks before it answers.
    pub(crate) fn thinks(&self) -> bool {
        self.cells.iter().flatten().any(|a| a.unfinished.is_some() || a.thought_leaks.is_some())
    }

    /// The answers behind the row, and the questions that they answer where a question has several.
    pub(crate) fn n(&self) -> String {
        let questions = counts(self.cells.iter().flatten().map(|a| a.questions).filter(|n| *n > 0));
        let answers = counts(self.cells.iter().flatten().map(|a| a.n));
        if questions.is_empty() || questions == answers { answers } else { format!("{answers} ({questions})") }
    }
}

impl AttackRow<'_> {
    /// Whether the figures of subject `i` cannot be compared with those of the subject `base`.
    pub(crate) fn apart(&self, i: usize, base: Option<usize>) -> bool {
        let Some((b, s)) = base.filter(|b| *b != i).and_then(|b| self.cells[b].zip(self.cells[i])) else {
            return false;
        };
        // The first is over all answers, the second over those that the judge could judge.
        let change = s.degenerate_change.or(s.asr_change);
        let same =
            change.is_some_and(|c| s.degenerate_change.is_none() || c.questions == 0 || c.questions >= s.questions);
        let measured = |a: &Attack| a.asr.is_some() || a.degenerate.is_some();
        measured(b) && measured(s) && (b.n != s.n || !same)
    }
}

impl UtilityRow<'_> {
    /// Whether the figure of subject `i` cannot be compared with that of the subject `base`.
    pub(crate) fn apart(&self, i: usize, base: Option<usize>) -> bool {
        let Some((b, s)) = base.filter(|b| *b != i).and_then(|b| self.cells[b].zip(self.cells[i])) else {
            return false;
        };
        b.value.is_some() && s.value.is_some() && (b.n != s.n || self.is_share && s.change.is_none())
    }

    /// Whether the task asks for what unlearning takes away, so that a loss is no cost.
    pub(crate) fn is_to_forget(&self) -> bool {
        let sets =
            ["tofu_forget", "tofu_holdout", "muse_forget", "muse_holdout", "muse_verbmem", "muse_knowmem_forget"];
        self.task.starts_with("wmdp") || sets.contains(&self.task)
    }

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
    match base.filter(|b| *b != i).and_then(value) {
        None => text,
        Some(_) if row.apart(i, base) => format!("{text}{APART}"),
        Some(b) if row.is_share => format!("{text} ({})", points(x - b)),
        Some(b) => format!("{text} ({})", signed(x - b, 3)),
    }
}

/// Whether the refusals of a subject cannot be compared with those of the base.
pub(crate) fn refusals_apart(base: Option<&OverRefusal>, subject: Option<&OverRefusal>) -> bool {
    let Some((b, s)) = base.zip(subject) else { return false };
    let measured = b.rate.is_some() && s.rate.is_some();
    measured && !std::ptr::eq(b, s) && (b.set != s.set || b.n != s.n || s.change.is_none())
}

/// Whether any figure of a summary has the sign [`APART`].
pub(crate) fn any_apart(summary: &Summary) -> bool {
    let base = summary.subjects.iter().position(|s| s.name == "base");
    let all = || 0..summary.subjects.len();
    let refusals = |of: fn(&Subject) -> Option<&OverRefusal>| {
        let b = base.and_then(|b| of(&summary.subjects[b]));
        summary.subjects.iter().any(|s| refusals_apart(b, of(s)))
    };
    attacks(summary).iter().any(|r| all().any(|i| r.apart(i, base)))
        || utility(summary).iter().any(|r| all().any(|i| r.apart(i, base)))
        || refusals(|s| s.over_refusal.as_ref())
        || refusals(|s| s.contrast.as_ref())
}

/// A figure, with the sign [`APART`] where it cannot be compared.
pub(crate) fn signed_apart(figure: String, apart: bool) -> String {
    if apart { figure + APART } else { figure }
}

/// The name of an attack or a context in a sentence: where it says which templates it is under, that comes last:
/// `template (6 files, 5fb59b):diary` is `template:diary (6 files, 5fb59b)`.
pub(crate) fn in_words(name: &str) -> String {
    let parts = name.split_once(" (").and_then(|(stem, rest)| Some((stem, rest.split_once("):")?)));
    parts.map_or_else(|| name.to_owned(), |(stem, (files, part))| format!("{stem}:{part} ({files})"))
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
    use crate::summary::Change;

    /// 10 questions with 32 tokens and 200 with 256 stood in one row, as if one could be read against the other.
    #[test]
    fn figures_that_cannot_be_compared_have_a_sign() {
        let change = |questions| Some(Change { questions, ..Change::default() });
        let attack =
            |n, degenerate_change| Attack { n, questions: n, asr: Some(0.5), degenerate_change, ..Attack::default() };
        let (base, same) = (attack(10, None), attack(10, change(10)));
        let (fewer, unpaired, partly) = (attack(5, change(5)), attack(10, None), attack(10, change(4)));
        let cells = [&base, &same, &fewer, &unpaired, &partly].map(Some).to_vec();
        let row = AttackRow { attack: "direct", set: "seen", judge: "leak", part: false, cells };
        assert_eq!([0, 1, 2, 3, 4].map(|i| row.apart(i, Some(0))), [false, false, true, true, true]);
        assert!((0..5).all(|i| !row.apart(i, None)));
        let task = |n, change| Utility { n, value: Some(0.5), change, ..Utility::default() };
        let (base, same, other) = (task(9, None), task(9, change(9)), task(9, None));
        let cells = [&base, &same, &other].map(Some).to_vec();
        let row = UtilityRow { task: "t", metric: "acc", is_share: true, cells };
        assert_eq!([0, 1, 2].map(|i| utility_cell(&row, i, Some(0))), ["50.0%", "50.0% (0.0)", "50.0%*"]);
        let over = |set: &str, change| {
            Some(OverRefusal { set: set.into(), n: 9, rate: Some(0.1), change, ..OverRefusal::default() })
        };
        let base = over("a", None);
        let apart = |s: Option<OverRefusal>| refusals_apart(base.as_ref(), s.as_ref());
        assert!(!apart(over("a", change(9))) && apart(over("b", change(9))) && apart(over("a", None)));
    }

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
        assert_eq!(in_words("template (6 files, 5fb59b):diary"), "template:diary (6 files, 5fb59b)");
        assert_eq!(["direct", "template (a b.txt)"].map(in_words), ["direct", "template (a b.txt)"]);
        assert_eq!(counts([3, 3, 4].into_iter()), "3/4");
    }
}
