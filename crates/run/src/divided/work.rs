//! What ranks divide. In: options that were resolved, and rows that were read; out: a message for other ranks.
//! Invariant: it holds all that decides the results, files by their paths.

use crate::crew;
use eraser_data::prepare::PrepareOptions;
use eraser_data::{Question, Record};
use eraser_eval::{BenchOptions, EvalOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// What is asked, as all ranks are told it: files by their paths, what was read by its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Answers, and what known answers cost.
    Eval { options: Box<EvalOptions>, subjects: Vec<Named> },
    /// Scores.
    Bench { options: Box<BenchOptions>, subjects: Vec<Named> },
    /// Answers that sets are made of.
    Prepare(Box<Preparation>),
}

/// A subject by its name, with the directory of its adapter.
pub(crate) type Named = (String, Option<PathBuf>);

/// What a preparation has read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Preparation {
    pub(super) options: PrepareOptions,
    pub(super) questions: Vec<Asked>,
    pub(super) answers: Option<Vec<Known>>,
    pub(super) retain: Vec<Asked>,
    pub(super) texts: Vec<String>,
}

/// Of a question what decides its answer: id, text, facts and other columns.
pub(super) type Asked = (String, String, Vec<String>, Map<String, Value>);
/// A question with its answer, and other columns.
pub(super) type Known = (String, String, Map<String, Value>);

impl Work {
    /// A preparation; what the model will be evaluated with was checked before.
    pub(crate) fn prepare(
        options: &PrepareOptions,
        questions: &[Question],
        answers: Option<&[Record]>,
        retain: &[Question],
        texts: &[String],
    ) -> Self {
        let asked = |questions: &[Question]| {
            questions.iter().map(|q| (q.id.clone(), q.text.clone(), q.facts.clone(), q.extra.clone())).collect()
        };
        let known = |record: &Record| (record.input.clone(), record.output.clone(), record.extra.clone());
        Self::Prepare(Box::new(Preparation {
            options: options.clone(),
            questions: asked(questions),
            answers: answers.map(|answers| answers.iter().map(known).collect()),
            retain: asked(retain),
            texts: texts.to_vec(),
        }))
    }

    /// The directory of its results in that of the command.
    pub(super) fn top(&self) -> &'static str {
        match self {
            Self::Eval { .. } => "eval",
            Self::Bench { .. } => "bench",
            Self::Prepare(_) => "prepare",
        }
    }

    /// So many shards for so many ranks.
    pub(super) fn shards(&self, ranks: usize) -> usize {
        match self {
            // Each of them loads the model that answers.
            Self::Prepare(preparation) if preparation.options.answers_model.is_some() => ranks,
            _ => crew::shards(ranks),
        }
    }
}
