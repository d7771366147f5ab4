//! A conversation in a terminal. In: a prompt, or lines of stdin; out: the answers as they are generated, or one JSON
//! object for each. Invariant: with --compare each subject has its own history, so that neither sees what the other
//! said.

use crate::command::{self, HELP, Line};
use crate::errors;
use crate::interrupt::{self, Graceful};
use crate::lines::Lines;
use crate::options::chat::ChatArgs;
use crate::output;
use crate::progress::note;
use crate::shown::Shown;
use eraser_model::{Adapter, ErrorKind, GenerateOptions, Message, Model, Result, Said, generate};
use serde_json::json;
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
        Self { name, adapter, history: opening(args.system.as_deref()) }
    }
}

fn opening(system: Option<&str>) -> Vec<Message> {
    system.into_iter().map(Message::system).collect()
}

/// A conversation.
pub(crate) struct Conversation<'a> {
    pub(crate) model: &'a Model,
    pub(crate) args: &'a ChatArgs,
    pub(crate) json: bool,
    pub(crate) speakers: Vec<Speaker<'a>>,
    /// The system prompt, with which each history begins.
    pub(crate) system: Option<String>,
    /// Turns so far: each draws from a seed of its own.
    pub(crate) turn: u64,
}

impl Conversation<'_> {
    /// Takes lines until they end. What is wrong with one ends the conversation, unless a person can type another.
    pub(crate) fn converse(&mut self) -> Result<()> {
        let mut lines = Lines::open(self.json)?;
        while let Some(line) = lines.next()? {
            let taken = command::parse(&line).map_err(|e| if lines.by_hand() { e } else { e.context(lines.place()) });
            match taken.and_then(|line| self.take(&line)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) if lines.by_hand() && e.kind() == ErrorKind::Request => errors::print(&e.into(), "chat"),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Does what a line says; false ends the conversation.
    fn take(&mut self, line: &Line<'_>) -> Result<bool> {
        match *line {
            Line::Blank => {}
            Line::Prompt(prompt) => self.answer(prompt)?,
            Line::Help => self.tell(HELP.trim_end()),
            Line::Reset => {
                self.begin();
                self.tell("the conversation begins again");
            }
            Line::System(text) => {
                // A template that has no place for one says so before anything is forgotten.
                let turns = [opening(text), vec![Message::user("?")]].concat();
                self.model.chat_template()?.render(&turns, true)?;
                self.system = text.map(ToOwned::to_owned);
                self.begin();
                self.tell(match text {
                    Some(_) => "the system prompt is set; the conversation begins again",
                    None => "there is no system prompt; the conversation begins again",
                });
            }
            Line::Quit => return Ok(false),
        }
        Ok(true)
    }

    /// Forgets what was said.
    fn begin(&mut self) {
        for speaker in &mut self.speakers {
            speaker.history = opening(self.system.as_deref());
        }
    }

    /// Says something beside the answers.
    fn tell(&self, text: &str) {
        if !self.json {
            note(text);
        }
    }

    /// Every speaker's answer to `prompt`; where one cannot answer, none has been asked.
    pub(crate) fn answer(&mut self, prompt: &str) -> Result<()> {
        let before: Vec<usize> = self.speakers.iter().map(|speaker| speaker.history.len()).collect();
        let answered = self.ask(prompt);
        if answered.is_err() {
            self.speakers.iter_mut().zip(before).for_each(|(speaker, n)| speaker.history.truncate(n));
        }
        answered
    }

    fn ask(&mut self, prompt: &str) -> Result<()> {
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
                    "thought": said.said.thought,
                    "response": said.said.answer,
                    "unfinished": said.said.unfinished,
                    "tokens": said.tokens,
                    "stopped": said.stopped,
                    "seconds": start.elapsed().as_secs_f64(),
                }))?;
            } else {
                output::line("")?;
            }
            // Without the thought, which templates leave out of earlier turns.
            self.speakers[i].history.push(Message::assistant(said.said.answer));
        }
        self.turn += 1;
        Ok(())
    }

    /// Generates one answer, showing it as it comes.
    fn say(&self, speaker: &Speaker<'_>) -> Result<Answered> {
        let tokenizer = &self.model.tokenizer;
        let template = self.model.chat_template()?;
        let text = template.render(&speaker.history, true)?;
        let (prompt, open) = (tokenizer.encode(&text)?, self.model.thinks_after(&text));
        let sampling = &self.args.sampling;
        let options = GenerateOptions {
            temperature: if sampling.greedy { 0.0 } else { sampling.temperature },
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            repetition_penalty: sampling.repetition_penalty,
            seed: sampling.seed.wrapping_add(self.turn),
            budget: self.model.budget(open, self.model.decoder.max_positions().saturating_sub(prompt.len())),
            ..GenerateOptions::greedy(sampling.max_new_tokens, tokenizer.stops())
        };
        let mut shown = Shown::new(template.thinking(), open);
        let mut stream = tokenizer.decode_stream(true);
        let mut failure = None;
        let graceful = Graceful::begin();
        let mut show = |id: u32| -> Result<()> {
            let text = stream.push(id)?;
            if self.json { Ok(()) } else { shown.push(&text, template.thinking().and_then(|t| t.mark(id))) }
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
            shown.push(&rest, None)?;
            shown.finish()?;
        }
        let generation = done.into_iter().next().unwrap_or_default();
        let said = self.model.said(&generation.tokens, open)?;
        if said.unfinished {
            self.tell("the thought is unfinished, so there is no answer; --max-think-tokens gives it more tokens");
        }
        Ok(Answered { said, tokens: generation.tokens.len(), stopped: generation.stopped })
    }
}

/// An answer.
struct Answered {
    said: Said,
    tokens: usize,
    stopped: bool,
}
