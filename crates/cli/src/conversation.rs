//! A conversation in a terminal. In: a prompt, or lines of stdin; out: the answers as they are generated, or one JSON
//! object for each. Invariant: with --compare each subject has its own history, so that neither sees what the other
//! said.

use crate::interrupt::{self, Graceful};
use crate::options::chat::ChatArgs;
use crate::output;
use eraser_model::{Adapter, Error, GenerateOptions, Message, Model, Result, generate};
use serde_json::json;
use std::io::{BufRead as _, IsTerminal as _};
use std::ops::ControlFlow;
use std::time::Instant;

/// The model with or without its adapter, and what was said with it.
pub(crate) struct Speaker<'a> {
    name: &'static str,
    adapter: Option<&'a Adapter>,
    history: Vec<Message>,
}

impl<'a> Speaker<'a> {
    /// A speaker that has said nothing yet.
    pub(crate) fn new(name: &'static str, adapter: Option<&'a Adapter>, args: &ChatArgs) -> Self {
        Self { name, adapter, history: opening(args) }
    }
}

fn opening(args: &ChatArgs) -> Vec<Message> {
    args.system.iter().map(Message::system).collect()
}

/// A conversation.
pub(crate) struct Conversation<'a> {
    pub(crate) model: &'a Model,
    pub(crate) args: &'a ChatArgs,
    pub(crate) json: bool,
    pub(crate) speakers: Vec<Speaker<'a>>,
    /// Turns so far: each draws from a seed of its own.
    pub(crate) turn: u64,
}

impl Conversation<'_> {
    /// Reads turns from stdin until it ends.
    pub(crate) fn converse(&mut self) -> Result<()> {
        let interactive = std::io::stdin().is_terminal() && !self.json;
        let mut lines = std::io::stdin().lock().lines();
        loop {
            if interactive {
                output::text("> ")?;
            }
            let Some(line) = lines.next() else { break };
            let line = line.map_err(|e| Error::request(format!("cannot read stdin: {e}")))?;
            match line.trim() {
                "" => {}
                "/quit" => break,
                "/reset" => {
                    for speaker in &mut self.speakers {
                        speaker.history = opening(self.args);
                    }
                }
                prompt => self.answer(prompt)?,
            }
        }
        if interactive { output::line("") } else { Ok(()) }
    }

    /// Every speaker's answer to `prompt`.
    pub(crate) fn answer(&mut self, prompt: &str) -> Result<()> {
        for i in 0..self.speakers.len() {
            self.speakers[i].history.push(Message::user(prompt));
            let start = Instant::now();
            let speaker = &self.speakers[i];
            if !self.json && self.speakers.len() > 1 {
                output::line(&format!("[{}]", speaker.name))?;
            }
            let said = self.say(speaker)?;
            if self.json {
                output::json(&json!({
                    "model": self.model.name,
                    "subject": speaker.name,
                    "adapter": speaker.adapter.and(self.args.adapter.as_deref()),
                    "prompt": prompt,
                    "response": said.text,
                    "tokens": said.tokens,
                    "stopped": said.stopped,
                    "seconds": start.elapsed().as_secs_f64(),
                }))?;
            } else {
                output::line("")?;
            }
            self.speakers[i].history.push(Message::assistant(said.text));
        }
        self.turn += 1;
        Ok(())
    }

    /// Generates one answer, showing it as it comes.
    fn say(&self, speaker: &Speaker<'_>) -> Result<Said> {
        let tokenizer = &self.model.tokenizer;
        let prompt = tokenizer.encode(&self.model.chat_template()?.render(&speaker.history, true)?)?;
        let sampling = &self.args.sampling;
        let options = GenerateOptions {
            temperature: if sampling.greedy { 0.0 } else { sampling.temperature },
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            repetition_penalty: sampling.repetition_penalty,
            seed: sampling.seed.wrapping_add(self.turn),
            ..GenerateOptions::greedy(sampling.max_new_tokens, tokenizer.stops())
        };
        let mut stream = tokenizer.decode_stream(true);
        let mut failure = None;
        let graceful = Graceful::begin();
        let mut show = |id: u32| -> Result<()> {
            let text = stream.push(id)?;
            if self.json { Ok(()) } else { output::text(&text) }
        };
        let mut on_token = |_: usize, id: u32| {
            if options.stops.contains(&id) {
                return ControlFlow::Continue(());
            }
            match show(id) {
                Ok(()) if !interrupt::requested() => ControlFlow::Continue(()),
                Ok(()) => ControlFlow::Break(()),
                Err(e) => {
                    failure = Some(e);
                    ControlFlow::Break(())
                }
            }
        };
        let prompts = [prompt];
        let done = generate(&self.model.decoder, speaker.adapter, &prompts, &options, 1, &mut on_token)?;
        drop(graceful);
        if self.args.prompt.is_none() {
            // Ctrl-C was about this answer; the conversation goes on.
            interrupt::forget();
        }
        if let Some(e) = failure {
            return Err(e);
        }
        let rest = stream.finish()?;
        if !self.json {
            output::text(&rest)?;
        }
        let generation = done.into_iter().next().unwrap_or_default();
        let text = tokenizer.decode(&generation.tokens, true)?;
        Ok(Said { text, tokens: generation.tokens.len(), stopped: generation.stopped })
    }
}

/// An answer.
struct Said {
    text: String,
    tokens: usize,
    stopped: bool,
}
