//! From lines to rows of the summary. In: the files below `eval/`; out: means over questions, with intervals, and
//! changes to the base. Invariants: every question weighs the same, however many answers and templates it has; a figure
//! is compared with the base's for the same answer to the same prompt only.

use super::context::{PLAIN, TEMPLATE};
use super::lines::{After, Line};
use crate::answers;
use crate::marks::{LIKELIHOOD, UNFINISHED};
use crate::stats::{self, Change, mean};
use crate::summary::{BASE, LikelihoodSummary, SubjectSummary, Summary};
use eraser_model::Result;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// Computes the rows of every subject anew from its file in `dir/eval`. A subject without a whole file keeps what it
/// has.
pub(crate) fn fill(dir: &Path, summary: &mut Summary) -> Result<()> {
    let base = summary.subjects.iter().find(|s| s.name == BASE);
    let base = base.map(|base| read(dir, base)).transpose()?.flatten();
    for subject in &mut summary.subjects {
        let Some(lines) = read(dir, subject)? else { continue };
        let before = base.as_deref().filter(|_| subject.name != BASE);
        subject.likelihood = rows(&lines, before);
    }
    Ok(())
}

/// The lines of a subject; None where it has no whole file.
fn read(dir: &Path, subject: &SubjectSummary) -> Result<Option<Vec<Line>>> {
    let Some(fingerprint) = &subject.fingerprint else { return Ok(None) };
    let path = dir.join("eval").join(&subject.name).join(format!("{LIKELIHOOD}.jsonl"));
    if !path.exists() || path.with_extension(UNFINISHED).exists() {
        return Ok(None);
    }
    let mut lines = answers::read::<Line>(&path)?;
    lines.retain(|line| line.subject == fingerprint.short());
    Ok(Some(lines))
}

/// What identifies one figure of a line, whichever subject it is of.
type Key<'a> = (&'a str, &'a str, &'a str, &'a str, usize);

fn key(line: &Line, cut: usize) -> Key<'_> {
    (&line.set, &line.context, &line.prompt, &line.answer, cut)
}

/// A row per set, context and cut: plainly, all templates together, each of them.
fn rows(lines: &[Line], base: Option<&[Line]>) -> Vec<LikelihoodSummary> {
    let of = |line| move |after: &After| (key(line, after.cut), after.nll);
    let base: Option<HashMap<Key<'_>, f64>> =
        base.map(|lines| lines.iter().flat_map(|line| line.after.iter().map(of(line))).collect());
    let mut rows = Vec::new();
    for set in in_order(lines.iter().map(|line| line.set.as_str())) {
        let lines: Vec<&Line> = lines.iter().filter(|line| line.set == set).collect();
        let of = |line: &&Line| line.after.iter().map(|after| after.cut).chain(line.short.clone()).collect::<Vec<_>>();
        let cuts: BTreeSet<usize> = lines.iter().flat_map(of).collect();
        let templates = in_order(lines.iter().map(|line| line.context.as_str()).filter(|context| *context != PLAIN));
        let mut contexts = vec![PLAIN];
        contexts.extend((!templates.is_empty()).then_some(TEMPLATE));
        contexts.extend(templates);
        for context in contexts {
            let within = |line: &&Line| line.context == context || context == TEMPLATE && line.context != PLAIN;
            let lines: Vec<&Line> = lines.iter().copied().filter(within).collect();
            rows.extend(cuts.iter().map(|&cut| row((set, context, cut), &lines, base.as_ref())));
        }
    }
    rows
}

fn row(
    (set, context, cut): (&str, &str, usize),
    lines: &[&Line],
    base: Option<&HashMap<Key<'_>, f64>>,
) -> LikelihoodSummary {
    // By question, so that its answers and templates are one observation.
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut changes: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for line in lines {
        let Some(after) = line.after.iter().find(|after| after.cut == cut) else { continue };
        values.entry(&line.id).or_default().push(after.nll);
        if let Some(before) = base.and_then(|base| base.get(&key(line, cut))) {
            changes.entry(&line.id).or_default().push(after.nll - before);
        }
    }
    let means = |values: &BTreeMap<&str, Vec<f64>>| values.values().filter_map(|v| mean(v)).collect::<Vec<f64>>();
    let n = values.values().map(Vec::len).sum();
    let (compared, values) = (changes.values().map(Vec::len).sum(), means(&values));
    let changes = means(&changes);
    let change = |difference, ci| Change { difference, ci, n: compared, questions: changes.len() };
    LikelihoodSummary {
        set: set.to_owned(),
        context: context.to_owned(),
        cut,
        n,
        questions: values.len(),
        short: lines.len() - n,
        cut_off: lines.iter().filter(|line| line.cut_off).count(),
        nll: mean(&values),
        ci: stats::mean_interval(&values),
        change: mean(&changes).zip(stats::mean_interval(&changes)).map(|(d, ci)| change(d, ci)),
    }
}

/// Each name once, in the order of its first appearance.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<&str> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, context: &str, answer: &str, nll: &[f64]) -> Line {
        let after = |(cut, nll): (usize, &f64)| After { cut: 5 * cut, tokens: 9, nll: *nll };
        Line {
            set: "seen".into(),
            id: id.into(),
            question: id.into(),
            context: context.into(),
            prompt: format!("{context} {id}"),
            answer: answer.into(),
            own: 8,
            cut_off: false,
            after: nll.iter().enumerate().map(after).collect(),
            short: (nll.len()..3).map(|cut| 5 * cut).collect(),
            subject: "s".into(),
            fingerprint: String::new(),
        }
    }

    fn find<'a>(rows: &'a [LikelihoodSummary], context: &str, cut: usize) -> &'a LikelihoodSummary {
        rows.iter().find(|row| row.context == context && row.cut == cut).unwrap()
    }

    #[test]
    fn a_question_weighs_the_same_whatever_it_has_of_answers_and_templates() {
        let lines = [
            line("1", PLAIN, "a", &[1.0, 2.0]),
            line("1", PLAIN, "b", &[3.0]),
            line("2", PLAIN, "c", &[6.0, 4.0]),
            line("1", "template:x", "a", &[1.0]),
            line("1", "template:y", "a", &[2.0]),
            line("2", "template:x", "c", &[0.5]),
        ];
        let rows = rows(&lines, None);
        let contexts = in_order(rows.iter().map(|row| row.context.as_str()));
        assert_eq!(contexts, [PLAIN, TEMPLATE, "template:x", "template:y"]);
        let plain = find(&rows, PLAIN, 0);
        assert_eq!((plain.nll, plain.n, plain.questions, plain.short), (Some(4.0), 3, 2, 0));
        // Means 2 and 6 by question: standard error 2, quantile of one degree of freedom.
        let [low, high] = plain.ci.unwrap();
        assert!((low - (4.0 - 2.0 * 12.706_205)).abs() < 1e-6 && (high - (4.0 + 2.0 * 12.706_205)).abs() < 1e-6);
        let later = find(&rows, PLAIN, 5);
        assert_eq!((later.nll, later.n, later.short), (Some(3.0), 2, 1), "an answer that ends before counts apart");
        assert_eq!(find(&rows, TEMPLATE, 0).nll, Some(1.0));
        assert_eq!((find(&rows, "template:y", 0).nll, find(&rows, "template:y", 0).ci), (Some(2.0), None));
        assert_eq!((find(&rows, TEMPLATE, 5).nll, find(&rows, TEMPLATE, 5).short), (None, 3));
        let none = find(&rows, PLAIN, 10);
        assert_eq!((none.nll, none.n, none.short), (None, 0, 3), "a cut that no answer reaches is told");
    }

    #[test]
    fn a_change_is_that_of_the_same_answer_to_the_same_prompt() {
        let base = [line("1", PLAIN, "a", &[1.0]), line("2", PLAIN, "b", &[1.0]), line("3", PLAIN, "c", &[1.0])];
        let mut lines = [line("1", PLAIN, "a", &[3.0]), line("2", PLAIN, "b", &[5.0]), line("3", PLAIN, "z", &[9.0])];
        let change = find(&rows(&lines, Some(&base)), PLAIN, 0).change.unwrap();
        assert_eq!((change.difference, change.n, change.questions), (3.0, 2, 2), "the third answer is another one");
        lines[1].prompt = "another template of that name".into();
        assert_eq!(find(&rows(&lines, Some(&base)), PLAIN, 0).change, None, "one question has no interval");
        assert_eq!(find(&rows(&lines, None), PLAIN, 0).change, None);
    }
}
