//! From items to tokens. In: a job of the plan, a subject's tokenizer and chat template; out: what is scored and
//! written together. Invariant: the key of a unit changes with whatever its scores depend on.

use super::encode::Encoder;
use super::item::{Choice, Item};
use super::plan::{Job, PromptedItem, Work};
use super::{BenchOptions, Form, Written, text};
use eraser_data::{Beginning, PromptTemplate, Sample, end_of_answer};
use eraser_model::files::hex;
use eraser_model::{Error, Message, Model, Result, ScoreRequest};
use sha2::{Digest as _, Sha256};

/// What is scored and written of one item, or a window.
#[derive(Default)]
pub(crate) struct Unit {
    /// Each answer behind its context.
    pub(crate) requests: Vec<ScoreRequest>,
    /// Characters of each answer.
    pub(crate) characters: Vec<usize>,
    /// Which answers are right.
    pub(crate) right: Vec<bool>,
    /// Tokens of the first answer, without the end of sequence.
    pub(crate) own: usize,
    /// The text to be written.
    pub(crate) ask: Option<Ask>,
    /// The answers that are expected of a written text.
    pub(crate) golds: Vec<String>,
}

/// A text to be written.
pub(crate) struct Ask {
    /// The prompt.
    pub(crate) ids: Vec<u32>,
    /// It is in the chat template, and the answer may have a thought before it.
    pub(crate) chat: bool,
    /// It ends inside a thought.
    pub(crate) open: bool,
    /// Most new tokens.
    pub(crate) most: usize,
    /// The text is over before any of these.
    pub(crate) ends: &'static [&'static str],
}

/// The units of a job; `model` where it is loaded.
///
/// # Errors
/// An item that cannot be encoded, named by its row.
pub(crate) fn units(
    job: &Job,
    encoder: &Encoder<'_>,
    model: Option<&Model>,
    options: &BenchOptions,
) -> Result<Vec<Unit>> {
    let (form, items) = match &job.work {
        Work::Items { form, items, .. } => (*form, items),
        Work::Text(content) => {
            let window = options.window.min(encoder.longest);
            let windows = text::windows(&encoder.bare(content)?, encoder.prefix, window);
            let windows = windows.into_iter().take(options.limit.unwrap_or(usize::MAX));
            return Ok(windows.map(|w| Unit { requests: vec![w], ..Unit::default() }).collect());
        }
    };
    let chat = match form {
        Form::Chat { .. } => Some(Chat::new(model)?),
        _ => None,
    };
    let unit = |item: &PromptedItem| match (form, &chat) {
        (Form::Chat { most }, Some(chat)) => chat.unit(&item.item, most.map(|most| options.new_tokens(most))),
        (Form::Written(how), _) => written(item, encoder, Written { most: options.new_tokens(how.most), ..how }),
        (Form::Whole, _) => whole(&item.item, encoder),
        _ => choices(item, encoder),
    };
    let unit = |(row, item): (usize, &PromptedItem)| unit(item).map_err(|e| e.context(format!("row {}", row + 1)));
    items.iter().enumerate().map(unit).collect()
}

fn choices(PromptedItem { before, item }: &PromptedItem, encoder: &Encoder<'_>) -> Result<Unit> {
    let request = |c: &Choice| encoder.pair(&format!("{before}{}", c.context), &format!(" {}", c.continuation));
    let requests: Vec<ScoreRequest> = item.choices.iter().map(request).collect::<Result<_>>()?;
    let characters = item.choices.iter().map(|c| c.continuation.chars().count()).collect();
    let own = requests.first().map_or(0, |request| request.scored);
    Ok(Unit { requests, characters, right: item.right.clone(), own, ..Unit::default() })
}

fn whole(item: &Item, encoder: &Encoder<'_>) -> Result<Unit> {
    let mut ids = encoder.text(&first(item)?.continuation)?;
    ids.truncate(encoder.longest + 1);
    let scored = ids.len().saturating_sub(1);
    if scored == 0 {
        return Err(Error::request("the text has a single token, and nothing to score"));
    }
    let requests = vec![ScoreRequest { ids, scored }];
    Ok(Unit { requests, right: item.right.clone(), own: scored, ..Unit::default() })
}

fn first(item: &Item) -> Result<&Choice> {
    item.choices.first().ok_or_else(|| Error::request("no answer"))
}

fn written(
    PromptedItem { before, item }: &PromptedItem,
    encoder: &Encoder<'_>,
    Written { most, ends, tail, .. }: Written,
) -> Result<Unit> {
    let answer = first(item)?;
    let mut ids = encoder.text(&format!("{before}{}{tail}", answer.context))?;
    if ids.is_empty() {
        ids.push(encoder.prefix);
    }
    // The first tokens of a long prompt go, so that there is room for the text: for all of it where that leaves the
    // prompt half of the positions.
    let longest = encoder.longest.saturating_sub(most).max(encoder.longest / 2).max(1);
    ids.drain(..ids.len().saturating_sub(longest));
    let ask = Ask { ids, chat: false, open: false, most, ends };
    let golds = item.choices.iter().map(|choice| choice.continuation.clone()).collect();
    Ok(Unit { ask: Some(ask), golds, ..Unit::default() })
}

/// Encodes questions and answers in a model's chat template, as training does.
struct Chat<'a> {
    model: &'a Model,
    template: PromptTemplate,
    end: u32,
}

impl<'a> Chat<'a> {
    fn new(model: Option<&'a Model>) -> Result<Self> {
        let model = model.ok_or_else(|| {
            Error::request("the task is asked in the chat template, of a model that is loaded here")
                .hint("measure it with --model, or leave the task out")
        })?;
        let template = PromptTemplate::Chat(model.chat_template()?.clone());
        Ok(Self { model, template, end: end_of_answer(&model.tokenizer)? })
    }

    fn unit(&self, item: &Item, most: Option<usize>) -> Result<Unit> {
        let first = first(item)?;
        let (tokenizer, positions) = (&self.model.tokenizer, self.model.decoder.max_positions());
        let prompt = self.template.encode(&self.template.render(&first.context)?, tokenizer, positions)?;
        let mut requests = Vec::with_capacity(item.choices.len());
        let mut own = None;
        for choice in &item.choices {
            let answer = Beginning::of(&choice.continuation, tokenizer, positions)?;
            let (sample, cut) = Sample::new(&prompt, &answer, self.end, positions);
            let scored = sample.scored().len();
            if scored == 0 {
                return Err(Error::request(format!("the question fills the model's {positions} positions")));
            }
            own.get_or_insert(scored - usize::from(!cut));
            requests.push(ScoreRequest { ids: sample.ids, scored });
        }
        let ask = most.map(|most| -> Result<Ask> {
            let model = self.model;
            let text = model.chat_template()?.render(&[Message::user(&first.context)], true)?;
            let open = model.thinks_after(&text);
            Ok(Ask { ids: tokenizer.encode(&text)?, chat: true, open, most, ends: &[] })
        });
        Ok(Unit {
            requests,
            characters: item.choices.iter().map(|c| c.continuation.chars().count()).collect(),
            right: item.right.clone(),
            own: own.unwrap_or_default(),
            ask: ask.transpose()?,
            golds: vec![first.continuation.clone()],
        })
    }
}

impl Unit {
    /// Identifies its scores: subject, tokens, and what a written text is compared with. 16 hex digits.
    pub(crate) fn key(&self, fingerprint: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(fingerprint);
        let mut ids = |ids: &[u32], n: usize| {
            hash.update((n as u64).to_le_bytes());
            hash.update((ids.len() as u64).to_le_bytes());
            for id in ids {
                hash.update(id.to_le_bytes());
            }
        };
        for request in &self.requests {
            ids(&request.ids, request.scored);
        }
        if let Some(ask) = &self.ask {
            ids(&ask.ids, ask.most);
        }
        for (characters, right) in self.characters.iter().zip(&self.right) {
            hash.update((*characters as u64).to_le_bytes());
            hash.update([u8::from(*right)]);
        }
        if let Some(ask) = &self.ask {
            for text in ask.ends.iter().copied().chain(self.golds.iter().map(String::as_str)) {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
        let mut key = hex(&hash.finalize());
        key.truncate(16);
        key
    }
}
