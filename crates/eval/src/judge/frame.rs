//! The prompt of a classifier, around a question and an answer. In: a template of the user's, wording of our own, or
//! the chat template of the model that judges; out: token ids. Invariant: what is judged cannot end the prompt: no
//! special token comes from it, and no mark of the prompt's own form.

use super::grade::{MARKERS, broken};
use eraser_data::ask::NextTokens;
use eraser_model::{Error, Message, Result, Tokenizer};

/// What stands for the question in a template; published prompts have different names for it.
const QUESTION: [&str; 4] = ["{question}", "{behavior}", "{prompt}", "{goal}"];
/// What stands for the answer.
const ANSWER: [&str; 4] = ["{answer}", "{generation}", "{response}", "{completion}"];
/// What stands for both while a chat template is rendered: characters that no text has.
const PLACES: [&str; 2] = ["\u{e000}\u{e001}\u{e000}", "\u{e000}\u{e002}\u{e000}"];

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Question,
    Answer,
}

/// A prompt without what is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pieces: Vec<Piece>,
    /// The chat template takes white space from both ends of what it is given.
    trims: bool,
    /// The tokenizer's own beginning comes before it; chat templates write it themselves.
    begins: bool,
}

impl Frame {
    /// A template that is the whole prompt.
    ///
    /// # Errors
    /// No place for the question, or none for the answer.
    pub(super) fn of_template(text: &str) -> Result<Self> {
        Ok(Self { pieces: pieces(text, &QUESTION, &ANSWER)?, trims: false, begins: true })
    }

    /// `wording`, with its two places, as a user turn of the model's chat template.
    pub(super) fn of_wording(model: &dyn NextTokens, wording: &str) -> Result<Self> {
        let [question, answer] = PLACES;
        let text = wording.replace("{question}", question).replace("{answer}", answer);
        Self::rendered(model, &|_| vec![Message::user(text.clone())], false)
    }

    /// The model's chat template around the question as the user's turn and the answer as the assistant's.
    pub(super) fn of_chat(model: &dyn NextTokens) -> Result<Self> {
        let turns = |behind: &str| {
            let [question, answer] = PLACES.map(|place| format!("{place}{behind}"));
            vec![Message::user(question), Message::assistant(answer)]
        };
        let padded = model.chat_template()?.render(&turns("\t \t"), true)?;
        Self::rendered(model, &turns, !padded.contains("\t \t"))
    }

    fn rendered(model: &dyn NextTokens, turns: &dyn Fn(&str) -> Vec<Message>, trims: bool) -> Result<Self> {
        let text = model.chat_template()?.render(&turns(""), true)?;
        let [question, answer] = PLACES;
        let pieces = pieces(&text, &[question], &[answer]).map_err(|_| {
            Error::request(format!(
                "{}: its chat template does not show question and answer to the judge",
                model.name()
            ))
            .hint("name the template that the judge was trained with by --chat-template, or another judge model")
        })?;
        Ok(Self { pieces, trims, begins: false })
    }

    /// Puts `end` behind the prompt, unless it ends so already.
    #[must_use]
    pub(super) fn ending(mut self, end: &str) -> Self {
        match self.pieces.last_mut() {
            Some(Piece::Text(text)) if text.ends_with(end) => {}
            Some(Piece::Text(text)) => text.push_str(end),
            _ => self.pieces.push(Piece::Text(end.to_owned())),
        }
        self
    }

    /// The text with its places filled.
    pub(super) fn filled(&self, question: &str, answer: &str) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Question => question.to_owned(),
            Piece::Answer => answer.to_owned(),
        };
        self.pieces.iter().map(text).collect()
    }

    /// Token ids of the prompt with `behind` after it; of the answer only the first `most` tokens. None where a special
    /// token would come from what is judged.
    ///
    /// Question and answer are encoded where they stand, since a tokenizer that puts a space before a text would give
    /// other tokens for the parts than the judge was trained on. So the spelling of each special token, and of each
    /// mark that the prompt has, is broken up in them first.
    pub(super) fn ids(
        &self,
        tokenizer: &Tokenizer,
        [question, answer]: [&str; 2],
        most: Option<usize>,
        behind: &str,
    ) -> Result<Option<Vec<u32>>> {
        let markers = self.markers(tokenizer);
        let part = |text: &str| broken(if self.trims { text.trim() } else { text }, markers.iter().map(String::as_str));
        let answer = first_tokens(tokenizer, part(answer), most)?;
        let ids = self.encode(tokenizer, &(self.filled(&part(question), &answer) + behind))?;
        let own = self.encode(tokenizer, &(self.filled("", "") + behind))?;
        // A character that the vocabulary lacks is no mark.
        let is_mark = |id: &u32| tokenizer.is_special(*id) && tokenizer.unk() != Some(*id);
        let kept = ids.iter().copied().filter(is_mark).eq(own.into_iter().filter(is_mark));
        Ok(kept.then_some(ids))
    }

    fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let bos = tokenizer.bos().and_then(|id| tokenizer.token_text(id));
        let has_own = bos.is_some_and(|bos| !bos.is_empty() && text.starts_with(&bos));
        if self.begins && !has_own { tokenizer.encode_with_special(text) } else { tokenizer.encode(text) }
    }

    /// The special tokens as they are spelled, and those marks of known forms that the prompt has.
    fn markers(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let own = self.filled("", "");
        let special = tokenizer.special_ids().filter_map(|id| tokenizer.token_text(id));
        let marks = MARKERS.iter().filter(|mark| own.contains(**mark)).map(|mark| (*mark).to_owned());
        special.chain(marks).filter(|text| text.chars().count() > 1).collect()
    }
}

/// At most the first `most` tokens of a text.
fn first_tokens(tokenizer: &Tokenizer, text: String, most: Option<usize>) -> Result<String> {
    let Some(most) = most.filter(|most| text.len() > *most) else { return Ok(text) };
    let ids = tokenizer.encode(&text)?;
    if ids.len() <= most { Ok(text) } else { tokenizer.decode(&ids[..most], false) }
}

fn pieces(text: &str, question: &[&str], answer: &[&str]) -> Result<Vec<Piece>> {
    let marks = question.iter().map(|mark| (*mark, Piece::Question));
    let marks: Vec<(&str, Piece)> = marks.chain(answer.iter().map(|mark| (*mark, Piece::Answer))).collect();
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((at, mark, piece)) =
        marks.iter().filter_map(|(mark, piece)| Some((rest.find(mark)?, mark, piece))).min_by_key(|(at, ..)| *at)
    {
        if at > 0 {
            pieces.push(Piece::Text(rest[..at].to_owned()));
        }
        pieces.push(piece.clone());
        rest = &rest[at + mark.len()..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    for (piece, what, names) in [(Piece::Question, "question", question), (Piece::Answer, "answer", answer)] {
        if !pieces.contains(&piece) {
            return Err(Error::request(format!("no place for the {what} in the prompt"))
                .hint(format!("write one of {} where it is to stand", names.join(", "))));
        }
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_have_the_names_of_published_prompts() {
        let frame = Frame::of_template("Q {behavior} A {generation}.").unwrap();
        assert_eq!(frame.filled("{answer}", "b"), "Q {answer} A b.");
        assert_eq!(frame.clone().ending(".").filled("", ""), "Q  A .");
        assert_eq!(frame.ending("\n").filled("", ""), "Q  A .\n");
        for (text, what) in [("{question}", "answer"), ("{answer}", "question"), ("", "question")] {
            let error = Frame::of_template(text).unwrap_err();
            assert!(error.to_string().contains(&format!("the {what}")) && !error.hints().is_empty(), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_template_is_a_frame_or_an_error(text in "[{}a-z \\n]{0,30}(\\{question\\}|\\{answer\\}|\u{e000}){0,3}") {
            if let Ok(frame) = Frame::of_template(&text) {
                let empty = frame.filled("", "");
                prop_assert!(empty.len() < text.len());
            }
        }
    }
}
