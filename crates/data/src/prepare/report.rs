//! The data report: what the sets hold, and how they overlap with each other and with the questions of the evaluation.
//! In: sets, evaluation questions, a tokenizer; out: figures, written to `data_report.json`. Invariant: a share over
//! nothing is null, and a duplicate is counted once, on the row that repeats another.

use super::duplicates::{Count, NEAR, SHINGLE, Sketches, normal};
use super::tally::Tally;
use crate::refusal::RefusalList;
use crate::{Question, Record, SetName};
use eraser_model::{Error, Result, Tokenizer};
use serde::Serialize;
use std::collections::HashSet;

/// Questions that the model will be evaluated with.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Name of the set or task.
    pub name: String,
    /// The questions.
    pub questions: Vec<Question>,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct DataReport {
    /// Format of the file.
    pub schema: u32,
    /// How the sets were made; None for sets that were made elsewhere.
    pub made: Tally,
    /// Columns that the questions were read from; none where their file has no columns.
    pub columns: Vec<String>,
    /// The sets.
    pub sets: Vec<SetReport>,
    /// Every pair of sets, and every set with every evaluation set.
    pub overlaps: Vec<Overlap>,
    /// What a near duplicate is.
    pub near: Near,
    /// What looks wrong: a harm set most of whose answers are refusals, an align set most of whose answers are not
    /// refusals.
    pub warnings: Vec<String>,
}

/// One set.
#[derive(Clone, Debug, Serialize)]
pub struct SetReport {
    /// harm, help, align.
    pub set: String,
    /// Rows.
    pub n: usize,
    /// Tokens of the questions.
    pub input_tokens: Lengths,
    /// Tokens of the answers.
    pub output_tokens: Lengths,
    /// Answers that are refusals.
    pub refused: usize,
    /// Their share.
    pub refused_share: Option<f64>,
    /// Rows whose question is that of an earlier row.
    pub exact_duplicates: usize,
    /// Rows whose question is nearly that of an earlier row.
    pub near_duplicates: usize,
}

/// Lengths in tokens; null over nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Mean.
    pub mean: Option<f64>,
    /// Median, the lower one of two.
    pub median: Option<usize>,
    /// Largest.
    pub max: Option<usize>,
}

/// Rows of one set that another holds too.
#[derive(Clone, Debug, Serialize)]
pub struct Overlap {
    /// The set whose rows are counted.
    pub set: String,
    /// The set they are looked for in.
    pub with: String,
    /// The other is an evaluation set.
    pub evaluation: bool,
    /// Rows of the other set.
    pub n: usize,
    /// Rows with the same question.
    pub exact: usize,
    /// Rows with nearly the same.
    pub near: usize,
}

/// What a near duplicate is: Jaccard similarity of the sets of shingles.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Near {
    /// Characters of a shingle.
    pub shingle: usize,
    /// Least similarity.
    pub similarity: f64,
}

/// The report of `sets`, each a name and its records.
pub(super) fn report(
    sets: &[(SetName, &[Record])],
    evaluation: &[Evaluation],
    (made, columns): (Tally, &[&str]),
    refusals: RefusalList,
    tokenizer: &Tokenizer,
) -> Result<DataReport> {
    let sketches: Vec<Sketches> =
        sets.iter().map(|(_, records)| Sketches::new(records.iter().map(|r| r.input.as_str()))).collect();
    let mut reports = Vec::with_capacity(sets.len());
    for ((name, records), sketches) in sets.iter().zip(&sketches) {
        let lengths = |text: fn(&Record) -> &str| {
            let tokens = records.iter().map(|r| tokenizer.encode(text(r)).map(|ids| ids.len()));
            tokens.collect::<Result<Vec<_>>>().map(Lengths::of)
        };
        let refused = records.iter().filter(|r| refusals.refuses(&r.output)).count();
        let Count { exact, near } = sketches.within();
        reports.push(SetReport {
            set: name.name().to_owned(),
            n: records.len(),
            input_tokens: lengths(|r| &r.input)?,
            output_tokens: lengths(|r| &r.output)?,
            refused,
            refused_share: (!records.is_empty()).then(|| refused as f64 / records.len() as f64),
            exact_duplicates: exact,
            near_duplicates: near,
        });
    }
    let mut overlaps = Vec::new();
    let mut overlap = |(i, set): (usize, &str), with: &str, other: &Sketches, n: usize, evaluation: bool| {
        let Count { exact, near } = sketches[i].against(other);
        overlaps.push(Overlap { set: set.to_owned(), with: with.to_owned(), evaluation, n, exact, near });
    };
    for (i, (name, _)) in sets.iter().enumerate() {
        for (j, (with, records)) in sets.iter().enumerate().skip(i + 1) {
            overlap((i, name.name()), with.name(), &sketches[j], records.len(), false);
        }
    }
    for set in evaluation {
        let other = Sketches::new(set.questions.iter().map(|q| q.text.as_str()));
        for (i, (name, _)) in sets.iter().enumerate() {
            overlap((i, name.name()), &set.name, &other, set.questions.len(), true);
        }
    }
    let warning = |&(name, records): &(SetName, &[Record])| {
        let what = name.unlike(records, refusals)?;
        Some(format!("the {} set: {what}; training refuses it without --allow-swapped", name.name()))
    };
    Ok(DataReport {
        schema: 1,
        made,
        columns: columns.iter().map(ToString::to_string).collect(),
        sets: reports,
        overlaps,
        near: Near { shingle: SHINGLE, similarity: NEAR },
        warnings: sets.iter().filter_map(warning).collect(),
    })
}

impl Lengths {
    fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let n = lengths.len();
        Self {
            mean: (n > 0).then(|| lengths.iter().sum::<usize>() as f64 / n as f64),
            median: lengths.get(n.saturating_sub(1) / 2).copied(),
            max: lengths.last().copied(),
        }
    }
}

/// An error if a question of an evaluation set is among `questions`, which are trained on, unless the set is `allowed`.
pub(super) fn leakage<'a>(
    questions: impl IntoIterator<Item = &'a str>,
    evaluation: &[Evaluation],
    allowed: &[String],
) -> Result<()> {
    let trained: HashSet<String> = questions.into_iter().map(normal).collect();
    for set in evaluation.iter().filter(|set| !allowed.contains(&set.name)) {
        let leaked: Vec<&Question> = set.questions.iter().filter(|q| trained.contains(&normal(&q.text))).collect();
        if let Some(first) = leaked.first() {
            let (n, all, name) = (leaked.len(), set.questions.len(), &set.name);
            let id = &first.id;
            return Err(Error::request(format!(
                "questions of `{name}` that are trained on: {n} of {all} (the first has id {id})"
            ))
            .hint("take rows for training and for the evaluation that do not overlap (`take`)")
            .hint(format!("or allow it by name: --allow-leakage {name}, in a run file allow_leakage = [\"{name}\"]")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tokenizer;

    fn record(input: &str, output: &str) -> Record {
        Record { input: input.into(), output: output.into(), ..Record::default() }
    }

    fn evaluation(name: &str, text: &str) -> Evaluation {
        let question = Question { id: "q1".into(), text: text.into(), ..Question::default() };
        Evaluation { name: name.into(), questions: vec![question] }
    }

    #[test]
    fn figures() {
        let harm = [record("a b", "ab"), record("A  b?", "b I cannot"), record("b", "a a a")];
        let align = [record("a b", "ab")];
        let sets: [(SetName, &[Record]); 3] = [(SetName::Harm, &harm), (SetName::Help, &[]), (SetName::Align, &align)];
        let unseen = [evaluation("unseen", "B!")];
        let report = report(&sets, &unseen, (Tally::default(), &["Goal"]), RefusalList::Gcg29, &tokenizer()).unwrap();
        let set = &report.sets[0];
        assert_eq!((set.n, set.refused, set.exact_duplicates, set.near_duplicates), (3, 1, 1, 0));
        assert_eq!((set.input_tokens.median, set.input_tokens.max), (Some(3), Some(3)));
        assert_eq!((report.warnings.len(), &*report.columns), (1, &["Goal".to_owned()][..]));
        assert!(report.warnings[0].starts_with("the align set: most of its answers are not refusals: 1 of 1"));
        assert_eq!((report.sets[1].refused_share, report.sets[1].input_tokens), (None, Lengths::default()));
        let with = |o: &&Overlap| o.set == "harm" && o.with == "unseen";
        let overlap = report.overlaps.iter().find(with).unwrap();
        assert_eq!((overlap.exact, overlap.near, overlap.n, overlap.evaluation), (1, 0, 1, true));
    }

    #[test]
    fn leakage_is_an_error_unless_allowed_by_name() {
        let sets = [evaluation("unseen", "How do I  bake?")];
        let check = |question: &str, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            leakage([question], &sets, &allowed)
        };
        let error = check("how do i bake", &["seen"]).unwrap_err();
        assert_eq!(error.to_string(), "questions of `unseen` that are trained on: 1 of 1 (the first has id q1)");
        assert!(error.hints()[1].contains("--allow-leakage unseen"));
        assert!(check("how do i bake", &["unseen"]).is_ok());
        assert!(check("how do i cook", &[]).is_ok());
    }
}
