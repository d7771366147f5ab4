//! Attacks that search on the subject itself: what they found and what it cost. In:
//! `eval/<subject>/search/<attack>.jsonl`, a line per question; out: a table, and a curve per subject of the best loss
//! so far. Invariant: the curve of a subject is the mean over its questions; a search that has ended counts with its
//! last loss.

use crate::error::{Error, Result};
use crate::files;
use crate::format::{NONE, number};
use crate::metrics::Curve;
use crate::plot::{self, Chart, Plot};
use crate::table::Table;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Questions of a file, and losses of a curve: more than any search has.
const MAX: usize = 100_000;
/// Losses beyond this are damage.
const MAX_LOSS: f64 = 1e4;
/// Points of a drawn curve.
const MAX_POINTS: usize = 400;

/// One question's search.
#[derive(Debug, Deserialize)]
struct Line {
    step: u64,
    candidates: u64,
    seconds: f64,
    buffer: Vec<Candidate>,
    curve: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Candidate {
    likely: bool,
}

/// The searches of one attack on one subject.
pub(crate) struct Search {
    subject: String,
    /// The number of the subject, which decides its colour.
    color: usize,
    attack: String,
    lines: Vec<Line>,
}

/// Reads what there is of `subjects`.
pub(crate) fn read(run: &Path, subjects: &[String]) -> Result<Vec<Search>> {
    let mut found = Vec::new();
    for (color, subject) in subjects.iter().enumerate() {
        // The summary names subjects; a name that would lead elsewhere has no directory.
        if subject.contains(['/', '\\']) || subject.starts_with('.') {
            continue;
        }
        for attack in ["gcg", "autodan"] {
            let path = run.join("eval").join(subject).join("search").join(format!("{attack}.jsonl"));
            if !path.is_file() {
                continue;
            }
            let mut lines: Vec<Line> = Vec::new();
            files::read_jsonl(&path, |line| lines.push(line))?;
            let plain = |l: &Line| {
                l.curve.len() <= MAX
                    && (0.0..1e9).contains(&l.seconds)
                    && l.curve.iter().all(|x| x.is_finite() && x.abs() <= MAX_LOSS)
            };
            if lines.len() > MAX || !lines.iter().all(plain) {
                return Err(Error::content(&path, "a figure is out of range"));
            }
            if !lines.is_empty() {
                found.push(Search { subject: subject.clone(), color, attack: attack.to_owned(), lines });
            }
        }
    }
    Ok(found)
}

/// A row per attack and subject.
pub(crate) fn table(searches: &[Search]) -> Table {
    let header = [
        "attack",
        "subject",
        "questions",
        "opening reached",
        "steps",
        "candidates",
        "seconds",
        "loss at first",
        "best loss",
    ];
    let row = |s: &Search| {
        let n = s.lines.len();
        let mean = |of: &dyn Fn(&Line) -> Option<f64>| {
            let values: Vec<f64> = s.lines.iter().filter_map(of).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let shown = |value: Option<f64>| value.map_or_else(|| NONE.into(), number);
        let reached = s.lines.iter().filter(|l| l.buffer.first().is_some_and(|best| best.likely)).count();
        vec![
            s.attack.clone(),
            s.subject.clone(),
            n.to_string(),
            reached.to_string(),
            shown(mean(&|l| Some(l.step as f64))),
            shown(mean(&|l| Some(l.candidates as f64))),
            shown(mean(&|l| Some(l.seconds))),
            shown(mean(&|l| l.curve.first().copied())),
            shown(mean(&|l| l.curve.last().copied())),
        ]
    };
    Table { header: header.map(String::from).to_vec(), rows: searches.iter().map(row).collect() }
}

/// A plot per attack, a curve per subject.
pub(crate) fn plots(searches: &[Search]) -> Vec<Plot> {
    let mut by_attack: BTreeMap<&str, Vec<plot::Line>> = BTreeMap::new();
    for search in searches {
        let curve = Curve { points: mean_curve(&search.lines) };
        let line = plot::Line::new(search.subject.clone(), search.color, curve);
        by_attack.entry(&search.attack).or_default().push(line);
    }
    let draw = |(attack, lines): (&str, Vec<plot::Line>)| {
        let title = format!("{attack}: best loss of the opening so far, mean over questions");
        plot::plot(Chart { title, x: "step", y: "nats per token", lines, ..Chart::default() })
    };
    by_attack.into_iter().filter_map(draw).collect()
}

fn mean_curve(lines: &[Line]) -> Vec<(f64, f64)> {
    let length = lines.iter().map(|l| l.curve.len()).max().unwrap_or_default();
    let stride = length.div_ceil(MAX_POINTS).max(1);
    let at = |step: usize| {
        let values: Vec<f64> = lines.iter().filter_map(|l| l.curve.get(step).or(l.curve.last()).copied()).collect();
        (step as f64, values.iter().sum::<f64>() / values.len().max(1) as f64)
    };
    (0..length).step_by(stride).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"id":"a","key":"k","done":true,"step":2,"candidates":16,"seconds":1.5,"buffer":[{"suffix":[1],"text":"x","loss":1.0,"likely":true}],"curve":[4.0,2.0,1.0]}
{"id":"b","key":"l","done":true,"step":1,"candidates":8,"seconds":0.5,"buffer":[],"curve":[6.0,4.0]}
"#;

    #[test]
    fn a_search_that_ended_counts_with_its_last_loss() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eval/base/search");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("gcg.jsonl"), LINES).unwrap();
        let subjects = ["base", "none", "../up"].map(String::from);
        let found = read(dir.path(), &subjects).unwrap();
        assert_eq!(mean_curve(&found[0].lines), [(0.0, 5.0), (1.0, 3.0), (2.0, 2.5)]);
        assert_eq!(table(&found).rows, [["gcg", "base", "2", "1", "1.500", "12.000", "1.000", "5.000", "2.500"]]);
        let plots = plots(&found);
        assert_eq!((plots.len(), plots[0].legend.as_slice()), (1, &[("base".to_owned(), 1)][..]));
        std::fs::write(path.join("gcg.jsonl"), LINES.replace("6.0", "6e300")).unwrap();
        assert!(read(dir.path(), &subjects).is_err());
    }
}
