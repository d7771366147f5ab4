//! `eraser eval`, resolved: who is measured, and how. In: subjects and measures; out: options whose files were read
//! once and found sound.

use super::basics::{self, check_name, eval_flag, exists, wrong};
use super::measures::Measures;
use super::model::ModelPlan;
use super::values::NamedPath;
use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use eraser_eval::Plan;
use serde::Serialize;
use std::path::PathBuf;

/// A model with or without an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubjectPlan {
    /// Its name in tables and paths; `base` is the model without an adapter.
    pub name: String,
    /// The directory of its PEFT adapter.
    pub adapter: Option<PathBuf>,
}

/// Who is measured: the base unless it is left out, then each adapter. Of one that is not there, nothing else is said.
pub fn subjects(adapters: &[NamedPath], no_base: bool, problems: &mut Problems) -> Vec<SubjectPlan> {
    let mut subjects = Vec::new();
    if !no_base {
        subjects.push(SubjectPlan { name: "base".to_owned(), adapter: None });
    }
    for NamedPath { name, path } in adapters {
        let stem = path.file_name().map(|s| s.to_string_lossy().into_owned());
        let name = name.clone().or(stem).unwrap_or_else(|| "adapter".to_owned());
        if let Err(e) = exists(path) {
            let error = e.context("--adapter");
            let named = path.to_string_lossy().contains('=');
            problems.push(if named { error.hint("give it a name as NAME=DIR; a name has no `/`") } else { error });
        } else if let Err(e) = check_name(&name) {
            problems.push(wrong("--adapter", e).hint("give it a name as NAME=DIR"));
        }
        let taken = std::iter::once("base").chain(subjects.iter().map(|s: &SubjectPlan| s.name.as_str()));
        if let Some(error) = basics::clash("subjects", &name, taken) {
            problems.push(wrong("--adapter", error).hint("give them other names as NAME=DIR"));
        }
        subjects.push(SubjectPlan { name, adapter: Some(path.clone()) });
    }
    subjects
}

/// `eraser eval`, resolved.
#[derive(Clone, Debug)]
pub struct EvalPlan {
    /// The model of all subjects.
    pub model: ModelPlan,
    /// Who is measured.
    pub subjects: Vec<SubjectPlan>,
    /// What is measured.
    pub measures: Measures,
    /// The run directory.
    pub dir: PathBuf,
    /// Removes the answers that the directory holds.
    pub force: bool,
}

impl EvalPlan {
    /// What is asked, every file read and found sound. Selected rows are written to the run directory.
    ///
    /// # Errors
    /// Everything that is wrong with options and files.
    pub(crate) fn asked(&self) -> Outcome<Plan> {
        let options = self.measures.options(&self.dir, &Assets::InCache)?;
        Ok(Plan::new(&options, &eval_flag)?)
    }
}
