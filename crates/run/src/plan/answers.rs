//! Files of questions with their answers, of which an evaluation measures how likely they are. In: tables
//! `likelihood_set` of a run file, or flags; out: sets whose files are whole. Invariant: a file of which only some rows
//! or columns are meant is written into the run directory as a set file.

use super::basics::{check_name, wrong};
use super::section::Section;
use super::source::{SET_KEYS, Source, check_path};
use super::table::source_table;
use super::values::NamedPath;
use crate::builtin::Assets;
use crate::failure::Problems;
use eraser_data::{Record, write_set};
use eraser_eval::AnswerSet;
use eraser_model::Result;
use eraser_model::error::PathContext as _;
use std::path::Path;

/// The key of the tables, and with `-` for `_` the flag.
pub(crate) const KEY: &str = "likelihood_set";

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerFile {
    /// The name of its set.
    pub name: String,
    /// The file and which of its rows are meant.
    pub source: Source,
}

impl AnswerFile {
    /// From the flag `at`: a file, or a choice of its rows, with the name before `=`, or else the file's own.
    pub fn named(file: &NamedPath, at: &str, problems: &mut Problems) -> Self {
        let source = problems.ok(Source::flag(&file.path).map_err(|e| e.context(at))).unwrap_or_default();
        let stem = source.path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let name = file.name.clone().or(stem).unwrap_or_default();
        if let Err(e) = check_name(&name) {
            problems.push(wrong(at, e).hint("give it a name as NAME=FILE"));
        }
        if let Err(e) = check_path(&source.path) {
            problems.push(e.context(at));
        }
        if source.input.is_some() != source.output.is_some() {
            problems.push(
                wrong(at, format!("{}: `input` and `output` are given together or not at all", file.path.display()))
                    .hint("they name the columns of question and answer: FILE?input=goal&output=target"),
            );
        }
        Self { name, source }
    }

    /// From the tables of `section`.
    pub(super) fn from_section(section: &Section<'_>, problems: &mut Problems) -> Vec<Self> {
        let mut files = Vec::new();
        for table in section.sections(KEY, problems) {
            let known: Vec<&str> = ["set"].into_iter().chain(SET_KEYS).collect();
            table.know(&known, problems);
            if table.get("set").is_none() {
                problems.push(table.missing("set"));
            }
            let columns = (table.value("input", problems), table.value("output", problems));
            let (input, output): (Option<String>, Option<String>) = columns;
            if input.is_some() != output.is_some() {
                problems.push(table.wrong("path", "`input` and `output` are given together or not at all"));
            }
            let rows = Source::rows(&table, problems);
            let Some(name) = table.value::<String>("set", problems) else { continue };
            if let Err(e) = check_name(&name) {
                problems.push(table.wrong("set", e));
            }
            files.extend(rows.map(|rows| Self { name, source: Source { input, output, ..rows } }));
        }
        files
    }

    /// As a table of a run file.
    pub(super) fn to_toml(&self) -> Result<toml::Value> {
        let mut table = source_table(&self.source, "input")?;
        table.insert("set".into(), self.name.clone().into());
        Ok(table.into())
    }

    /// The rows.
    pub(crate) fn records(&self, assets: &Assets) -> Result<Vec<Record>> {
        self.source.records(assets)
    }

    /// As the evaluation takes it; selected rows are written to `dir/data`.
    pub(super) fn set(&self, dir: &Path, assets: &Assets) -> Result<AnswerSet> {
        let set = self.name.clone();
        let records = self.records(assets)?;
        if self.source.whole() && self.source.input.is_none() {
            return Ok(AnswerSet { set, path: assets.locate(&self.source.path)? });
        }
        let path = dir.join("data").join(format!("likelihood-{set}.jsonl"));
        let data = dir.join("data");
        std::fs::create_dir_all(&data).writing(&data)?;
        write_set(&path, &records)?;
        Ok(AnswerSet { set, path })
    }
}
