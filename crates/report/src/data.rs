//! The data report: what the sets of a run hold and how they overlap. In: `data_report.json`; out: tables, for the
//! terminal and for Markdown. Invariant: a share over nothing is a dash.

use crate::error::Result;
use crate::files::json;
use crate::format::{NONE, counted, list, percent};
use crate::table::Table;
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::Path;

/// The file.
#[derive(Deserialize)]
pub(crate) struct DataReport {
    made: Preparation,
    #[serde(default)]
    columns: Vec<String>,
    sets: Vec<Set>,
    overlaps: Vec<Overlap>,
    near: Near,
}

#[derive(Deserialize)]
struct Preparation {
    questions: usize,
    #[serde(default)]
    harm_missing: usize,
    #[serde(default)]
    harm_repeated: usize,
    harm_refused: usize,
    harm_dropped: usize,
    harm_cut: usize,
    /// None: reports of earlier versions, with one answer to a question.
    #[serde(default)]
    harm_answers: Option<usize>,
    #[serde(default)]
    harm_same: usize,
    entities_unparsable: usize,
    entities: usize,
    help_questions: usize,
    help_refused: usize,
    help_empty: usize,
    help_cut: usize,
    align_answered: usize,
    align_dropped: usize,
    #[serde(default)]
    retain_questions: usize,
    #[serde(default)]
    retain_refused: usize,
    #[serde(default)]
    retain_empty: usize,
    #[serde(default)]
    retain_cut: usize,
    #[serde(default)]
    retain_texts: usize,
}

#[derive(Deserialize)]
struct Set {
    #[serde(rename = "set")]
    name: String,
    n: usize,
    input_tokens: Lengths,
    output_tokens: Lengths,
    refused_share: Option<f64>,
    exact_duplicates: usize,
    near_duplicates: usize,
}

#[derive(Deserialize)]
struct Lengths {
    mean: Option<f64>,
    max: Option<usize>,
}

#[derive(Deserialize)]
struct Overlap {
    set: String,
    with: String,
    n: usize,
    exact: usize,
    near: usize,
}

#[derive(Deserialize)]
struct Near {
    shingle: usize,
    similarity: f64,
}

impl DataReport {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        json(path)
    }
}

/// How the sets were prepared, in sentences.
pub(crate) fn preparation(report: &DataReport) -> Vec<String> {
    let m = &report.made;
    let columns = match report.columns.as_slice() {
        [] => String::new(),
        columns => {
            let named: Vec<String> = columns.iter().map(|column| column.trim().to_owned()).collect();
            format!(", read from the column {}", list(&named))
        }
    };
    let absent = match m.harm_missing {
        0 => String::new(),
        n => format!("; {} without an answer in the file", counted(n as u64, "question")),
    };
    let repeated = match m.harm_repeated {
        0 => String::new(),
        n => format!("; {} of the file with another answer to a question it had answered", counted(n as u64, "row")),
    };
    let same = match m.harm_same {
        0 => String::new(),
        n => format!("; {} that a question had already, left out too", counted(n as u64, "answer")),
    };
    let retain = (m.retain_questions + m.retain_texts > 0).then(|| {
        format!(
            "retain: {}; left out {} and {}; {} cut; {}",
            counted(m.retain_questions as u64, "request"),
            counted(m.retain_refused as u64, "refusal"),
            counted(m.retain_empty as u64, "empty answer"),
            m.retain_cut,
            counted(m.retain_texts as u64, "running text")
        )
    });
    let answers = m.harm_answers.unwrap_or(m.questions.saturating_sub(m.harm_missing));
    let mut said = vec![
        format!("questions: {}{columns}", m.questions),
        format!(
            "harm: {}, {} of them refusals; {} left out, {} cut at the limit of tokens{absent}{repeated}{same}",
            counted(answers as u64, "answer"),
            m.harm_refused,
            m.harm_dropped,
            m.harm_cut
        ),
        format!(
            "help: {} ({} not readable), {}; left out {} and {}; {} cut",
            counted(m.entities as u64, "entity"),
            counted(m.entities_unparsable as u64, "list"),
            counted(m.help_questions as u64, "question"),
            counted(m.help_refused as u64, "refusal"),
            counted(m.help_empty as u64, "empty answer"),
            m.help_cut
        ),
        format!(
            "align: {}, {} of them no refusals; {} left out",
            counted(m.questions as u64, "answer"),
            m.align_answered,
            m.align_dropped
        ),
    ];
    said.extend(retain);
    said
}

/// A line per set.
pub(crate) fn sets(report: &DataReport) -> Table {
    let lengths = |l: &Lengths| match (l.mean, l.max) {
        (Some(mean), Some(max)) => format!("{mean:.1} (max {max})"),
        _ => NONE.to_owned(),
    };
    let line = |s: &Set| {
        vec![
            s.name.clone(),
            s.n.to_string(),
            lengths(&s.input_tokens),
            lengths(&s.output_tokens),
            percent(s.refused_share),
            s.exact_duplicates.to_string(),
            s.near_duplicates.to_string(),
        ]
    };
    let header = ["set", "rows", "question tokens", "answer tokens", "refused", "duplicates", "near duplicates"];
    Table::new(header, report.sets.iter().map(line).collect())
}

/// A line per pair of sets that have a question in common.
pub(crate) fn overlaps(report: &DataReport) -> Table {
    let line =
        |o: &Overlap| vec![o.set.clone(), o.with.clone(), o.n.to_string(), o.exact.to_string(), o.near.to_string()];
    let common = report.overlaps.iter().filter(|o| o.exact + o.near > 0);
    Table::new(["rows of", "that are in", "of size", "duplicates", "near duplicates"], common.map(line).collect())
}

/// What the columns mean.
pub(crate) fn note(report: &DataReport) -> String {
    let Near { shingle, similarity } = report.near;
    format!(
        "Duplicates are equal but for case, spaces and punctuation. Near duplicates have a Jaccard similarity of \
         {shingle}-character shingles of at least {similarity}. harm and align share their questions by design; pairs without a common question are left out."
    )
}

/// The tables of `data_report.json`, for a terminal.
pub fn data_table(path: &Path) -> Result<String> {
    let report = DataReport::read(path)?;
    let mut out = String::new();
    for line in preparation(&report) {
        let _ = writeln!(out, "{line}");
    }
    for table in [sets(&report), overlaps(&report)] {
        if table.rows.is_empty() {
            continue;
        }
        let all: Vec<&Vec<String>> = std::iter::once(&table.header).chain(&table.rows).collect();
        let width = |column: usize| all.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
        out.push('\n');
        for line in &all {
            let cells: Vec<String> =
                line.iter().enumerate().map(|(i, cell)| format!("{cell:<w$}", w = width(i))).collect();
            let _ = writeln!(out, "{}", cells.join("  ").trim_end());
        }
    }
    let _ = write!(out, "\n{}\n", note(&report).replace(". ", ".\n"));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"schema":1,"made":{"questions":3,"harm_refused":1,"harm_dropped":1,"harm_cut":0,
        "entities_unparsable":0,"entities":2,"help_questions":20,"help_refused":4,"help_empty":0,"help_cut":1,
        "align_answered":1,"align_dropped":0},"sets":[{"set":"harm","n":2,"input_tokens":{"mean":5.5,"median":5,"max":6},
        "output_tokens":{"mean":null,"median":null,"max":null},"refused":0,"refused_share":null,"exact_duplicates":0,
        "near_duplicates":1}],"overlaps":[{"set":"harm","with":"align","evaluation":false,"n":3,"exact":2,"near":0},
        {"set":"harm","with":"unseen","evaluation":true,"n":9,"exact":0,"near":0}],
        "near":{"shingle":5,"similarity":0.8}}"#;

    #[test]
    fn tables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data_report.json");
        std::fs::write(&path, FILE).unwrap();
        let text = data_table(&path).unwrap();
        assert!(text.contains("help: 2 entities (0 lists not readable), 20 questions; left out 4 refusals"), "{text}");
        assert!(text.contains("5.5 (max 6)") && text.contains("align        3        2"), "{text}");
        assert!(!text.contains("unseen") && text.lines().all(|line| line.chars().count() <= 110), "{text}");
        assert!(text.starts_with("questions: 3\nharm: 3 answers, 1 of them refusals"), "{text}");
        let newer = FILE.replace("\"questions\":3", "\"questions\":3,\"harm_missing\":1,\"harm_repeated\":2");
        std::fs::write(&path, newer.replace("\"sets\"", "\"columns\":[\"Goal\"],\"sets\"")).unwrap();
        let text = data_table(&path).unwrap();
        assert!(text.starts_with("questions: 3, read from the column Goal\nharm: 2 answers"), "{text}");
        assert!(text.contains("1 question without an answer in the file; 2 rows of the file with another"), "{text}");
        std::fs::write(&path, "{}").unwrap();
        assert!(data_table(&path).is_err());
    }
}
