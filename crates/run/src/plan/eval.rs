//! `eraser eval`, resolved: who is measured, and how. In: subjects and measures; out: options whose files were read
//! once and found sound.

use super::basics::{self, check_name, eval_flag, exists, wrong};
use super::measures::Measures;
use super::model::ModelPlan;
use super::served::ServedPlan;
use super::values::NamedPath;
use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use crate::shards::Part;
use eraser_eval::Plan;
use eraser_eval::served::Text;
use eraser_model::{Adapter, Result};
use serde::Serialize;
use std::path::PathBuf;

/// A model with or without an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubjectPlan {
    /// Its name in tables and paths; `base` is the model without an adapter.
    pub name: String,
    /// Its adapter: a PEFT directory, or a GGUF file.
    pub adapter: Option<PathBuf>,
}

/// Who is measured: the base unless it is left out, then each adapter. Of one that is not there, nothing else is said.
pub fn subjects(adapters: &[NamedPath], no_base: bool, problems: &mut Problems) -> Vec<SubjectPlan> {
    let mut subjects = Vec::new();
    if !no_base {
        subjects.push(SubjectPlan { name: "base".to_owned(), adapter: None });
    }
    for NamedPath { name, path } in adapters {
        // A GGUF file is named after what is before the dot, a directory after all of its name.
        let stem = if path.is_file() { path.file_stem() } else { path.file_name() };
        let stem = stem.map(|s| s.to_string_lossy().into_owned());
        let name = name.clone().or(stem).unwrap_or_else(|| "adapter".to_owned());
        if let Err(e) = exists(path).and_then(|()| Adapter::check_path(path)) {
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

/// What is known here of the model that the servers of `served` have, where the user has `given` it.
pub(super) fn text(served: &[ServedPlan], given: bool, model: &ModelPlan) -> Result<Option<Text>> {
    (given && !served.is_empty()).then(|| model.text(&Assets::InCache)).transpose()
}

/// The model as the manifest records it, where the user has `given` one; of subjects that are `served` its weights are
/// not read.
pub(super) fn recorded(served: &[ServedPlan], given: bool, model: &ModelPlan) -> Result<serde_json::Value> {
    match (given, served.is_empty()) {
        (false, _) => Ok(serde_json::Value::Null),
        (true, true) => model.to_json(),
        (true, false) => model.text_to_json(),
    }
}

/// `eraser eval`, resolved.
#[derive(Clone, Debug)]
pub struct EvalPlan {
    /// The model of all subjects that are loaded; of those that are served only tokenizer and chat template are read.
    pub model: ModelPlan,
    /// The user has named that model.
    pub model_given: bool,
    /// Who is measured, of those that are loaded.
    pub subjects: Vec<SubjectPlan>,
    /// What is measured.
    pub measures: Measures,
    /// The run directory.
    pub dir: PathBuf,
    /// Removes the answers that the directory holds.
    pub force: bool,
    /// How much of it is done.
    pub part: Part,
}

impl EvalPlan {
    /// The model as the manifest records it.
    pub(crate) fn recorded_model(&self) -> Result<serde_json::Value> {
        recorded(&self.measures.served, self.model_given, &self.model)
    }

    /// What is known here of the model that servers have; None where all subjects are loaded, and where nothing is.
    pub(crate) fn text(&self) -> Result<Option<Text>> {
        text(&self.measures.served, self.model_given, &self.model)
    }

    /// What is asked, every file read and found sound. Selected rows are written to the run directory.
    ///
    /// # Errors
    /// Everything that is wrong with options and files.
    pub(crate) fn asked(&self) -> Outcome<Plan> {
        let options = self.measures.options(&self.dir, &Assets::InCache)?;
        let mut asked = Plan::new(&options, &eval_flag)?;
        asked.take_share(self.part.share());
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GGUF file was named with its ending, and one that is no adapter was found out only behind the model.
    #[test]
    fn a_file_is_named_after_what_is_before_the_dot_and_must_be_gguf() {
        let dir = tempfile::tempdir().unwrap();
        let named = |file: &str| {
            let path = dir.path().join(file);
            if file.ends_with('/') {
                std::fs::create_dir(&path).unwrap();
            } else {
                std::fs::write(&path, "").unwrap();
            }
            let mut problems = Problems::default();
            let found = subjects(&[NamedPath { name: None, path }], true, &mut problems);
            (found[0].name.clone(), problems.messages())
        };
        assert_eq!(named("v1.5.gguf"), ("v1.5".to_owned(), Vec::new()));
        assert_eq!(named("run.2/"), ("run.2".to_owned(), Vec::new()));
        let (_, told) = named("notes.txt");
        assert!(told.len() == 1 && told[0].contains("is no directory and no GGUF file"), "{told:?}");
    }
}
