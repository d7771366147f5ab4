//! Which samples a step sees. In: a set and the step; out: encoded samples. Invariant: a draw depends on (seed, set,
//! how many rows were drawn before) only, so resuming needs nothing but the step.

use crate::method::Given;
use crate::options::{Order, Templates, TrainOptions};
use crate::sets::Sets;
use eraser_data::{
    Beginning, Benign, Noise, NoiseKind, PromptTemplate, Record, Sample, SetName, Surroundings, end_of_answer, stream,
};
use eraser_model::{Error, Model, Result, Tokenizer, error::PathContext};
use rand::{RngExt as _, seq::SliceRandom as _};
use std::collections::HashMap;

/// One set of a run, under every template it is to be seen under. What does not change from draw to draw is tokenised
/// once, and never beyond the longest sample.
pub struct Feed<'a> {
    set: SetName,
    tokenizer: &'a Tokenizer,
    records: &'a [Record],
    templates: &'a [PromptTemplate],
    noise: Option<Surroundings>,
    /// What of an answer is given before the supervised tokens.
    given: Given,
    /// For each record, the harmful answers to its question, if they are given before the row's own.
    openings: Vec<Vec<Beginning>>,
    /// Samples come with what they are when asked plainly.
    anchored: bool,
    /// The prompt of each row, without noise.
    prompts: Vec<Beginning>,
    /// The answer of each record, or those that answers are drawn from.
    answers: Vec<Beginning>,
    /// Answers are drawn, and are not the records' own.
    unrelated: bool,
    /// Answers that are preferred to the rows' own, and of each record those to its question.
    preferred: Vec<Beginning>,
    to_question: Vec<Vec<usize>>,
    /// The token that ends an answer.
    end: u32,
    /// Most tokens of a sample.
    limit: usize,
    options: &'a TrainOptions,
    /// The permutation of the current epoch, with its number.
    epoch: Option<(usize, Vec<usize>)>,
}

/// A sample and its place in the set.
pub struct Drawn {
    /// Row, below [`Feed::rows`].
    pub row: usize,
    /// The sample.
    pub sample: Sample,
    /// Tokens of it were cut off.
    pub cut: bool,
    /// The row without noise and with nothing given, if a term compares with it.
    pub anchor: Option<Sample>,
    /// The row with the answer that is preferred to its own, where there are such answers.
    pub preferred: Option<Sample>,
}

/// Records that do not fit into the longest sample, by their place in the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlong {
    /// Records that are cut under some template.
    pub cut: Vec<usize>,
    /// Rows (records times templates) of which no answer token is left.
    pub empty: usize,
}

/// What a feed is made of.
pub struct Source<'a> {
    /// The set.
    pub set: SetName,
    /// Its records.
    pub records: &'a [Record],
    /// What is put around the questions, anew each time one is drawn.
    pub noise: Option<Surroundings>,
    /// What of an answer is given before the supervised tokens, drawn anew each time.
    pub given: Given,
    /// The harmful answers that [`Given::Harmful`] takes openings of.
    pub harmful: &'a [Record],
    /// Samples come with what they are when asked plainly.
    pub anchored: bool,
    /// Records whose answers are drawn in place of the set's own, anew each time.
    pub answers: Option<&'a [Record]>,
    /// Records whose answers are preferred to the set's own: that to the same question, or else one that is drawn anew
    /// each time.
    pub preferred: Option<&'a [Record]>,
}

impl<'a> Feed<'a> {
    /// A feed over a set.
    ///
    /// # Errors
    /// An empty set, by name; a question that a template cannot render.
    pub fn new(
        source: Source<'a>,
        model: &'a Model,
        templates: &'a [PromptTemplate],
        options: &'a TrainOptions,
    ) -> Result<Self> {
        let Source { set, records, noise, given, harmful, anchored, answers, preferred } = source;
        if records.is_empty() {
            let name = set.name();
            return Err(Error::request(format!("the {name} set is empty")).hint("every set needs at least one record"));
        }
        if answers.is_some_and(<[Record]>::is_empty) {
            return Err(Error::request("the help set is empty").hint("unrelated answers are drawn from its answers"));
        }
        if preferred.is_some_and(<[Record]>::is_empty) {
            return Err(Error::request("the align set is empty").hint("its answers are the preferred ones"));
        }
        let tokenizer = &model.tokenizer;
        let limit = limit(model, options);
        let beginning = |text: &str| Beginning::of(text, tokenizer, limit);
        let mut prompts = Vec::with_capacity(records.len() * templates.len());
        for template in templates {
            for record in records {
                prompts.push(if record.is_text() {
                    // What a tokenizer puts before a text by default is given; no template.
                    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
                    Beginning { ids: bos.into_iter().collect(), cut: false }
                } else {
                    template.encode(&template.render(&record.input)?, tokenizer, limit)?
                });
            }
        }
        let harmful = if let Given::Harmful(_) = given { harmful } else { &[] };
        let by_question = by_question(harmful);
        let openings = records.iter().map(|record| {
            let answers = by_question.get(record.input.as_str()).into_iter().flatten();
            let opening = |&at: &usize| Beginning::of(&harmful[at].output, tokenizer, limit.min(given.most()));
            answers.map(opening).collect::<Result<Vec<_>>>()
        });
        let openings = openings.collect::<Result<_>>()?;
        let preferred = preferred.unwrap_or_default();
        let by_question = self::by_question(preferred);
        let to_question =
            records.iter().map(|record| by_question.get(record.input.as_str()).cloned().unwrap_or_default());
        Ok(Self {
            set,
            tokenizer,
            records,
            templates,
            noise,
            given,
            openings,
            anchored,
            prompts,
            answers: answers.unwrap_or(records).iter().map(|r| beginning(&r.output)).collect::<Result<_>>()?,
            unrelated: answers.is_some(),
            preferred: preferred.iter().map(|r| beginning(&r.output)).collect::<Result<_>>()?,
            to_question: to_question.collect(),
            end: end_of_answer(tokenizer)?,
            limit,
            options,
            epoch: None,
        })
    }

    /// Whether a row is the same every time that it is drawn.
    pub fn repeats(&self) -> bool {
        self.noise.is_none() && !self.unrelated && self.given == Given::Nothing
    }

    /// Records of the set.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Rows of one epoch: records times templates.
    pub fn rows(&self) -> usize {
        self.prompts.len()
    }

    /// Most tokens that are drawn anew for a sample: its noise, and what of a harmful answer is given.
    pub fn drawn(&self) -> usize {
        let given = if let Given::Harmful(most) = self.given { most } else { 0 };
        self.noise.as_ref().map_or(0, Surroundings::most) + given
    }

    /// The records that do not fit, with `drawn` tokens more in each prompt.
    pub fn overlong(&self, drawn: usize) -> Overlong {
        let mut found = Overlong::default();
        let n = self.records.len();
        for (row, prompt) in self.prompts.iter().enumerate() {
            // A text has no end that could be lost.
            if self.records[row % n].is_text() {
                continue;
            }
            // A drawn answer is a different one each time.
            let answer = if self.unrelated { 0 } else { self.answers[row % n].ids.len() };
            let cut = prompt.cut || (!self.unrelated && self.answers[row % n].cut);
            if cut || prompt.ids.len() + drawn + answer + 1 > self.limit {
                found.cut.push(row % n);
            }
            found.empty += usize::from(prompt.ids.len() >= self.limit);
        }
        found.cut.sort_unstable();
        found.cut.dedup();
        found
    }

    /// The samples at places `from .. from + count` of the endless sequence of draws.
    ///
    /// # Errors
    /// A template that cannot render a question.
    pub fn draw(&mut self, from: usize, count: usize) -> Result<Vec<Drawn>> {
        (from..from + count).map(|at| self.draw_one(at)).collect()
    }

    fn draw_one(&mut self, at: usize) -> Result<Drawn> {
        let (epoch, place) = (at / self.rows(), at % self.rows());
        let row = match self.options.order {
            Order::File => place,
            Order::Shuffled => self.permutation(epoch)[place],
        };
        let (record, template) = (row % self.records.len(), row / self.records.len());
        let known = &self.prompts[row];
        // A prompt that is too long already only gets longer by noise.
        let text = self.records[record].is_text();
        let mut form = false;
        let noisy = match self.noise.as_ref().filter(|_| !known.cut && !text) {
            None => None,
            Some(noise) => {
                let (mut rng, mut choice) = (self.stream("noise", at), self.stream("noise-kind", at));
                let question = &self.records[record].input;
                match noise.apply(question, self.tokenizer, &mut rng, &mut choice)? {
                    None => None,
                    Some(surrounded) => {
                        form = surrounded.form;
                        let template = &self.templates[template];
                        let prompt = template.render_after(&surrounded.history, &surrounded.question)?;
                        Some(template.encode(&prompt, self.tokenizer, self.limit)?)
                    }
                }
            }
        };
        let answer =
            if self.unrelated { self.stream("answer", at).random_range(0..self.answers.len()) } else { record };
        let (prompt, answer) = (noisy.as_ref().unwrap_or(known), &self.answers[answer]);
        if text {
            let ids: Vec<u32> = known.ids.iter().chain(&answer.ids).copied().take(self.limit).collect();
            let sample = Sample { ids, prompt_len: known.ids.len() };
            let anchor = self.anchored.then(|| sample.clone());
            return Ok(Drawn { row, sample, cut: false, anchor, preferred: None });
        }
        let anchor = self.anchored.then(|| Sample::new(known, answer, self.end, self.limit).0);
        let (sample, cut) = match self.opening(record, answer, at) {
            None => Sample::new(prompt, answer, self.end, self.limit),
            Some((given, answer)) => {
                let ids = prompt.ids.iter().chain(given).copied().take(self.limit).collect();
                let prompt = Beginning { ids, cut: prompt.cut };
                Sample::new(&prompt, &answer, self.end, self.limit)
            }
        };
        // A benign request for a form has another answer than the plain one: what is kept is what the base model says to
        // this very prompt. Of a harmful request the plain refusal is kept, whatever form is asked for.
        let anchor = if form && self.set == SetName::Retain { anchor.map(|_| sample.clone()) } else { anchor };
        let preferred = self.preferred(record, at).map(|answer| Sample::new(prompt, answer, self.end, self.limit).0);
        Ok(Drawn { row, sample, cut, anchor, preferred })
    }

    /// The answer that is preferred to the record's own in the draw at `at`, if there are such answers.
    fn preferred(&self, record: usize, at: usize) -> Option<&Beginning> {
        if self.preferred.is_empty() {
            return None;
        }
        let mut rng = self.stream("preferred", at);
        let place = match self.to_question[record].as_slice() {
            [] => rng.random_range(0..self.preferred.len()),
            own => own[rng.random_range(0..own.len())],
        };
        self.preferred.get(place)
    }

    /// The tokens that are given before the supervised ones in the draw at `at`, and the answer that is left; None: all
    /// of `answer` is supervised.
    fn opening<'b>(&'b self, record: usize, answer: &'b Beginning, at: usize) -> Option<(&'b [u32], Beginning)> {
        let mut rng = self.stream("given", at);
        let most = self.given.most();
        if most == 0 || rng.random::<bool>() {
            return None;
        }
        let count = rng.random_range(1..=most);
        match self.given {
            Given::Nothing => None,
            Given::Own(_) => {
                let (given, rest) = answer.ids.split_at(count.min(answer.ids.len().saturating_sub(1)));
                Some((given, Beginning { ids: rest.to_vec(), cut: answer.cut }))
            }
            Given::Harmful(_) => {
                let openings = &self.openings[record];
                let opening = openings.get(rng.random_range(0..openings.len().max(1)))?;
                Some((&opening.ids[..count.min(opening.ids.len())], answer.clone()))
            }
        }
    }

    fn permutation(&mut self, epoch: usize) -> &[usize] {
        let known = self.epoch.as_ref().is_some_and(|(n, _)| *n == epoch);
        if !known {
            let mut order: Vec<usize> = (0..self.rows()).collect();
            order.shuffle(&mut self.stream("order", epoch));
            self.epoch = Some((epoch, order));
        }
        self.epoch.as_ref().map_or(&[], |(_, order)| order)
    }

    /// The random stream of this set for one purpose.
    fn stream(&self, purpose: &str, index: usize) -> impl rand::Rng + use<> {
        stream(self.options.seed, &format!("{purpose}.{}", self.set.name()), &[index as u64])
    }
}

/// The places of the records with each question.
fn by_question(records: &[Record]) -> HashMap<&str, Vec<usize>> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, record) in records.iter().enumerate() {
        places.entry(&record.input).or_default().push(at);
    }
    places
}

/// Most tokens of a sample: those asked for, or those the model can take.
pub fn limit(model: &Model, options: &TrainOptions) -> usize {
    options.max_length.min(model.decoder.max_positions())
}

/// What the options put around questions. Benign texts are those of the retain set, if there is one, as they are the
/// most varied.
pub fn surroundings(sets: &Sets, options: &TrainOptions) -> Surroundings {
    let noise = Noise { before: options.noise_before, after: options.noise_after };
    let benign = [SetName::Retain, SetName::Help].map(|set| sets.rows(set)).into_iter().find(|rows| !rows.is_empty());
    let benign = match options.noise_kind {
        NoiseKind::Tokens => Benign::default(),
        _ => Benign::new(benign.unwrap_or_default()),
    };
    Surroundings { noise, kind: options.noise_kind, share: options.noise_share, benign }
}

/// The prompt templates that `options` ask for.
///
/// # Errors
/// The model's own template is asked for and it has none; a template file that cannot be read.
pub fn templates(model: &Model, options: &TrainOptions) -> Result<Vec<PromptTemplate>> {
    let own = || {
        model.template.clone().map(PromptTemplate::Chat).ok_or_else(|| {
            Error::request(format!("{}: the model has no chat template", model.name))
                .hint("give one with --chat-template FILE, or train with --templates plain")
        })
    };
    Ok(match &options.templates {
        Templates::Model => vec![own()?],
        Templates::Plain => vec![PromptTemplate::plain()],
        Templates::Both => vec![own()?, PromptTemplate::plain()],
        Templates::File(path) => {
            let text = std::fs::read_to_string(path).at(path)?;
            vec![PromptTemplate::text(text).map_err(|e| e.context(path.display()))?]
        }
    })
}
