//! Which samples a step sees. In: a set and the step; out: encoded samples. Invariant: a draw depends on (seed, set, how
//! many rows were drawn before) only, so resuming needs nothing but the step.

use crate::{Order, Templates, TrainOptions};
use eraser_data::{Noise, PromptTemplate, Record, Sample, encode, stream};
use eraser_model::{Error, Model, Result, error::PathContext};
use rand::{RngExt as _, seq::SliceRandom as _};

/// One set of a run, under every template it is to be seen under.
pub struct Feed<'a> {
    name: &'static str,
    model: &'a Model,
    records: &'a [Record],
    templates: &'a [PromptTemplate],
    noise: Option<Noise>,
    /// Where answers are drawn from in place of the records' own.
    answers: Option<&'a [Record]>,
    options: &'a TrainOptions,
    /// The permutation of the current pass, with its number.
    pass: Option<(usize, Vec<usize>)>,
}

/// A sample and its place in the set: what a cache of reference states is keyed by.
pub struct Drawn {
    /// Row, below [`Feed::rows`].
    pub row: usize,
    /// The sample.
    pub sample: Sample,
}

impl<'a> Feed<'a> {
    /// A feed over `records`; `noise` wraps every question anew each time it is drawn.
    ///
    /// # Errors
    /// An empty set, by name.
    pub fn new(
        name: &'static str,
        model: &'a Model,
        records: &'a [Record],
        templates: &'a [PromptTemplate],
        noise: Option<Noise>,
        options: &'a TrainOptions,
    ) -> Result<Self> {
        if records.is_empty() {
            return Err(Error::request(format!("the {name} set is empty")).hint("every set needs at least one record"));
        }
        Ok(Self { name, model, records, templates, noise, answers: None, options, pass: None })
    }

    /// The same feed with every answer drawn from those of `records`, anew each time.
    ///
    /// # Errors
    /// There are none.
    pub fn with_answers_of(self, records: &'a [Record]) -> Result<Self> {
        if records.is_empty() {
            return Err(Error::request("the help set is empty").hint("unrelated answers are drawn from its answers"));
        }
        Ok(Self { answers: Some(records), ..self })
    }

    /// Whether a row is the same each time it is drawn.
    pub fn repeats(&self) -> bool {
        self.noise.is_none() && self.answers.is_none()
    }

    /// Rows of one pass: records times templates.
    pub fn rows(&self) -> usize {
        self.records.len() * self.templates.len()
    }

    /// The samples at places `from .. from + count` of the endless sequence of draws.
    pub fn draw(&mut self, from: usize, count: usize) -> Result<Vec<Drawn>> {
        (from..from + count).map(|at| self.draw_one(at)).collect()
    }

    fn draw_one(&mut self, at: usize) -> Result<Drawn> {
        let (pass, place) = (at / self.rows(), at % self.rows());
        let row = match self.options.order {
            Order::File => place,
            Order::Shuffled => self.permutation(pass)[place],
        };
        let record = &self.records[row % self.records.len()];
        let template = &self.templates[row / self.records.len()];
        let question = match self.noise {
            None => record.input.clone(),
            Some(noise) => {
                let mut rng = stream(self.options.seed, &format!("noise.{}", self.name), &[at as u64]);
                noise.apply(&record.input, &self.model.tokenizer, &mut rng)?
            }
        };
        let prompt = template.render(&question)?;
        let answer = match self.answers {
            None => &record.output,
            Some(answers) => {
                let mut rng = stream(self.options.seed, &format!("answer.{}", self.name), &[at as u64]);
                &answers[rng.random_range(0..answers.len())].output
            }
        };
        let sample = encode(&prompt, answer, &self.model.tokenizer, self.options.max_length)?;
        Ok(Drawn { row, sample })
    }

    fn permutation(&mut self, pass: usize) -> &[usize] {
        let rows = self.rows();
        let known = self.pass.as_ref().is_some_and(|(n, _)| *n == pass);
        if !known {
            let mut order: Vec<usize> = (0..rows).collect();
            order.shuffle(&mut stream(self.options.seed, &format!("order.{}", self.name), &[pass as u64]));
            self.pass = Some((pass, order));
        }
        self.pass.as_ref().map_or(&[], |(_, order)| order)
    }
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
            if text.matches("{}").count() != 1 {
                return Err(Error::request(format!("{}: not exactly one {{}} in the template", path.display()))
                    .hint("put {} where the question goes"));
            }
            vec![PromptTemplate::Text(text)]
        }
    })
}
