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
use eraser_model::batch::{Batch, Emitted, End, Sequence};
use eraser_model::{Adapter, DecodeStream, ErrorKind, GenerateOptions, Message, Model, Result, SideBySide};
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
        for speaker in &mut self.speakers {
            speaker.history.push(Message::user(prompt));
        }
        let model = self.model;
        let asked = |speaker: &Speaker<'_>| {
            let text = model.chat_template()?.render(&speaker.history, true)?;
            let (ids, open) = (model.tokenizer.encode(&text)?, model.thinks_after(&text));
            let answer = Answer::new(model, open, self.options(open, ids.len()));
            Ok((ids, answer))
        };
        let asked = self.speakers.iter().map(asked).collect::<Result<Vec<_>>>()?;
        let (prompts, mut answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        self.generate(prompts, &mut answers)?;
        self.turn += 1;
        Ok(())
    }

    /// For a prompt of so many tokens.
    fn options(&self, open: bool, prompt: usize) -> GenerateOptions {
        let sampling = &self.args.sampling;
        GenerateOptions {
            temperature: if sampling.greedy { 0.0 } else { sampling.temperature },
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            repetition_penalty: sampling.repetition_penalty,
            seed: sampling.seed.wrapping_add(self.turn),
            budget: self.model.budget(open, self.model.decoder.max_positions().saturating_sub(prompt)),
            ..GenerateOptions::greedy(sampling.max_new_tokens, self.model.tokenizer.stops())
        }
    }

    /// Generates the answers of all speakers together, so that the base's products are computed once, and shows them
    /// one after the other: the first as it comes, the others from where they are when it ends.
    fn generate(&mut self, prompts: Vec<Vec<u32>>, answers: &mut [Answer<'_>]) -> Result<()> {
        let model = self.model;
        let adapters: Vec<Option<&Adapter>> = self.speakers.iter().map(|speaker| speaker.adapter).collect();
        let beside = SideBySide::new(&adapters)?;
        let mut running = match *adapters {
            [one] => Batch::new(&model.decoder, one),
            _ => Batch::side_by_side(&model.decoder, &beside),
        };
        let sequence = |(key, (prompt, answer)): (usize, (Vec<u32>, &Answer<'_>))| {
            let options = answer.options.clone();
            (options.max_new_tokens > 0).then_some(Sequence { key, adapter: key, prompt, options, logits: false })
        };
        let mut wave: Vec<Sequence> = prompts.into_iter().zip(&*answers).enumerate().filter_map(sequence).collect();
        let graceful = Graceful::begin();
        let (start, mut current) = (Instant::now(), 0);
        self.head(current)?;
        while !(interrupt::requested() || wave.is_empty() && running.is_empty()) {
            running.step(std::mem::take(&mut wave), None, &mut |token| {
                answers[token.key].take(token, start);
                ControlFlow::Continue(())
            })?;
            self.show(answers, &mut current, start)?;
        }
        // Those that Ctrl-C has cut, and those that may have no token.
        for answer in &mut *answers {
            answer.ended = true;
        }
        self.show(answers, &mut current, start)?;
        drop(graceful);
        if self.args.prompt.is_none() {
            // Ctrl-C was about this answer; the conversation goes on.
            interrupt::forget();
        }
        Ok(())
    }

    /// Shows what has come of the answer of speaker `current`; where it has ended, also of the next.
    fn show(&mut self, answers: &mut [Answer<'_>], current: &mut usize, start: Instant) -> Result<()> {
        while let Some(answer) = answers.get_mut(*current) {
            if !self.json {
                answer.show(self.model)?;
            }
            if !answer.ended {
                break;
            }
            self.finish(*current, answer, start)?;
            *current += 1;
            self.head(*current)?;
        }
        Ok(())
    }

    /// Says whose answer follows.
    fn head(&self, speaker: usize) -> Result<()> {
        match self.speakers.get(speaker) {
            Some(speaker) if !self.json && self.speakers.len() > 1 => output::line(&format!("[{}]", speaker.name)),
            _ => Ok(()),
        }
    }

    /// Shows the rest of an answer and remembers it.
    fn finish(&mut self, speaker: usize, answer: &mut Answer<'_>, start: Instant) -> Result<()> {
        let said = self.model.said(&answer.tokens, answer.open)?;
        let Speaker { name, adapter, .. } = self.speakers[speaker];
        if self.json {
            let prompt = self.speakers[speaker].history.last().map(|message| message.content.as_str());
            output::json(&json!({
                "model": self.model.name,
                "subject": name,
                "adapter": adapter.and(self.args.adapter.as_deref()),
                "prompt": prompt,
                "thought": said.thought,
                "response": said.answer,
                "unfinished": said.unfinished,
                "tokens": answer.tokens.len(),
                "stopped": answer.stopped,
                "seconds": answer.seconds.unwrap_or_else(|| start.elapsed().as_secs_f64()),
            }))?;
        } else {
            answer.close()?;
            output::line("")?;
        }
        if said.unfinished {
            self.tell("the thought is unfinished, so there is no answer; --max-think-tokens gives it more tokens");
        }
        // Without the thought, which templates leave out of earlier turns.
        self.speakers[speaker].history.push(Message::assistant(said.answer));
        Ok(())
    }
}

/// An answer as it comes.
struct Answer<'a> {
    options: GenerateOptions,
    /// The prompt ends inside a thought.
    open: bool,
    shown: Shown,
    /// None once it was closed.
    stream: Option<DecodeStream<'a>>,
    tokens: Vec<u32>,
    /// How many of them were shown.
    told: usize,
    ended: bool,
    stopped: bool,
    /// How long it took, once it has ended.
    seconds: Option<f64>,
}

impl<'a> Answer<'a> {
    fn new(model: &'a Model, open: bool, options: GenerateOptions) -> Self {
        let (shown, stream) = (Shown::new(model.thinking(), open), Some(model.tokenizer.decode_stream(true)));
        let (tokens, told) = (Vec::new(), 0);
        Self { options, open, shown, stream, tokens, told, ended: false, stopped: false, seconds: None }
    }

    fn take(&mut self, token: Emitted<'_>, start: Instant) {
        match token.end {
            Some(End::Stopped) => self.stopped = true,
            _ => self.tokens.push(token.id),
        }
        self.ended = token.end.is_some();
        self.seconds = self.ended.then(|| start.elapsed().as_secs_f64());
    }

    /// Shows what has come since.
    fn show(&mut self, model: &Model) -> Result<()> {
        while let (Some(&id), Some(stream)) = (self.tokens.get(self.told), &mut self.stream) {
            let text = stream.push(id)?;
            self.shown.push(&text, model.thinking().and_then(|thinking| thinking.mark(id)))?;
            self.told += 1;
        }
        Ok(())
    }

    /// Shows what was held back.
    fn close(&mut self) -> Result<()> {
        let rest = self.stream.take().map(DecodeStream::finish).transpose()?;
        self.shown.push(&rest.unwrap_or_default(), None)?;
        self.shown.finish()
    }
}
