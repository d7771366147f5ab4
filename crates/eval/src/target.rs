//! The model under test, with or without an adapter; canned answers in tests. In: user turns; out: answers.
//! Invariant: the fingerprint changes whenever the same prompt could get another answer.

use crate::attack::search::{self, Search};
use crate::subject::{Fingerprint, Subject};
use eraser_data::{PromptTemplate, Question, Sampling};
use eraser_model::files::hex;
use eraser_model::{GenerateOptions, Generation, Message, Result, Said, counted, generate_each};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;

/// An answer as generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// Text without special tokens, and without the thought before it.
    pub(crate) text: String,
    /// What was thought before.
    pub(crate) thought: String,
    /// The thought has no end, so there is no answer.
    pub(crate) unfinished: bool,
    /// New tokens.
    pub(crate) tokens: usize,
    /// Ended by itself, not at the limit.
    pub(crate) stopped: bool,
}

/// A prompt in tokens; of a server that renders prompts itself, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prompt {
    /// Chat template around the user turn, and the opening behind it.
    pub(crate) ids: Vec<u32>,
    /// It ends inside a thought.
    pub(crate) open: bool,
    /// The user turn and the opening of the answer, in place of `ids`.
    pub(crate) turn: Option<[String; 2]>,
}

/// A model under test. It takes token ids, which attacks search over, where [`eraser_data::ask::Respond`] takes text.
pub(crate) trait TargetModel {
    /// Identifies whatever answers depend on besides prompt and sampling.
    fn fingerprint(&self) -> &Fingerprint;

    /// How its thoughts are told from its answers, in words; None for a model that does not think.
    fn thinking(&self) -> Option<String>;

    /// Whether answers differ by rounding with what is answered beside them, so that they are made in fixed rounds and
    /// stored round by round. False: each is stored as it comes.
    fn together(&self) -> bool {
        true
    }

    /// The whole prompt, chat template around it and an opening behind it: that of the answer, or, `in_thought`, that
    /// of the thought before it.
    fn encode(&self, user: &str, opening: &str, in_thought: bool) -> Result<Prompt>;

    /// The user turn that a search finds for every question, see [`search::run`].
    fn search(
        &self,
        search: &dyn Search,
        questions: &[&Question],
        path: &Path,
        alive: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vec<String>>>;

    /// An answer per prompt, at most `batch` at a time, which `take` gets with the numbers of their prompts; false when
    /// `alive`, given the number of answers that have ended and of tokens that are new, says to stop. Answers that are
    /// made together are taken together, when all have ended.
    fn respond(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        batch: usize,
        alive: &mut dyn FnMut(usize, usize) -> bool,
        take: &mut dyn FnMut(Vec<(usize, Response)>) -> Result<()>,
    ) -> Result<bool>;
}

/// A subject as loaded.
pub(crate) struct LoadedSubject<'a> {
    subject: &'a Subject<'a>,
    template: PromptTemplate,
    fingerprint: &'a Fingerprint,
}

impl<'a> LoadedSubject<'a> {
    /// The subject under its own chat template.
    ///
    /// # Errors
    /// The model has none.
    pub(crate) fn new(subject: &'a Subject<'a>, fingerprint: &'a Fingerprint) -> Result<Self> {
        let template = PromptTemplate::Chat(subject.model.chat_template()?.clone());
        Ok(Self { subject, template, fingerprint })
    }
}

impl TargetModel for LoadedSubject<'_> {
    fn fingerprint(&self) -> &Fingerprint {
        self.fingerprint
    }

    fn thinking(&self) -> Option<String> {
        self.subject.model.thinking().map(|thinking| thinking.settings())
    }

    fn encode(&self, user: &str, opening: &str, in_thought: bool) -> Result<Prompt> {
        let (model, turns) = (self.subject.model, [Message::user(user)]);
        let template = model.chat_template()?;
        let (text, open) = if in_thought {
            (template.render_for_thought(&turns)?, true)
        } else if opening.is_empty() {
            let text = template.render(&turns, true)?;
            let open = model.thinks_after(&text);
            (text, open)
        } else {
            (template.render_for_answer(&turns)?, false)
        };
        Ok(Prompt { ids: model.tokenizer.encode(&(text + opening))?, open, turn: None })
    }

    fn search(
        &self,
        search: &dyn Search,
        questions: &[&Question],
        path: &Path,
        alive: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vec<String>>> {
        search::run(search, questions, (self.subject, &self.fingerprint.subject), &self.template, path, alive)
    }

    fn respond(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        batch: usize,
        alive: &mut dyn FnMut(usize, usize) -> bool,
        take: &mut dyn FnMut(Vec<(usize, Response)>) -> Result<()>,
    ) -> Result<bool> {
        let Subject { model, adapter, .. } = self.subject;
        let room = |i: usize| model.decoder.max_positions().saturating_sub(prompts[i].ids.len());
        let options = |i: usize| GenerateOptions {
            budget: model.budget(prompts[i].open, room(i)),
            ..sampling.generation(model.tokenizer.stops(), usize::MAX)
        };
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let mut stop = false;
        let ended = Cell::new(0);
        let mut on_token = |_: usize, _: u32| {
            stop = !alive(ended.get(), 1);
            if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut on_done = |_: usize, _: &Generation| {
            ended.update(|n| n + 1);
            Ok(())
        };
        let decoder = &model.decoder;
        let generations = generate_each(decoder, *adapter, &ids, &options, batch, &mut on_token, &mut on_done)?;
        if stop {
            return Ok(false);
        }
        let response = |(i, (Generation { tokens, stopped }, prompt)): (usize, (Generation, &Prompt))| {
            let Said { thought, answer: text, unfinished } = model.said(&tokens, prompt.open)?;
            Ok((i, Response { text, thought, unfinished, tokens: tokens.len(), stopped }))
        };
        take(generations.into_iter().zip(prompts).enumerate().map(response).collect::<Result<_>>()?)?;
        Ok(true)
    }
}

/// Identifies one answer: what answers, how it draws and thinks, and the prompt. 16 hex digits.
pub(crate) fn key(fingerprint: &str, sampling: &Sampling, thinking: Option<&str>, prompt: &Prompt) -> String {
    let mut hash = Sha256::new();
    let seed = if sampling.temperature > 0.0 { sampling.seed } else { 0 };
    hash.update(fingerprint);
    hash.update((sampling.max_new_tokens as u64).to_le_bytes());
    // As generation takes it, and as keys of earlier versions have it.
    hash.update((sampling.temperature as f32).to_le_bytes());
    hash.update(seed.to_le_bytes());
    hash.update(thinking.unwrap_or_default());
    hash_ids(&prompt.ids, &mut hash);
    for text in prompt.turn.iter().flatten() {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let mut key = hex(&hash.finalize());
    key.truncate(16);
    key
}

/// How answers are drawn, in words: what two answers must share to be compared.
pub(crate) fn told(sampling: &Sampling, thinking: Option<&str>) -> String {
    let Sampling { temperature, seed, max_new_tokens, .. } = sampling;
    let told = if *temperature > 0.0 {
        format!("temperature {temperature}, seed {seed}, at most {}", counted(*max_new_tokens, "token"))
    } else {
        format!("greedy, at most {}", counted(*max_new_tokens, "token"))
    };
    thinking.iter().fold(told, |told, thinking| format!("{told}; {thinking}"))
}

fn hash_ids(ids: &[u32], hash: &mut Sha256) {
    for id in ids {
        hash.update(id.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_everything_that_an_answer_depends_on() {
        let greedy = Sampling { seed: 1, ..Sampling::greedy(8) };
        let prompt = |ids: &[u32]| Prompt { ids: ids.to_vec(), ..Prompt::default() };
        let key = |m: &str, sampling: &Sampling, ids: &[u32]| key(m, sampling, None, &prompt(ids));
        let turn = |user: &str, opening: &str| Prompt {
            turn: Some([user.to_owned(), opening.to_owned()]),
            ..Prompt::default()
        };
        let base = key("m", &greedy, &[1, 2]);
        assert_eq!(base.len(), 16);
        assert_eq!(base, key("m", &Sampling { seed: 2, ..greedy.clone() }, &[1, 2]));
        let warm = Sampling { temperature: 0.5, ..greedy.clone() };
        let others = [
            key("n", &greedy, &[1, 2]),
            key("m", &greedy, &[1, 3]),
            key("m", &Sampling { max_new_tokens: 9, ..greedy.clone() }, &[1, 2]),
            key("m", &warm, &[1, 2]),
            key("m", &Sampling { seed: 2, ..warm.clone() }, &[1, 2]),
            super::key("m", &greedy, Some("at most 512"), &prompt(&[1, 2])),
            super::key("m", &greedy, None, &turn("ab", "")),
            super::key("m", &greedy, None, &turn("a", "b")),
        ];
        let distinct: std::collections::HashSet<_> = others.iter().chain([&base]).collect();
        assert_eq!(distinct.len(), 9);
    }
}
