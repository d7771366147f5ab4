//! What gives log-probabilities and texts: a model that is loaded, or one that a server has. In: sequences of tokens;
//! out: scored tokens, written texts. Invariant: a text is what greedy decoding gives, up to the first of its ends.

use super::metric::Token;
use super::unit::Ask;
use crate::served::{ServedSubject, scores as served_scores};
use crate::subject::Subject;
use crate::summary::BASE;
use eraser_model::batch::{Batch, Emitted, End, Sequence};
use eraser_model::{
    DecodeStream, Error, GenerateOptions, Model, Result, ScoreRequest, Tokenizer, score, score_likeliest,
};
use std::ops::ControlFlow;

/// Texts that are written at the same time.
const WIDTH: usize = 16;

/// What gives the log-probabilities.
#[derive(Clone, Copy)]
pub(crate) enum Scorer<'a> {
    /// A model in memory.
    Loaded(&'a Subject<'a>),
    /// A model that a server has.
    Served(&'a ServedSubject),
}

impl<'a> Scorer<'a> {
    /// The subject's name.
    pub(crate) fn name(self) -> &'a str {
        match self {
            Self::Loaded(subject) => &subject.name,
            Self::Served(subject) => &subject.name,
        }
    }

    /// The model's name.
    pub(crate) fn model(self) -> String {
        match self {
            Self::Loaded(subject) => subject.model.name.clone(),
            Self::Served(subject) => subject.test.model.clone(),
        }
    }

    /// The model in memory, where there is one.
    pub(crate) fn loaded(self) -> Option<&'a Model> {
        match self {
            Self::Loaded(subject) => Some(subject.model),
            Self::Served(_) => None,
        }
    }

    /// Whether others are compared with it.
    pub(crate) fn is_base(self) -> bool {
        match self {
            Self::Loaded(subject) => subject.adapter.is_none(),
            Self::Served(subject) => subject.name == BASE,
        }
    }

    /// The tokenizer, and the most tokens that are scored at once.
    pub(crate) fn tokenizer(self) -> Result<(&'a Tokenizer, usize)> {
        match self {
            Self::Loaded(subject) => Ok((&subject.model.tokenizer, subject.model.decoder.max_positions())),
            Self::Served(subject) => {
                let text = subject.text.as_ref().ok_or_else(|| {
                    Error::request(format!(
                        "subject {}: benchmarks need the tokenizer of the served model",
                        subject.name
                    ))
                    .hint("name the model by --model: its directory or .gguf file is enough, weights are not read")
                })?;
                // Some servers generate a token behind what they score.
                let positions = subject.positions.unwrap_or(text.positions).min(text.positions);
                Ok((&text.tokenizer, positions.saturating_sub(1).max(1)))
            }
        }
    }

    /// The scored tokens of every request, with `likeliest` where that is asked for; None when `on_done`, given how
    /// many requests are done, breaks off.
    pub(crate) fn score(
        self,
        requests: &[ScoreRequest],
        likeliest: bool,
        on_done: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Vec<Token>>>> {
        let found = match self {
            Self::Loaded(Subject { model, adapter, .. }) if likeliest => {
                let found = score_likeliest(&model.decoder, *adapter, requests, on_done)?;
                let token = |(logprob, likeliest): (f32, bool)| Token { logprob, likeliest };
                let tokens = |all: Vec<(f32, bool)>| all.into_iter().map(token).collect();
                return Ok(found.map(|found| found.into_iter().map(tokens).collect()));
            }
            Self::Loaded(subject) => score(&subject.model.decoder, subject.adapter, requests, on_done)?,
            Self::Served(_) if likeliest => return Err(self.needs_weights()),
            Self::Served(subject) => served_scores(subject, requests, on_done)?,
        };
        let token = |logprob| Token { logprob, likeliest: false };
        let tokens = |all: Vec<f32>| all.into_iter().map(token).collect();
        Ok(found.map(|found| found.into_iter().map(tokens).collect()))
    }

    /// What the model writes; None when `alive`, given how many texts are done, says to stop.
    pub(crate) fn write(self, asks: &[&Ask], alive: &mut dyn FnMut(usize) -> bool) -> Result<Option<Vec<String>>> {
        match self {
            Self::Loaded(subject) => write(subject, asks, alive),
            Self::Served(_) => Err(self.needs_weights()),
        }
    }

    fn needs_weights(self) -> Error {
        Error::request(format!("subject {}: this task needs a model that is loaded here", self.name()))
            .hint("measure it with --model, or leave the task out")
    }
}

/// A text that is being written.
struct Text<'a> {
    tokens: Vec<u32>,
    /// Where ends are looked for.
    stream: Option<(DecodeStream<'a>, String)>,
}

fn write(subject: &Subject<'_>, asks: &[&Ask], alive: &mut dyn FnMut(usize) -> bool) -> Result<Option<Vec<String>>> {
    let Subject { model, adapter, .. } = subject;
    let stream = |ask: &Ask| (!ask.ends.is_empty()).then(|| (model.tokenizer.decode_stream(true), String::new()));
    let mut texts: Vec<Text<'_>> = asks.iter().map(|ask| Text { tokens: Vec::new(), stream: stream(ask) }).collect();
    let mut order: Vec<usize> = (0..asks.len()).collect();
    order.sort_by(|&a, &b| asks[b].ids.cmp(&asks[a].ids));
    let mut batch = Batch::new(&model.decoder, *adapter);
    let (mut done, mut wrong) = (0, None);
    loop {
        if !alive(done) {
            return Ok(None);
        }
        let wave = order.split_off(order.len().saturating_sub(WIDTH.saturating_sub(batch.len())));
        if wave.is_empty() && batch.is_empty() {
            break;
        }
        let sequence = |&key: &usize| {
            let ask = asks[key];
            let room = model.decoder.max_positions().saturating_sub(ask.ids.len());
            let budget = if ask.chat { model.budget(ask.open, room) } else { None };
            let options =
                GenerateOptions { budget, ..GenerateOptions::greedy(ask.most.min(room), model.tokenizer.stops()) };
            Sequence { key, adapter: 0, prompt: ask.ids.clone(), options, logits: false }
        };
        let after = order.last().map(|&next| asks[next].ids.as_slice());
        let mut on_token = |token: Emitted<'_>| {
            let Text { tokens, stream } = &mut texts[token.key];
            if token.end != Some(End::Stopped) {
                tokens.push(token.id);
            }
            let ended = match (stream, token.end) {
                (_, Some(_)) | (None, None) => Ok(false),
                (Some((stream, text)), None) => stream.push(token.id).map(|new| {
                    text.push_str(&new);
                    // Others were looked for before.
                    let from = text.floor_char_boundary(text.len().saturating_sub(new.len() + LONGEST_END));
                    asks[token.key].ends.iter().any(|end| text[from..].contains(end))
                }),
            };
            let ended = ended.unwrap_or_else(|error| {
                wrong.get_or_insert(error);
                true
            });
            done += usize::from(ended || token.end.is_some());
            if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        batch.step(wave.iter().map(sequence).collect(), after, &mut on_token)?;
        if let Some(error) = wrong.take() {
            return Err(error);
        }
    }
    let text = |(text, ask): (&Text<'_>, &&Ask)| {
        let whole = if ask.chat {
            model.said(&text.tokens, ask.open)?.answer
        } else {
            model.tokenizer.decode(&text.tokens, true)?
        };
        Ok(ask.ends.iter().fold(whole.as_str(), |text, end| text.split(end).next().unwrap_or_default()).to_owned())
    };
    texts.iter().zip(asks).map(text).collect::<Result<_>>().map(Some)
}

/// Bytes of the longest end of any task.
const LONGEST_END: usize = 16;
