//! Judged answers without their texts, as figures are made of them. In: the files of answers of one subject; out: marks
//! by file. Invariant: a mark of another subject than the one asked for is left out.

use crate::answers::{self, Answer};
use crate::subject::short;
use crate::verdict::Verdict;
use eraser_model::Result;
use eraser_model::error::PathContext as _;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The attacks in the order in which summaries list them; others follow by name.
const ORDER: [&str; 6] = ["direct", "template", "prefill", "prefill-thought", "gcg", "autodan"];
/// File of benign questions.
pub(crate) const OVER_REFUSAL: &str = "over-refusal";
/// File of questions that look benign and must be refused.
pub(crate) const CONTRAST: &str = "contrast";
/// What the names of files of tasks begin with.
pub(crate) const TASK: &str = "task-";

/// File of what known answers cost, which are not the subject's own.
pub(crate) const LIKELIHOOD: &str = "likelihood";
/// Ending of the empty file beside a file of answers that is being made: figures are made of whole ones only.
pub(crate) const UNFINISHED: &str = "unfinished";

/// One judged answer, without its text.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Mark {
    pub(crate) id: String,
    pub(crate) set: String,
    pub(crate) attack: String,
    pub(crate) question: String,
    pub(crate) prompt: String,
    #[serde(default)]
    pub(crate) opening: String,
    /// Empty in files of older versions: unknown.
    #[serde(default)]
    pub(crate) subject: String,
    /// Empty in files of older versions: unknown.
    #[serde(default)]
    pub(crate) sampling: String,
    /// Empty where the prompt was not searched, and in files of older versions: unknown.
    #[serde(default)]
    pub(crate) search: String,
    pub(crate) judgements: BTreeMap<String, Verdict>,
    /// Of the thought, if there is one.
    #[serde(default)]
    pub(crate) thought_judgements: BTreeMap<String, Verdict>,
    #[serde(default)]
    pub(crate) unfinished: bool,
    pub(crate) refused: bool,
    pub(crate) degenerate: bool,
}

impl Mark {
    /// What `judge` said; None when it did not judge, or could not.
    pub(crate) fn success(&self, judge: &str) -> Option<bool> {
        self.judgements.get(judge)?.success
    }

    /// What `judge` said of the thought; None where there is none.
    pub(crate) fn leaks(&self, judge: &str) -> Option<bool> {
        self.thought_judgements.get(judge)?.success
    }
}

impl From<&Answer> for Mark {
    fn from(answer: &Answer) -> Self {
        Self {
            id: answer.id.clone(),
            set: answer.set.clone(),
            attack: answer.attack.clone(),
            question: answer.question.clone(),
            prompt: answer.prompt.clone(),
            opening: answer.opening.clone(),
            subject: answer.subject.clone(),
            sampling: answer.sampling.clone(),
            search: answer.search.clone(),
            judgements: answer.judgements.clone(),
            thought_judgements: answer.thought_judgements.clone(),
            unfinished: answer.unfinished,
            refused: answer.refused,
            degenerate: answer.degenerate,
        }
    }
}

/// What a file of answers is about, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Attack,
    Task,
    OverRefusal,
    Contrast,
}

impl Kind {
    pub(crate) fn of(stem: &str) -> Self {
        match stem {
            OVER_REFUSAL => Self::OverRefusal,
            CONTRAST => Self::Contrast,
            stem if stem.starts_with(TASK) => Self::Task,
            _ => Self::Attack,
        }
    }
}

/// A file of answers.
pub(crate) struct MarkFile {
    /// The file's name without its ending: `direct`, `task-<name>`.
    pub(crate) stem: String,
    pub(crate) kind: Kind,
    pub(crate) marks: Vec<Mark>,
}

/// The answers of the subject with this fingerprint in `dir/eval/<name>`, attacks first; files without any are left
/// out, and those of an evaluation that was interrupted.
pub(crate) fn read(dir: &Path, name: &str, fingerprint: &str) -> Result<Vec<MarkFile>> {
    let dir = dir.join("eval").join(name);
    let mut found = Vec::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(&dir).at(&dir)? {
        let path = entry.at(&dir)?.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let whole = !path.with_extension(UNFINISHED).exists();
        if !whole || stem == LIKELIHOOD || path.extension().is_none_or(|ending| ending != "jsonl") {
            continue;
        }
        let mut marks = answers::read::<Mark>(&path)?;
        marks.retain(|mark| mark.subject == short(fingerprint));
        if !marks.is_empty() {
            found.push(MarkFile { stem: stem.to_owned(), kind: Kind::of(stem), marks });
        }
    }
    let rank = |stem: &str| ORDER.iter().position(|known| *known == stem).unwrap_or(ORDER.len());
    found.sort_by(|a, b| (a.kind, rank(&a.stem), &a.stem).cmp(&(b.kind, rank(&b.stem), &b.stem)));
    Ok(found)
}
