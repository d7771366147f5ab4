//! The results of each stage of a preparation, as counts.

use serde::Serialize;

/// The results of each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Questions.
    pub questions: usize,
    /// Questions that the file of answers lacks; they are not in the harm set.
    pub harm_missing: usize,
    /// Rows of the file of answers whose question an earlier row answers otherwise; the earlier row counts.
    pub harm_repeated: usize,
    /// Harmful answers that there are, several to a question where that is asked for.
    pub harm_answers: usize,
    /// Further answers to a question that say what an earlier one said; left out, and in no other count.
    pub harm_same: usize,
    /// Harmful answers that refuse.
    pub harm_refused: usize,
    /// Harmful answers left out: refusals, if they are dropped, and empty ones.
    pub harm_dropped: usize,
    /// Harmful answers cut at the limit of tokens.
    pub harm_cut: usize,
    /// Lists of entities that could not be read.
    pub entities_unparsable: usize,
    /// Distinct entities.
    pub entities: usize,
    /// Questions about them.
    pub help_questions: usize,
    /// Answers to those that refuse; all are left out.
    pub help_refused: usize,
    /// Empty answers; left out.
    pub help_empty: usize,
    /// Answers cut at the limit of tokens.
    pub help_cut: usize,
    /// Align answers that do not refuse.
    pub align_answered: usize,
    /// Align answers left out: those that do not refuse, if they are dropped, and empty ones.
    pub align_dropped: usize,
    /// Benign requests of the retain set.
    pub retain_questions: usize,
    /// Answers to those that refuse; all are left out.
    pub retain_refused: usize,
    /// Empty answers; left out.
    pub retain_empty: usize,
    /// Answers cut at the limit of tokens.
    pub retain_cut: usize,
    /// Running texts of the retain set.
    pub retain_texts: usize,
}
