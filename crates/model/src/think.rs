//! The thought before an answer. In: a chat template's text, a vocabulary, what a model wrote; out: the thought apart
//! from the answer. Invariant: what is no answer is never shown as one: a thought without an end is unfinished, and has
//! no answer behind it.

use crate::{Result, Tokenizer};

/// How models mark a thought.
struct Marks {
    /// What a thought begins with.
    start: &'static str,
    /// What it ends with; the answer follows.
    end: &'static str,
    /// What is between the two, and behind them, where the thought is empty.
    empty: [&'static str; 2],
}

/// Every known pair. The first one that a template or else a vocabulary has counts.
const KNOWN: [Marks; 4] = [
    // Qwen3, SmolLM3, OLMo 3 Think, Phi-4-reasoning.
    Marks { start: "<think>", end: "</think>", empty: ["\n\n", "\n\n"] },
    // Ministral 3 Reasoning.
    Marks { start: "[THINK]", end: "[/THINK]", empty: ["", ""] },
    // Gemma 4.
    Marks { start: "<|channel>thought", end: "<channel|>", empty: ["\n", ""] },
    Marks { start: "<thought>", end: "</thought>", empty: ["\n\n", "\n\n"] },
];

/// Tokens of a thought, unless another number is given.
const MOST: usize = 512;

/// How the thoughts of a model are marked, and how long they may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinking {
    /// Empty where only the end is known.
    start: String,
    end: String,
    empty: [String; 2],
    /// Whether the model's chat template writes the marks: such a model thinks unless it is told not to.
    by_template: bool,
    /// Ids of start and end that a decoder leaves out of the text.
    hidden: Vec<(u32, String)>,
    most: Option<usize>,
}

/// What a model wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The thought, without its marks; empty where there is none.
    pub thought: String,
    /// The answer; empty where the thought is unfinished.
    pub answer: String,
    /// The thought has no end, so there is no answer.
    pub unfinished: bool,
}

impl Thinking {
    /// The marks of a model with this chat template and tokenizer; None for a model that knows none.
    pub(crate) fn find(template: &str, tokenizer: Option<&Tokenizer>) -> Option<Self> {
        let written = KNOWN.iter().find(|marks| template.contains(marks.end) || template.contains(marks.start));
        let in_vocabulary = |marks: &&Marks| tokenizer.is_some_and(|t| t.token_id(marks.end).is_some());
        let marks = written.or_else(|| KNOWN.iter().find(in_vocabulary))?;
        Some(Self::of(marks.start, marks.end, marks.empty, written.is_some(), tokenizer))
    }

    /// Thoughts that end with `end`, whatever the template and the vocabulary say.
    pub(crate) fn ending(end: &str, tokenizer: Option<&Tokenizer>) -> Self {
        let known = KNOWN.iter().find(|marks| marks.end == end);
        // `</x>` ends what `<x>` begins.
        let named = ["</", "[/"].into_iter().find_map(|open| Some((&open[..1], end.strip_prefix(open)?)));
        let named = named.map_or_else(String::new, |(open, rest)| format!("{open}{rest}"));
        let (start, empty) = known.map_or((named.as_str(), ["\n\n", "\n\n"]), |marks| (marks.start, marks.empty));
        Self::of(start, end, empty, true, tokenizer)
    }

    fn of(start: &str, end: &str, empty: [&str; 2], by_template: bool, tokenizer: Option<&Tokenizer>) -> Self {
        let hidden = |mark: &str| {
            let tokenizer = tokenizer?;
            let id = tokenizer.token_id(mark).filter(|id| tokenizer.is_special(*id))?;
            Some((id, mark.to_owned()))
        };
        let hidden = [start, end].into_iter().filter_map(hidden).collect();
        let [start, end] = [start, end].map(str::to_owned);
        Self { start, end, empty: empty.map(str::to_owned), by_template, hidden, most: None }
    }

    /// The same with thoughts of at most `most` tokens.
    #[must_use]
    pub(crate) fn at_most(self, most: usize) -> Self {
        Self { most: Some(most), ..self }
    }

    /// What a thought begins with; empty where only the end is known.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// What a thought ends with.
    pub fn end(&self) -> &str {
        &self.end
    }

    /// Most tokens of a thought.
    pub fn most(&self) -> usize {
        self.most.unwrap_or(MOST)
    }

    /// The same, where the user has said it.
    pub fn limit(&self) -> Option<usize> {
        self.most
    }

    /// Whether the chat template writes the marks.
    pub fn by_template(&self) -> bool {
        self.by_template
    }

    /// Whether a prompt ends inside a thought: the model goes on with it.
    pub fn opens(&self, prompt: &str) -> bool {
        !self.start.is_empty() && prompt.trim_end().ends_with(&self.start)
    }

    /// Whether a text that may go on begins a thought; None where that is open.
    pub(crate) fn begins(&self, text: &str) -> Option<bool> {
        let text = text.trim_start();
        match (self.start.is_empty(), text.starts_with(&self.start)) {
            (false, true) => Some(true),
            _ if self.start.starts_with(text) => None,
            _ => Some(false),
        }
    }

    /// What an answer depends on besides the prompt, in words.
    pub fn settings(&self) -> String {
        format!("thoughts end with {:?} and have at most {} tokens", self.end, self.most())
    }

    /// What follows `prompt`, which ends where the assistant begins, so that an answer can: the end of a thought that
    /// is open; of a template that writes thoughts, a thought without content, unless it has written that.
    pub(crate) fn no_thought(&self, prompt: &str) -> String {
        let [between, behind] = &self.empty;
        if self.opens(prompt) {
            let written = prompt.len() - prompt.trim_end().len();
            return format!("{}{}{behind}", between.get(written..).unwrap_or_default(), self.end);
        }
        let skipped = self.start.is_empty() || !self.by_template || prompt.trim_end().ends_with(&self.end);
        if skipped { String::new() } else { format!("{}{between}{}{behind}", self.start, self.end) }
    }

    /// What follows `prompt` so that a thought can; None where it is not known how a thought begins.
    pub(crate) fn begun(&self, prompt: &str) -> Option<String> {
        if self.opens(prompt) {
            return Some(String::new());
        }
        let line = if self.empty[0].is_empty() { "" } else { "\n" };
        (!self.start.is_empty()).then(|| format!("{}{line}", self.start))
    }

    /// The text of `ids`, special tokens left out, but for the marks.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn decode(&self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
        let mut text = String::new();
        let mut rest = ids;
        while let Some(at) = rest.iter().position(|id| self.mark(*id).is_some()) {
            text.push_str(&tokenizer.decode(&rest[..at], true)?);
            text.push_str(self.mark(rest[at]).unwrap_or_default());
            rest = &rest[at + 1..];
        }
        Ok(text + &tokenizer.decode(rest, true)?)
    }

    /// The mark that a decoder leaves out of the text for this id.
    pub fn mark(&self, id: u32) -> Option<&str> {
        self.hidden.iter().find(|(hidden, _)| *hidden == id).map(|(_, mark)| mark.as_str())
    }

    /// Thought and answer of a whole text; `open` says that the prompt ended inside the thought. They are what a
    /// [`stream`](Self::stream) of the text shows: an end mark that ends nothing is a part of the answer, so that no
    /// one who judges the answer misses what stands before it.
    pub fn split(&self, text: &str, open: bool) -> Said {
        let mut stream = self.stream(open);
        let mut shown = stream.push(text);
        let unfinished = stream.thinks();
        shown.add(&stream.finish());
        Said { thought: shown.thought, answer: shown.answer, unfinished }
    }

    /// Thought and answer of a text that comes in pieces.
    pub fn stream(&self, open: bool) -> ThoughtStream {
        ThoughtStream {
            start: self.start.clone(),
            end: self.end.clone(),
            held: String::new(),
            open,
            fresh: true,
            place: if open && self.start.is_empty() { Place::Thought } else { Place::Beginning },
        }
    }
}

/// The answer in a text of a model that is not known: what follows a thought in known marks, at its beginning; empty
/// where that thought has no end.
pub fn answer_of(text: &str) -> &str {
    let begun = |marks: &Marks| Some((text.trim_start().strip_prefix(marks.start)?, marks.end));
    match KNOWN.iter().find_map(begun) {
        Some((rest, end)) => rest.split_once(end).map_or("", |(_, answer)| answer.trim()),
        None => text.trim(),
    }
}

/// Where in what a model writes the next piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but spaces and perhaps a part of the start mark; anything, where no start mark is known.
    Beginning,
    Thought,
    Answer,
}

/// Takes a text apart as it comes; [`Thinking::split`] is one piece. An end mark ends a thought only where the prompt or the start mark began it; where
/// no start mark is known, nothing is shown before the end mark, or the end of a text without one.
#[derive(Clone, Debug)]
pub struct ThoughtStream {
    start: String,
    end: String,
    /// What may belong to a mark, or is white space at the end of a thought.
    held: String,
    /// The prompt ended inside the thought; a model may begin it once more.
    open: bool,
    /// Nothing of the part that is being written was shown.
    fresh: bool,
    place: Place,
}

/// What became certain with a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// More of the thought.
    pub thought: String,
    /// More of the answer.
    pub answer: String,
}

impl Shown {
    /// Adds what came after it.
    pub fn add(&mut self, more: &Self) {
        self.thought.push_str(&more.thought);
        self.answer.push_str(&more.answer);
    }
}

impl ThoughtStream {
    /// Takes a piece.
    pub fn push(&mut self, text: &str) -> Shown {
        let mut shown = Shown::default();
        self.held.push_str(text);
        if self.place == Place::Beginning && self.start.is_empty() {
            // Only the end tells whether this is a thought, so nothing is shown before it.
            if let Some((thought, answer)) = self.held.split_once(self.end.as_str()) {
                shown.thought.push_str(thought.trim());
                (self.held, self.place, self.fresh) = (answer.to_owned(), Place::Answer, true);
            }
        } else if self.place == Place::Beginning {
            let begun = self.held.trim_start();
            if let Some(rest) = begun.strip_prefix(self.start.as_str()) {
                (self.held, self.place) = (rest.to_owned(), Place::Thought);
            } else if !self.start.starts_with(begun) {
                (self.place, self.fresh) = if self.open { (Place::Thought, true) } else { (Place::Answer, false) };
            }
        }
        if self.place == Place::Thought {
            if let Some((thought, answer)) = self.held.split_once(self.end.as_str()) {
                let thought = thought.trim_end();
                shown.thought.push_str(if self.fresh { thought.trim_start() } else { thought });
                (self.held, self.place, self.fresh) = (answer.to_owned(), Place::Answer, true);
            } else {
                let certain = self.certain();
                let rest = self.held.split_off(certain);
                shown.thought = self.take(rest);
            }
        }
        if self.place == Place::Answer {
            shown.answer = self.take(String::new());
        }
        shown
    }

    /// The rest: a beginning that became no thought is an answer.
    pub fn finish(&mut self) -> Shown {
        let place = if self.thinks() { Place::Thought } else { self.place };
        self.fresh &= place != Place::Beginning;
        let rest = self.take(String::new());
        match place {
            Place::Thought => Shown { thought: rest.trim_end().to_owned(), ..Shown::default() },
            Place::Beginning | Place::Answer => Shown { answer: rest, ..Shown::default() },
        }
    }

    /// Whether what was written so far is a thought, so that no answer has begun.
    pub fn thinks(&self) -> bool {
        self.place == Place::Thought || (self.open && self.place == Place::Beginning)
    }

    /// Bytes of what is held that cannot belong to the end mark or the white space before it.
    fn certain(&self) -> usize {
        let part = |at: usize| self.end.starts_with(&self.held[at..]);
        let at = self.held.char_indices().map(|(at, _)| at).find(|&at| part(at)).unwrap_or(self.held.len());
        self.held[..at].trim_end().len()
    }

    /// What is held, in whose place `rest` comes; white space before the first character of a part is left out.
    fn take(&mut self, rest: String) -> String {
        let text = std::mem::replace(&mut self.held, rest);
        if !self.fresh {
            return text;
        }
        let text = text.trim_start();
        self.fresh = text.is_empty();
        text.to_owned()
    }
}

#[cfg(test)]
mod tests;
