//! A local model that answers. In: user turns; out: answers, each as soon as it has ended. Invariant: prompts are
//! answered in rounds that the list of prompts fixes, and a round that was interrupted is generated again as a whole,
//! since beside other prompts an answer can differ by rounding; so resuming gives the same bytes.

use super::respond::{Answer, Respond, Sink, interrupted};
use crate::Sampling;
use eraser_model::{Error, Generation, Message, Model, Result, generate_each};
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
        self.encode(prompt).map(|_| ())
    }

    /// The tokens of a prompt that leaves room for an answer.
    fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let ids = self.model.tokenizer.encode(&self.model.chat_template()?.render(&[Message::user(prompt)], true)?)?;
        let (n, most) = (ids.len(), self.model.decoder.max_positions());
        if n >= most {
            let name = &self.model.name;
            let start: String = prompt.chars().take(40).collect();
            return Err(Error::request(format!(
                "{name}: a prompt of {n} tokens is too long, the model takes at most {most}: {start} .."
            ))
            .hint("shorten the question, or leave it out"));
        }
        Ok(ids)
    }
}

impl Respond for Local<'_> {
    fn fingerprint(&self) -> String {
        self.model.identity()
    }

    fn respond(&self, prompts: &[&str], wanted: &[bool], sampling: &Sampling, sink: &mut dyn Sink) -> Result<()> {
        let tokenizer = &self.model.tokenizer;
        // All of them before the first answer.
        let encoded: Vec<Vec<u32>> = prompts.iter().map(|prompt| self.encode(prompt)).collect::<Result<_>>()?;
        let round = self.batch.saturating_mul(BATCHES);
        for (n, prompts) in encoded.chunks(round).enumerate() {
            let first = n * round;
            let wanted = &wanted[first..first + prompts.len()];
            if !wanted.contains(&true) {
                continue;
            }
            let longest = prompts.iter().map(Vec::len).max().unwrap_or_default();
            let room = self.model.decoder.max_positions().saturating_sub(longest);
            let options = sampling.generation(tokenizer.stops(), room);
            let shared = RefCell::new(&mut *sink);
            let mut stopped = false;
            let mut on_token = |_: usize, _: u32| {
                stopped = !shared.borrow_mut().alive();
                if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let mut on_done = |i: usize, generation: &Generation| {
                if !wanted[i] {
                    return Ok(());
                }
                let text = tokenizer.decode(&generation.tokens, true)?.trim().to_owned();
                let tokens = Some(generation.tokens.len());
                let answer = Answer { text, tokens, stopped: generation.stopped, refused: false };
                shared.borrow_mut().take(first + i, answer)
            };
            generate_each(&self.model.decoder, None, prompts, &options, self.batch, &mut on_token, &mut on_done)?;
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
            assert_eq!(fingerprint, model.identity());
            fingerprint
        };
        assert_ne!(fingerprint(BaseDtype::F32), fingerprint(BaseDtype::Bf16));
    }
}
