//! Every subject against the base, on the same prompts. In: the files of answers; out: the changes in the rows of the
//! summary. Invariant: an answer is compared only with the base's answer to the same prompt, drawn in the same way. An
//! attack that searches for prompts finds others on each subject: there the question and the settings of the search
//! must be the same.

use crate::judge::REFUSAL;
use crate::marks::{self, Kind, Mark, MarkFile, TASK};
use crate::stats::{self, Change, Paired};
use crate::summary::{BASE, OverRefusal, SubjectSummary, Summary, UtilitySummary};
use crate::tally::belongs;
use crate::task::Expect;
use eraser_model::Result;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Computes the changes to the base anew from the answers in `dir/eval`. Rows without answers there, such as those of
/// benchmarks, keep what they have; without a base there are no changes.
pub(crate) fn fill(dir: &Path, summary: &mut Summary) -> Result<()> {
    let Some(base) = summary.subjects.iter().find(|s| s.name == BASE) else { return Ok(()) };
    let base_files = read(dir, base)?;
    for subject in summary.subjects.iter_mut().filter(|s| s.name != BASE) {
        let files = read(dir, subject)?;
        for file in &files {
            let Some(before) = base_files.iter().find(|f| f.stem == file.stem) else { continue };
            fill_file(subject, &file.stem, file.kind, &Pairs::new(&before.marks, &file.marks, searches(&file.stem)));
        }
    }
    Ok(())
}

fn read(dir: &Path, subject: &SubjectSummary) -> Result<Vec<MarkFile>> {
    match &subject.fingerprint {
        Some(fingerprint) => marks::read(dir, &subject.name, &fingerprint.subject),
        None => Ok(Vec::new()),
    }
}

fn fill_file(subject: &mut SubjectSummary, stem: &str, kind: Kind, pairs: &Pairs<'_>) {
    match kind {
        Kind::Attack => {
            let rows = subject.attacks.iter_mut();
            for row in rows.filter(|r| r.attack.split(':').next() == Some(stem)) {
                let (attack, set, judge) = (row.attack.clone(), row.set.clone(), row.judge.clone());
                let of = |m: &Mark| belongs(m, stem, &attack, &set);
                row.asr_change = pairs.change(of, |m| m.success(&judge));
                row.degenerate_change = pairs.change(of, |m| Some(m.degenerate));
            }
        }
        Kind::Task => {
            let same = |u: &&mut UtilitySummary| {
                Some(u.task.as_str()) == stem.strip_prefix(TASK) && u.metric == UtilitySummary::ACCURACY
            };
            for row in subject.utility.iter_mut().filter(same) {
                row.change = pairs.change(|_| true, |m| m.success(Expect::NAME));
            }
        }
        Kind::OverRefusal => subject.over_refusal.iter_mut().for_each(|o| fill_refusals(o, pairs)),
        Kind::Contrast => subject.contrast.iter_mut().for_each(|o| fill_refusals(o, pairs)),
    }
}

fn fill_refusals(row: &mut OverRefusal, pairs: &Pairs<'_>) {
    let set = row.set.clone();
    row.change = pairs.change(|m| m.set == set, |m| (!m.unfinished).then_some(m.refused));
    row.judged_change = pairs.change(|m| m.set == set, |m| m.success(REFUSAL.name));
}

/// Whether an attack searches for a prompt of its own against every subject, so that prompts may differ.
fn searches(stem: &str) -> bool {
    ["gcg", "autodan"].contains(&stem)
}

/// Answers of two subjects to the same prompts.
struct Pairs<'a>(Vec<(&'a Mark, &'a Mark)>);

impl<'a> Pairs<'a> {
    fn new(first: &'a [Mark], second: &'a [Mark], searched: bool) -> Self {
        let key = |m: &'a Mark| {
            let prompt = if searched { (m.search.as_str(), "") } else { (m.prompt.as_str(), m.opening.as_str()) };
            (m.set.as_str(), m.attack.as_str(), m.id.as_str(), m.question.as_str(), prompt, m.sampling.as_str())
        };
        // An older version wrote answers without the settings of their search: what they are comparable with is
        // unknown.
        let known = first.iter().filter(|m| !searched || !m.search.is_empty());
        let known: HashMap<_, &Mark> = known.map(|m| (key(m), m)).collect();
        Self(second.iter().filter_map(|m| Some((*known.get(&key(m))?, m))).collect())
    }

    /// The change of the share of answers for which `counts` is true, over the answers for which it is not None.
    fn change(&self, of: impl Fn(&Mark) -> bool, counts: impl Fn(&Mark) -> Option<bool>) -> Option<Change> {
        let mut by_question: BTreeMap<(&str, &str), Paired> = BTreeMap::new();
        for (before, after) in self.0.iter().filter(|(_, m)| of(m)) {
            if let (Some(a), Some(b)) = (counts(before), counts(after)) {
                let cluster = by_question.entry((&after.set, &after.id)).or_default();
                cluster.change += i64::from(b) - i64::from(a);
                cluster.n += 1;
            }
        }
        stats::change(&by_question.into_values().collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_beside_those_to_the_same_question_only() {
        let mark = |id: &str, question: &str, refused| Mark {
            id: id.into(),
            question: question.into(),
            refused,
            ..Mark::default()
        };
        let before = [mark("1", "a", false), mark("2", "b", false), mark("3", "c", false)];
        let after = [mark("1", "a", true), mark("2", "another", true), mark("4", "d", true)];
        let change = Pairs::new(&before, &after, false).change(|_| true, |m| Some(m.refused)).unwrap();
        assert_eq!((change.n, change.questions, change.difference), (1, 1, 1.0));
        assert_eq!(Pairs::new(&before[2..], &after, false).change(|_| true, |m| Some(m.refused)), None);
    }
    #[test]
    fn answers_count_beside_those_to_the_same_prompt_drawn_in_the_same_way_only() {
        let mark = |prompt: &str, sampling: &str, refused| Mark {
            id: "1".into(),
            prompt: prompt.into(),
            sampling: sampling.into(),
            refused,
            ..Mark::default()
        };
        let before = [mark("a template", "greedy, at most 64 tokens", false)];
        let change = |after: &Mark, searched| {
            Pairs::new(&before, std::slice::from_ref(after), searched).change(|_| true, |m| Some(m.refused))
        };
        assert!(change(&mark("a template", "greedy, at most 64 tokens", true), false).is_some());
        assert!(change(&mark("a template", "greedy, at most 2 tokens", true), false).is_none());
        assert!(change(&mark("another of its name", "greedy, at most 64 tokens", true), false).is_none());
    }

    /// Suffixes of 4 steps and of 400 were compared: "attack success fell".
    #[test]
    fn answers_to_searched_prompts_count_beside_those_of_a_search_with_the_same_settings_only() {
        let mark = |suffix: &str, search: &str, sampling: &str| Mark {
            id: "1".into(),
            prompt: suffix.into(),
            search: search.into(),
            sampling: sampling.into(),
            ..Mark::default()
        };
        let change = |before: &Mark, after: &Mark| {
            let [before, after] = [before, after].map(std::slice::from_ref);
            Pairs::new(before, after, true).change(|_| true, |m| Some(m.refused))
        };
        // A suffix that was searched on each subject differs by nature.
        let before = mark("a suffix", "400 steps", "greedy");
        assert!(change(&before, &mark("another", "400 steps", "greedy")).is_some());
        assert!(change(&before, &mark("another", "4 steps", "greedy")).is_none());
        assert!(change(&before, &mark("another", "400 steps", "temperature 1")).is_none());
        assert!(change(&mark("a suffix", "", "greedy"), &mark("another", "", "greedy")).is_none());
    }
}
