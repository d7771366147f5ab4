//! A local model that answers. In: user turns; out: answers, each as soon as it has ended. Invariant: prompts are
//! answered in rounds that the list of prompts fixes, and a round that was interrupted is generated again as a whole,
//! since beside other prompts an answer can differ by rounding; so resuming gives the same bytes.

use super::next_tokens::NextTokens;
use super::respond::{Answer, Respond, Sink, interrupted};
use crate::Sampling;
use eraser_model::{Error, GenerateOptions, Generation, Message, Model, Result, generate_each};
use std::cell::RefCell;
use std::ops::ControlFlow;

/// Batches in a round: a finished sequence is replaced by the next prompt of the same round.
const BATCHES: usize = 4;

/// A model under its own chat template.
pub struct Local<'a> {
    model: &'a Model,
    batch: usize,
}

impl<'a> Local<'a> {
    /// `batch` sequences are generated at a time.
    pub fn new(model: &'a Model, batch: usize) -> Self {
        Self { model, batch: batch.max(1) }
    }

    /// An error for a prompt that leaves no room for an answer.
    ///
    /// # Errors
    /// The prompt is as long as the longest sequence of the model; the chat template cannot render it.
    pub fn check(&self, prompt: &str) -> Result<()> {
        self.turn(prompt).map(|_| ())
    }

    /// A prompt that leaves room for an answer.
    fn turn(&self, prompt: &str) -> Result<Turn> {
        let text = self.model.chat_template()?.render(&[Message::user(prompt)], true)?;
        let ids = self.model.tokenizer.encode(&text)?;
        self.fits(ids.len(), prompt)?;
        Ok(Turn { prompt: ids, open: self.model.thinks_after(&text), opening: Vec::new() })
    }

    /// An error if `n` tokens leave no room for an answer.
    fn fits(&self, n: usize, prompt: &str) -> Result<()> {
        let most = self.model.decoder.max_positions();
        if n < most {
            return Ok(());
        }
        let name = &self.model.name;
        let start: String = prompt.chars().take(40).collect();
        Err(Error::request(format!(
            "{name}: a prompt of {n} tokens is too long, the model takes at most {most}: {start} .."
        ))
        .hint("shorten the question, or leave it out"))
    }
}

impl Respond for Local<'_> {
    fn fingerprint(&self) -> String {
        self.model.answering()
    }

    fn together(&self) -> usize {
        self.batch.saturating_mul(BATCHES)
    }

    fn next_tokens(&self) -> Option<&dyn NextTokens> {
        Some(self.model)
    }

    fn respond(&self, prompts: &[&str], wanted: &[bool], sampling: &Sampling, sink: &mut dyn Sink) -> Result<()> {
        // All of them before the first answer.
        let turns = prompts.iter().map(|prompt| self.turn(prompt)).collect::<Result<Vec<_>>>()?;
        self.generate(&turns, wanted, sampling, sink)
    }
}

/// A model that is given the opening of each answer, and goes on from it. A prompt is a question and an opening, as
/// [`Opened::prompt`] writes them; an answer begins with its opening. A model that thinks has thought nothing before.
pub struct Opened<'a>(pub Local<'a>);

impl Opened<'_> {
    /// A question and the opening of its answer as one prompt: a JSON list of the two.
    pub fn prompt(question: &str, opening: &str) -> String {
        serde_json::json!([question, opening]).to_string()
    }

    fn parts(prompt: &str) -> Result<[String; 2]> {
        serde_json::from_str(prompt).map_err(|e| Error::failed(format!("a prompt is no question with an opening: {e}")))
    }
}

impl Respond for Opened<'_> {
    fn fingerprint(&self) -> String {
        format!("{} with openings", self.0.fingerprint())
    }

    fn together(&self) -> usize {
        self.0.together()
    }

    fn respond(&self, prompts: &[&str], wanted: &[bool], sampling: &Sampling, sink: &mut dyn Sink) -> Result<()> {
        let turn = |prompt: &&str| {
            let [question, opening] = Self::parts(prompt)?;
            let model = self.0.model;
            let prompt = model.chat_template()?.render_for_answer(&[Message::user(&question)])?;
            let (prompt, opening) = (model.tokenizer.encode(&prompt)?, model.tokenizer.encode(&opening)?);
            self.0.fits(prompt.len() + opening.len(), &question)?;
            Ok(Turn { prompt, open: false, opening })
        };
        let turns = prompts.iter().map(turn).collect::<Result<Vec<_>>>()?;
        self.0.generate(&turns, wanted, sampling, sink)
    }
}

/// What the model goes on from.
struct Turn {
    prompt: Vec<u32>,
    /// The prompt ends inside a thought.
    open: bool,
    /// Tokens of the answer that are given.
    opening: Vec<u32>,
}

impl Local<'_> {
    /// Answers `turns`, in rounds; an answer begins with its opening.
    fn generate(&self, turns: &[Turn], wanted: &[bool], sampling: &Sampling, sink: &mut dyn Sink) -> Result<()> {
        let tokenizer = &self.model.tokenizer;
        let round = self.together();
        for (n, turns) in turns.chunks(round).enumerate() {
            let first = n * round;
            let wanted = &wanted[first..first + turns.len()];
            if !wanted.contains(&true) {
                continue;
            }
            let prompts: Vec<Vec<u32>> =
                turns.iter().map(|turn| [turn.prompt.as_slice(), &turn.opening].concat()).collect();
            let longest = prompts.iter().map(Vec::len).max().unwrap_or_default();
            let room = self.model.decoder.max_positions().saturating_sub(longest);
            let options = |i: usize| GenerateOptions {
                budget: self.model.budget(turns[i].open, room),
                ..sampling.generation(tokenizer.stops(), room)
            };
            let shared = RefCell::new(&mut *sink);
            let mut stopped = false;
            let mut on_token = |_: usize, _: u32| {
                let mut sink = shared.borrow_mut();
                sink.tokens(1);
                stopped = !sink.alive();
                if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let mut on_done = |i: usize, generation: &Generation| {
                if !wanted[i] {
                    return Ok(());
                }
                let whole = [turns[i].opening.as_slice(), &generation.tokens].concat();
                // Without its thought, and empty where that is unfinished.
                let text = self.model.said(&whole, turns[i].open)?.answer.trim().to_owned();
                let tokens = Some(generation.tokens.len());
                let answer = Answer { text, tokens, stopped: generation.stopped, refused: false };
                shared.borrow_mut().take(first + i, answer)
            };
            generate_each(&self.model.decoder, None, &prompts, &options, self.batch, &mut on_token, &mut on_done)?;
            if stopped {
                return Err(interrupted());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eraser_model::{BaseDtype, LoadOptions};

    /// Answers of f32 weights were found again when bf16 was asked for.
    #[test]
    fn answers_are_kept_apart_by_how_the_weights_are_held() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/organism/model");
        let fingerprint = |base_dtype| {
            let options = LoadOptions {
                device: eraser_model::DeviceName::Cpu.open().unwrap(),
                base_dtype,
                compute: eraser_model::Compute::F32,
                chat_template: None,
            };
            let model = eraser_model::load(path.to_str().unwrap(), &options).unwrap();
            let fingerprint = Local::new(&model, 1).fingerprint();
            assert_eq!(fingerprint, model.answering());
            fingerprint
        };
        assert_ne!(fingerprint(BaseDtype::F32), fingerprint(BaseDtype::Bf16));
    }
}
