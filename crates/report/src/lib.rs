#![doc = include_str!("../README.md")]
//!
//! Input: the files of a run directory, and nothing else, so that a report can be made again from an archived run by
//! any later version: `summary.json`, `manifest.json`, `plan.toml`, `subjects.json`, `judges.json`, `study.json`,
//! `durability.json`, training metrics and summaries, and answers, each of them optional. Output: `report.html`,
//! `report.md` and `report.csv`. Invariant: text from a file reaches the page escaped; a damaged file is an error,
//! never a panic.
//!
//! `subjects.json`: `[{"name":"eraser","metrics":"train/metrics.jsonl","settings":{..}}, ..]`, one entry a subject;
//! `settings` are shown as they are, `gamma` among them is drawn into the loss curve. The training summary is beside
//! the metrics. `judges.json`: `{"keyword:gcg29":["I'm sorry", ..]}`, the phrases of the keyword lists, by judge.

mod answers;
mod bounds;
mod changed;
mod csv;
mod curves;
mod data;
mod error;
mod files;
mod format;
mod head;
mod heat;
mod html;
mod judges;
mod likelihood;
mod manifest;
mod markdown;
mod measured;
mod metrics;
mod named;
mod nll;
mod notes;
mod plot;
mod provenance;
mod rows;
mod run;
mod scorecard;
mod search;
mod served;
mod served_table;
mod slope;
mod study;
mod summary;
mod table;
mod terminal;
mod thoughts;
mod training;
mod verdict;

pub use data::data_table;
pub use error::{Error, Result};
pub use html::LOOK;
pub use named::{NamedFigure, NamedRun, NamedSubject, VERDICTS, named};
pub use nll::{Nll, Rise};
pub use served::{Served, ServedCheck};
pub use summary::{Agreement, Attack, Change, OverRefusal, Subject, Summary, Timing, Utility};
pub use terminal::terminal_table;

use std::path::{Path, PathBuf};

/// Where the report is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The page: one file, no outside request, with transcripts.
    pub html: PathBuf,
    /// The tables alone.
    pub markdown: PathBuf,
    /// Every figure, one a row.
    pub csv: PathBuf,
}

/// The figures of the run directory `run` as text for a terminal: those of its study, if it is one, else of its
/// summary.
pub fn terminal(run: &Path) -> Result<String> {
    let contents = run::Run::read(run)?;
    Ok(match (&contents.study, &contents.summary) {
        (Some(study), summary) => {
            let compared = summary.as_ref().filter(|_| !study.findings.is_empty() && !study.is_durability());
            study::terminal(study) + &compared.map(|summary| verdicts(summary, &contents)).unwrap_or_default()
        }
        (None, Some(summary)) => {
            let verdicts = verdicts(summary, &contents);
            let mut summary = summary.clone();
            for subject in &mut summary.subjects {
                subject.name = contents.provenance.label(&subject.name);
            }
            terminal_table(&summary) + &verdicts
        }
        (None, None) => terminal_table(&Summary::default()),
    })
}

/// The verdicts as they end a table.
fn verdicts(summary: &Summary, run: &run::Run) -> String {
    let found = verdict::verdicts(summary, run);
    terminal::verdicts(&found.iter().map(|v| format!("{} {}", v.headline(), v.gist)).collect::<Vec<_>>())
}

/// What `durability.json` of the run directory `run` says, for a terminal.
pub fn durability_table(run: &Path) -> Result<String> {
    match run::Run::read(run)?.durability {
        Some(durability) => Ok(study::terminal(&durability)),
        None => Err(Error::NotARun(run.to_path_buf())),
    }
}

/// Reads the run directory `run` and writes `report.html`, `report.md` and `report.csv` into it.
pub fn write_report(run: &Path) -> Result<Written> {
    let contents = run::Run::read(run)?;
    let subjects: Vec<String> = contents.summary.iter().flat_map(|s| &s.subjects).map(|s| s.name.clone()).collect();
    let answers = answers::read(run, &subjects, &|name| contents.provenance.label(name))?;
    let searches = search::read(run, &subjects)?;
    let page = html::render(&contents, &answers, &searches)?;
    let written =
        Written { html: run.join("report.html"), markdown: run.join("report.md"), csv: run.join("report.csv") };
    files::write(&written.html, &page)?;
    files::write(&written.markdown, &markdown::render(&contents))?;
    files::write(&written.csv, &csv::render(&contents))?;
    Ok(written)
}
