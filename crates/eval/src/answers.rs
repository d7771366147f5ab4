//! The lines of a file of answers, `eval/<subject>/<attack>.jsonl`. While an evaluation runs, the file is its journal.
//! In: such files; out: their lines. Invariant: the key of an answer covers all that the answer depends on, that of its
//! judgements the question too.

use crate::verdict::Verdict;
use eraser_data::Entry;
use eraser_model::Result;
use eraser_model::error::PathContext;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// One line: an answer with its judgements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a key of a line")]
pub struct Answer {
    /// Id of the question.
    pub id: String,
    /// The question's set; for a task, the name of the task.
    pub set: String,
    /// `direct`, `template:<name>`.
    pub attack: String,
    /// The question.
    pub question: String,
    /// The whole user turn.
    pub prompt: String,
    /// How the answer begins, where the attack gave that; not the model's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub opening: String,
    /// The opening is that of the thought, not of the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_thought: bool,
    /// What the model thought before it answered; the judges of the answer do not see it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thought: String,
    /// What the model answered, without the opening and the thought.
    pub response: String,
    /// New tokens.
    pub tokens: usize,
    /// The model ended it by itself, before the limit of tokens.
    pub stopped: bool,
    /// The thought has no end, so that there is no answer: neither a success nor a refusal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
    /// Verdicts by judge; for a task the judge is `expect`.
    pub judgements: BTreeMap<String, Verdict>,
    /// What the judges that need no model say of the thought, if there is one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thought_judgements: BTreeMap<String, Verdict>,
    /// It holds a refusal phrase of the list `gcg29`.
    pub refused: bool,
    /// It is empty, repetitive or not language.
    pub degenerate: bool,
    /// What answered: the first 16 hex digits of its fingerprint. Empty in files of older versions: unknown.
    #[serde(default)]
    pub subject: String,
    /// How it was drawn: `greedy, at most 64 tokens`. Empty in files of older versions: unknown. Only answers that were
    /// drawn in the same way are compared.
    #[serde(default)]
    pub sampling: String,
    /// Where the prompt was searched on the subject itself: the first 16 hex digits of a hash of the search's settings.
    /// Answers to prompts of searches with other settings are not compared.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub search: String,
    /// Key of subject, sampling and prompt: an answer with another key belongs to another experiment.
    pub fingerprint: String,
}

impl Entry for Answer {
    /// Set, question, attack and key: questions with the same prompt share the answer, but not the judgements.
    type Key = (String, String, String, String);

    fn key(&self) -> Self::Key {
        (self.set.clone(), self.id.clone(), self.attack.clone(), self.fingerprint.clone())
    }
}

/// Reads a file of answers, or of other results that are appended a line at a time, and leaves it as it is. A line
/// that is not complete, such as a last line cut short, is left out.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.at(path)?,
    };
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // What follows the last line break: nothing, or a line that was cut short when the process was killed.
    lines.pop();
    let parse = |(number, line): (usize, &&[u8])| match serde_json::from_slice(line) {
        Ok(answer) => Some(answer),
        Err(e) => {
            tracing::warn!("{}: line {} is not a result and is dropped: {e}", path.display(), number + 1);
            None
        }
    };
    Ok(lines.iter().enumerate().filter_map(parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(answers: &[Answer]) -> Vec<u8> {
        let line = |answer| serde_json::to_string(answer).unwrap() + "\n";
        answers.iter().map(line).collect::<String>().into_bytes()
    }

    fn answer(text: &str) -> Answer {
        Answer {
            id: "1".into(),
            set: "seen".into(),
            attack: "direct".into(),
            question: "q".into(),
            prompt: "q".into(),
            response: text.into(),
            tokens: 3,
            stopped: true,
            judgements: BTreeMap::from([("leak".into(), Verdict::default())]),
            subject: "s".into(),
            sampling: "greedy, at most 1 token".into(),
            fingerprint: "f".into(),
            ..Answer::default()
        }
    }

    #[test]
    fn a_missing_file_holds_nothing() {
        assert_eq!(read::<Answer>(Path::new("absent/absent.jsonl")).unwrap(), []);
    }

    #[test]
    fn unjudged_is_written_as_null() {
        let text = String::from_utf8(lines(&[answer("a\nb")])).unwrap();
        assert!(text.contains(r#""judgements":{"leak":{"success":null}}"#), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn foreign_lines_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut bytes = b"{}\n\xff\xfe\n\n".to_vec();
        bytes.extend(lines(&[answer("kept")]));
        fs::write(&path, bytes).unwrap();
        assert_eq!(read::<Answer>(&path).unwrap(), [answer("kept")]);
    }

    proptest! {
        #[test]
        fn cut_anywhere_the_whole_lines_remain(texts in proptest::collection::vec("\\PC{0,8}", 1..5), cut in 0usize..2000) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.jsonl");
            let answers: Vec<Answer> = texts.iter().map(|text| answer(text)).collect();
            let mut bytes = lines(&answers);
            bytes.truncate(cut);
            fs::write(&path, &bytes).unwrap();
            let whole = bytes.split(|byte| *byte == b'\n').count() - 1;
            prop_assert_eq!(read::<Answer>(&path).unwrap(), answers[..whole].to_vec());
        }
    }
}
