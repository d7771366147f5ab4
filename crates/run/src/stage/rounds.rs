//! Training in rounds. In: a model, sets and options; out: the adapter of the last training, and under `train/rounds/`
//! that of each before it, with what it still said. Invariant: with `rounds = 0` this is one training; no text of a
//! jailbreak is used.
//!
//! A loss on answers that were written down once makes those words unlikely, and a model has others. So between two
//! trainings the adapted model is asked again: plainly, under the prompt noise of the training, and with the first
//! words of a known answer given. What it says that is no refusal and reads as language of the base model joins the
//! harm set, and training goes on from the adapter as it is.

use crate::plan::ModelPlan;
use crate::watch::{self, Watch};
use crate::workers;
use eraser_data::files::write_atomic;
use eraser_data::refusal::RefusalList;
use eraser_data::{Beginning, Record, Sampling, Surroundings, read_set, stream, write_set};
use eraser_eval::degenerate::degenerate;
use eraser_model::error::PathContext as _;
use eraser_model::score::{ScoreRequest, score};
use eraser_model::{Adapter, Error, ErrorKind, Generation, Model, Result, generate_each};
use eraser_train::feed;
use eraser_train::{Alone, SetName, Sets, TrainOptions, TrainSummary, Training};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use serde::Serialize;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

/// Most tokens of a known answer that are given.
const OPENING: usize = 10;
/// Answers at a time.
const BATCH: usize = 16;
/// An answer that costs the base model more, in nats per token, is not what a model says but what unlearning has
/// broken.
const COHERENT: f64 = 4.0;

/// What is to be trained, in rounds.
pub(crate) struct Rounds<'a> {
    pub(crate) model: &'a Model,
    pub(crate) sets: &'a Sets,
    pub(crate) options: &'a TrainOptions,
    /// The run's directory, which gets the last adapter.
    pub(crate) dir: &'a Path,
    /// The file of the frozen model's states.
    pub(crate) states: &'a Path,
    pub(crate) name: &'a str,
    /// What other ranks load the model by; None: they cannot, since it is not as it was loaded.
    pub(crate) plan: Option<&'a ModelPlan>,
}

/// A prompt of a round.
struct Asked<'a> {
    question: &'a str,
    /// How: plain, noise or opening.
    way: &'static str,
    prompt: Vec<u32>,
    /// Tokens of the answer that are given.
    opening: Vec<u32>,
}

/// What became of the answers of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Tally {
    answers: usize,
    refused: usize,
    degenerate: usize,
    /// Not what the base model would say.
    incoherent: usize,
    /// In the harm set already.
    known: usize,
    added: usize,
}

/// Whether `dir` holds a training that a resumed one goes on from, in whatever round.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn resumable(dir: &Path) -> Result<bool> {
    Ok(eraser_train::resumable(dir)? || (dir.join("train/rounds").exists() && !dir.join("adapter").exists()))
}

impl Rounds<'_> {
    /// Trains; the summary is that of the last training.
    pub(crate) fn train(&self, resume: bool, watch: &mut dyn Watch) -> Result<TrainSummary> {
        let mut sets = self.sets.clone();
        let mut options = self.options.clone();
        for round in 1..=self.options.rounds {
            let dir = self.dir.join("train/rounds").join(round.to_string());
            self.train_once(&sets, &options, &dir, resume, watch)?;
            let found = dir.join("harm.jsonl");
            let said = if resume && found.exists() {
                read_set(&found)?
            } else {
                let adapter = Adapter::load(&dir.join("adapter"), &self.model.config, self.model.decoder.device())?;
                let (said, tally) = self.attack(&adapter, &sets, round, watch)?;
                write_set(&found, &said)?;
                write_json(&dir.join("tally.json"), &tally)?;
                said
            };
            let harm = [sets.rows(SetName::Harm), &said].concat();
            watch.note(&format!(
                "{}: round {round}: {} new answers that do not refuse, the harm set has {} rows now",
                self.name,
                said.len(),
                harm.len()
            ));
            sets.insert(SetName::Harm, harm);
            options.init_adapter = Some(dir.join("adapter"));
            options.seed = self.options.seed.wrapping_add(round as u64);
        }
        self.train_once(&sets, &options, self.dir, resume, watch)
    }

    fn train_once(
        &self,
        sets: &Sets,
        options: &TrainOptions,
        dir: &Path,
        resume: bool,
        watch: &mut dyn Watch,
    ) -> Result<TrainSummary> {
        std::fs::create_dir_all(dir).writing(dir)?;
        let mut observer = watch::Training { name: self.name, watch };
        // With nothing to go on from, a resumed training is a new one.
        let (model, states) = (self.model, self.states);
        let training = Training { model, sets, options, dir, states, resume, group: &Alone };
        workers::train(self.plan, training, &mut observer)
    }

    /// Asks the model with `adapter` what it still says, and keeps what is no refusal.
    fn attack(
        &self,
        adapter: &Adapter,
        sets: &Sets,
        round: usize,
        watch: &mut dyn Watch,
    ) -> Result<(Vec<Record>, Tally)> {
        let asked = self.prompts(round)?;
        let said = self.generate(adapter, &asked, round, watch)?;
        let known: HashSet<(&str, &str)> =
            sets.rows(SetName::Harm).iter().map(|r| (r.input.as_str(), r.output.as_str())).collect();
        let mut tally = Tally { answers: asked.len(), ..Tally::default() };
        let mut kept: Vec<(&Asked<'_>, Vec<u32>, String)> = Vec::new();
        let mut texts = HashSet::new();
        for (asked, Generation { tokens, .. }) in asked.iter().zip(said) {
            let tokenizer = &self.model.tokenizer;
            let own = tokenizer.decode(&tokens, true)?;
            let whole: Vec<u32> = asked.opening.iter().chain(&tokens).copied().collect();
            let text = tokenizer.decode(&whole, true)?.trim().to_owned();
            if RefusalList::Gcg29.refuses(&own) {
                tally.refused += 1;
            } else if degenerate(&own).is_some() {
                tally.degenerate += 1;
            } else if known.contains(&(asked.question, text.as_str())) || !texts.insert((asked.question, text.clone()))
            {
                tally.known += 1;
            } else {
                kept.push((asked, tokens, text));
            }
        }
        let requests: Vec<ScoreRequest> = kept.iter().map(|(asked, tokens, _)| request(asked, tokens)).collect();
        let scores = score(&self.model.decoder, None, &requests, &mut |_| ControlFlow::Continue(()))?;
        let mut records = Vec::new();
        for ((asked, _, output), logprobs) in kept.into_iter().zip(scores.unwrap_or_default()) {
            let nll = -logprobs.iter().map(|&x| f64::from(x)).sum::<f64>() / logprobs.len().max(1) as f64;
            if nll > COHERENT {
                tally.incoherent += 1;
                continue;
            }
            tally.added += 1;
            let extra = [("round", json!(round)), ("asked", json!(asked.way))];
            let extra = extra.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            records.push(Record { input: asked.question.to_owned(), output, extra, place: String::new() });
        }
        Ok((records, tally))
    }

    /// The prompts of a round: questions of the harm set as it was given, drawn for this round, each asked in three
    /// ways.
    fn prompts(&self, round: usize) -> Result<Vec<Asked<'_>>> {
        let TrainOptions { seed, round_questions, .. } = *self.options;
        let mut seen = HashSet::new();
        let mut rows: Vec<&Record> = self.sets.rows(SetName::Harm).iter().filter(|r| seen.insert(&r.input)).collect();
        rows.shuffle(&mut stream(seed, "round.questions", &[round as u64]));
        rows.truncate(round_questions);
        let templates = feed::templates(self.model, self.options)?;
        let [template, ..] = templates.as_slice() else {
            return Err(Error::failed("training has no prompt template"));
        };
        let noise = Surroundings { share: 1.0, ..feed::surroundings(self.sets, self.options) };
        let most = feed::limit(self.model, self.options);
        let tokenizer = &self.model.tokenizer;
        let ids = |prompt: &str| template.encode(prompt, tokenizer, most).map(|beginning| beginning.ids);
        let mut asked = Vec::with_capacity(3 * rows.len());
        for (i, row) in rows.into_iter().enumerate() {
            let question = row.input.as_str();
            let place = [round as u64, i as u64];
            let plain = ids(&template.render(question)?)?;
            let noisy = {
                let (mut rng, mut kind) = (stream(seed, "round.noise", &place), stream(seed, "round.kind", &place));
                let around = noise.apply(question, tokenizer, &mut rng, &mut kind)?.unwrap_or_default();
                ids(&template.render_after(&around.history, &around.question)?)?
            };
            let mut opening = Beginning::of(&row.output, tokenizer, OPENING)?.ids;
            opening.truncate(stream(seed, "round.opening", &place).random_range(1..=OPENING));
            asked.push(Asked { question, way: "plain", prompt: plain.clone(), opening: Vec::new() });
            asked.push(Asked { question, way: "noise", prompt: noisy, opening: Vec::new() });
            asked.push(Asked { question, way: "opening", prompt: plain, opening });
        }
        let room = self.model.decoder.max_positions();
        asked.retain(|asked| asked.prompt.len() + asked.opening.len() < room);
        Ok(asked)
    }

    fn generate(
        &self,
        adapter: &Adapter,
        asked: &[Asked<'_>],
        round: usize,
        watch: &mut dyn Watch,
    ) -> Result<Vec<Generation>> {
        let prompts: Vec<Vec<u32>> = asked.iter().map(|a| [a.prompt.as_slice(), &a.opening].concat()).collect();
        let longest = prompts.iter().map(Vec::len).max().unwrap_or_default();
        let room = self.model.decoder.max_positions().saturating_sub(longest);
        // Drawn, and not the likeliest answer: each round is to see others.
        let sampling = Sampling {
            temperature: 0.7,
            top_p: 0.95,
            seed: self.options.seed.wrapping_add(round as u64),
            ..Sampling::greedy(self.options.round_tokens)
        };
        let options = sampling.generation(self.model.tokenizer.stops(), room);
        let what = format!("{}: asking, round {round}", self.name);
        let total = prompts.len();
        let (done, stopped) = (Cell::new(0), Cell::new(false));
        let watch = RefCell::new(watch);
        let mut on_token = |_: usize, _: u32| {
            let mut watch = watch.borrow_mut();
            watch.tokens(1);
            stopped.set(!watch.progress(&what, done.get(), total));
            if stopped.get() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut on_done = |_: usize, _: &Generation| {
            done.update(|n| n + 1);
            stopped.set(!watch.borrow_mut().progress(&what, done.get(), total));
            if stopped.get() { Err(interrupted()) } else { Ok(()) }
        };
        let decoder = &self.model.decoder;
        let said =
            generate_each(decoder, Some(adapter), &prompts, &|_| options.clone(), BATCH, &mut on_token, &mut on_done);
        watch.borrow_mut().progress_end();
        if stopped.get() { Err(interrupted()) } else { said }
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "stopped between two trainings")
        .hint("the run was saved: go on with the same command and --resume")
}

/// What of an answer the model said itself, after its prompt.
fn request(asked: &Asked<'_>, tokens: &[u32]) -> ScoreRequest {
    ScoreRequest { ids: [asked.prompt.as_slice(), &asked.opening, tokens].concat(), scored: tokens.len() }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::failed)?;
    write_atomic(path, text.as_bytes())
}
