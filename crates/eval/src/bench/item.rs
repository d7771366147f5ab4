//! Items of a benchmark: what is asked, and which answers are offered or known. Invariant: at least one of the answers
//! is right, and comes first where only one is known.

use eraser_model::{Error, Result};

/// One question with the answers offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Put once, before the examples: MMLU's sentence about the subject. Usually empty.
    pub(crate) head: String,
    /// The answers, in the order of the row.
    pub(crate) choices: Vec<Choice>,
    /// Which of them are right.
    pub(crate) right: Vec<bool>,
    /// What an example shows behind the question, where that is not the right choice: the way to it.
    pub(crate) worked: Option<String>,
}

/// One answer: the continuation of a context, a space between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The text before it.
    pub(crate) context: String,
    /// What is scored.
    pub(crate) continuation: String,
}

impl Item {
    /// A question whose choices continue the same context; `gold` is the right one.
    pub(crate) fn ask(context: &str, choices: Vec<String>, gold: usize) -> Result<Self> {
        let choice = |continuation| Choice { context: context.to_owned(), continuation };
        Self::new(choices.into_iter().map(choice).collect(), |i| i == gold)
    }

    /// An item of these choices.
    pub(crate) fn new(choices: Vec<Choice>, right: impl Fn(usize) -> bool) -> Result<Self> {
        let right: Vec<bool> = (0..choices.len()).map(right).collect();
        if choices.len() < 2 {
            return Err(Error::request(format!("{} choices: a question has at least two", choices.len())));
        }
        if !right.contains(&true) {
            return Err(Error::request("no choice is right"));
        }
        // One may be empty, as some of HellaSwag's endings are: the harness scores the space before it.
        if choices.iter().all(|c| c.continuation.trim().is_empty()) {
            return Err(Error::request("every choice is empty"));
        }
        Ok(Self { head: String::new(), choices, right, worked: None })
    }

    /// A question with its one answer, which is scored, or which a generated text is compared with.
    pub(crate) fn answer(context: &str, answer: String) -> Result<Self> {
        Self::known(context, vec![answer], Vec::new())
    }

    /// A question with its answer, the same answer in other words, and wrong ones.
    pub(crate) fn known(context: &str, right: Vec<String>, wrong: Vec<String>) -> Result<Self> {
        let count = right.len();
        let choice = |continuation| Choice { context: context.to_owned(), continuation };
        let choices: Vec<Choice> = right.into_iter().chain(wrong).map(choice).collect();
        if choices.iter().any(|c| c.continuation.trim().is_empty()) {
            return Err(Error::request("an answer is empty"));
        }
        let right = (0..choices.len()).map(|i| i < count).collect();
        Ok(Self { head: String::new(), choices, right, worked: None })
    }

    /// The item as an example: the question with its right answer.
    pub(crate) fn example(&self) -> String {
        let found = self.choices.iter().zip(&self.right).find(|(_, right)| **right);
        let shown = |c: &Choice| self.worked.clone().unwrap_or_else(|| c.continuation.clone());
        found.map(|(c, _)| format!("{} {}", c.context, shown(c))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_needs_choices_and_a_right_one() {
        let ask = |choices: &[&str], gold| Item::ask("q", choices.iter().map(|c| (*c).to_owned()).collect(), gold);
        assert_eq!(ask(&["a", "b"], 1).unwrap().example(), "q b");
        assert!(ask(&["a"], 0).is_err() && ask(&["a", "b"], 2).is_err() && ask(&["", " "], 0).is_err());
        assert!(ask(&["a", ""], 0).is_ok(), "one empty ending is a choice like another");
        assert!(Item::answer("q", " ".into()).is_err());
        let known = Item::known("q", vec!["a".into(), "b".into()], vec!["c".into()]).unwrap();
        assert_eq!((known.right.as_slice(), known.example().as_str()), (&[true, true, false][..], "q a"));
    }
}
