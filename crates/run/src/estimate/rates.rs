//! How fast this machine is with a model, measured. In: a loaded model and what it would work on; out: seconds of an
//! answer, of a scored token, of a training step. Invariant: nothing is extrapolated from another machine or model;
//! each measurement ends after a bounded time, but for the step that is under way.

use super::site::Site;
use crate::failure::Outcome;
use crate::plan::{RunPlan, Variant};
use eraser_eval::work;
use eraser_model::score::{ScoreRequest, computed_tokens, score};
use eraser_model::{Error, ErrorKind, GenerateOptions, Message, Model, Result, generate};
use eraser_train::{Control, Loss, Observer, StepMetrics, Term, TrainOptions};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// Seconds for one measurement of answers.
const ANSWERING: f64 = 5.0;
/// Seconds for one measurement of training.
const TRAINING: f64 = 6.0;
/// Training steps that are measured at most.
const STEPS: usize = 4;
/// Variants whose steps are measured; others take as long for each row.
const VARIANTS: usize = 3;
/// Rounds of known answers of which some are scored to measure, and how many answers of each.
const ROUNDS: usize = 6;
const SCORED: usize = 16;
/// Rounds of known answers whose tokens are counted.
const COUNTED: usize = 40;
/// The time of a training step against that of reading its tokens once: forward, backward, the frozen model.
const BACKWARD: f64 = 4.0;

/// Answers of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Speed {
    /// Seconds for an answer, among others.
    pub(super) seconds: f64,
    /// New tokens of an answer.
    pub(super) tokens: f64,
    /// Time was up before the answers ended: they are longer.
    pub(super) cut: bool,
    /// Most new tokens, under which this was measured.
    pub(super) limit: usize,
}

/// Training steps of one variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepSpeed {
    /// Seconds of a step while what the frozen model says is not known yet.
    pub(super) first: f64,
    /// Seconds of one later.
    pub(super) later: f64,
    /// Tokens of a step.
    pub(super) tokens: f64,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    /// Seconds to load the model.
    pub(super) load: f64,
    /// An answer of preparation.
    pub(super) prepare: Option<Speed>,
    /// An answer of the evaluation.
    pub(super) eval: Option<Speed>,
    /// Seconds to score all known answers once; None where there are none.
    pub(super) scoring: Option<f64>,
    /// A step of each variant, in their order.
    pub(super) steps: Vec<StepSpeed>,
    /// Largest resident set so far, MiB; None where less than a whole step was measured.
    pub(super) peak_mb: Option<f64>,
    /// Seconds that measuring took.
    pub(super) took: f64,
}

/// Measures what `plan` needs.
pub(super) fn measure(plan: &RunPlan, site: &Site, model: &Model, load: f64) -> Outcome<Rates> {
    let start = Instant::now();
    let mut rates = Rates { load, ..Rates::default() };
    if let Some(prepare) = &plan.prepare {
        let o = &prepare.options;
        let prompts: Vec<(String, String)> = site.prompts.iter().map(|p| (p.clone(), String::new())).collect();
        rates.prepare = answers(model, &prompts, o.max_new_tokens, o.batch)?;
    }
    let asked: Vec<(String, String)> = work::work(&site.asked).into_iter().flat_map(|w| w.prompts).collect();
    rates.eval = answers(model, &asked, plan.eval.options.max_new_tokens, plan.eval.options.batch)?;
    let known = work::scored(&site.asked);
    let per_token = scoring(model, &known)?;
    if let Some(per_token) = per_token {
        rates.scoring = Some(per_token * computed(model, &known)?);
    }
    let reading = match per_token {
        Some(reading) => reading,
        None => scoring(model, std::slice::from_ref(&asked))?.unwrap_or_default(),
    };
    let mut whole = true;
    for variant in plan.variants.iter().take(VARIANTS) {
        let (speed, all) = steps(model, site, variant, reading)?;
        whole &= all;
        rates.steps.push(speed);
    }
    for variant in plan.variants.iter().skip(VARIANTS) {
        let per_row = |v: &Variant| (v.train.micro_batch * v.train.grad_accum * terms(v)) as f64;
        if let Some((speed, known)) = rates.steps.first().copied().zip(plan.variants.first()) {
            let factor = per_row(variant) / per_row(known).max(1.0);
            rates.steps.push(scaled(speed, factor));
        }
    }
    rates.peak_mb = eraser_ops::threads::peak_rss_mb().filter(|_| whole);
    rates.took = start.elapsed().as_secs_f64();
    Ok(rates)
}

/// Rows that a sample of each term is: a term of pairs runs both answers, one under attack once for each step of it too.
pub(super) fn terms(variant: &Variant) -> usize {
    let rows = |term: &Term| match term.loss {
        Loss::Preference(_) => 2,
        Loss::Latent(attack) => 2 * (attack.steps + 1),
        _ => 1,
    };
    variant.train.terms().iter().filter(|term| variant.reads(term.set)).map(rows).sum()
}

fn scaled(speed: StepSpeed, factor: f64) -> StepSpeed {
    StepSpeed { first: speed.first * factor, later: speed.later * factor, tokens: speed.tokens * factor }
}

/// Some of them, evenly spaced.
fn spread<T: Clone>(all: &[T], n: usize) -> Vec<T> {
    let n = n.min(all.len());
    (0..n).map(|i| all[i * all.len() / n].clone()).collect()
}

/// Generates answers to a batch of prompts, until they have ended or time is up. None of no prompts.
fn answers(model: &Model, prompts: &[(String, String)], limit: usize, batch: usize) -> Result<Option<Speed>> {
    let most = model.decoder.max_positions();
    let mut encoded = Vec::new();
    for (user, opening) in spread(prompts, batch) {
        let prompt = model.chat_template()?.render(&[Message::user(user)], true)?;
        let ids = [model.tokenizer.encode(&prompt)?, model.tokenizer.encode(&opening)?].concat();
        if !ids.is_empty() && ids.len() < most {
            encoded.push(ids);
        }
    }
    if encoded.is_empty() {
        return Ok(None);
    }
    let options = GenerateOptions::greedy(limit, model.tokenizer.stops());
    let (start, mut cut) = (Instant::now(), false);
    // A prompt is read once, however long its answer is: until each has its first token, time is the prompts'.
    let (mut begun, mut so_far, mut read) = (vec![false; encoded.len()], 0_usize, None);
    let mut on_token = |which: usize, _: u32| {
        so_far += 1;
        begun[which] = true;
        if read.is_none() && begun.iter().all(|begun| *begun) {
            read = Some((start.elapsed().as_secs_f64(), so_far));
        }
        cut |= read.is_some_and(|(read, _)| start.elapsed().as_secs_f64() - read > ANSWERING);
        if cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let said = generate(&model.decoder, None, &encoded, &options, batch, &mut on_token)?;
    let seconds = start.elapsed().as_secs_f64();
    let tokens: usize = said.iter().map(|s| s.tokens.len() + usize::from(s.stopped)).sum();
    let n = encoded.len() as f64;
    let mean = tokens as f64 / n;
    // Those that time cut off go on to the limit, at worst.
    let ended = said.iter().filter(|s| s.stopped).count() as f64;
    let full = if cut { (ended * mean + (n - ended) * limit as f64) / n } else { mean };
    let (read, first) = read.unwrap_or((seconds, tokens));
    let later = tokens.saturating_sub(first) as f64;
    let per_token = if later > 0.0 { (seconds - read) / later } else { 0.0 };
    Ok(Some(Speed { seconds: read / n + per_token * (full - first as f64 / n).max(0.0), tokens: full, cut, limit }))
}

/// The sequences of some turns and answers that fit into the model.
fn requests(model: &Model, turns: &[(String, String)]) -> Result<Vec<ScoreRequest>> {
    let mut requests = Vec::new();
    for (user, answer) in turns {
        let prompt = model.chat_template()?.render(&[Message::user(user)], true)?;
        let (prompt, answer) = (model.tokenizer.encode(&prompt)?, model.tokenizer.encode(answer)?);
        let scored = answer.len().max(1);
        let ids = [prompt, answer].concat();
        if ids.len() > scored && ids.len() <= model.decoder.max_positions() {
            requests.push(ScoreRequest { ids, scored });
        }
    }
    Ok(requests)
}

/// Seconds for a token that is read and scored: of the rounds, some answers of each, until time is up.
fn scoring(model: &Model, rounds: &[Vec<(String, String)>]) -> Result<Option<f64>> {
    let read = |part: &[ScoreRequest]| score(&model.decoder, None, part, &mut |_| ControlFlow::Continue(()));
    let (mut seconds, mut tokens) = (0.0, 0);
    for round in spread(rounds, ROUNDS) {
        let part = requests(model, &round[..round.len().min(SCORED)])?;
        let Some(first) = part.first() else { continue };
        if tokens == 0 {
            // The first one pays for what is made once, such as weights in another order.
            read(std::slice::from_ref(first))?;
        }
        let start = Instant::now();
        read(&part)?;
        seconds += start.elapsed().as_secs_f64();
        tokens += computed_tokens(&part);
        if seconds > ANSWERING {
            break;
        }
    }
    Ok((tokens > 0).then(|| seconds / tokens as f64))
}

/// Tokens that scoring all rounds runs through the network, from some of them.
fn computed(model: &Model, rounds: &[Vec<(String, String)>]) -> Result<f64> {
    let some = spread(rounds, COUNTED);
    let mut tokens = 0;
    for round in &some {
        tokens += computed_tokens(&requests(model, round)?);
    }
    let answers = |rounds: &[Vec<(String, String)>]| rounds.iter().map(Vec::len).sum::<usize>() as f64;
    Ok(tokens as f64 * answers(rounds) / answers(&some).max(1.0))
}

/// Trains for a few steps, twice, so that the second time what the frozen model says is known. True where whole steps
/// were measured, and not a part of each.
fn steps(model: &Model, site: &Site, variant: &Variant, reading: f64) -> Outcome<(StepSpeed, bool)> {
    let sets = site.sets(variant)?;
    let own = variant.train.micro_batch * variant.train.grad_accum;
    let guess = reading * BACKWARD * (own * terms(variant)) as f64 * mean_length(model, &sets, variant)?;
    let mut options = TrainOptions {
        steps: Some(STEPS),
        rounds: 0,
        early_stop: None,
        checkpoint_every: 0,
        warmup_steps: 0,
        dump_grads: None,
        ..variant.train.clone()
    };
    let rows = if guess > TRAINING { ((own as f64 * TRAINING / guess) as usize).clamp(1, own) } else { own };
    if rows < own {
        options.grad_accum = rows.div_ceil(options.micro_batch).max(1);
        options.micro_batch = rows.div_ceil(options.grad_accum);
    }
    let measured = options.micro_batch * options.grad_accum;
    let states = site.path().join("states.bin");
    let _ = std::fs::remove_file(&states);
    let first = trained(model, &sets, &options, &site.path().join("first"), &states)?;
    let long = first.iter().map(|m| m.seconds).sum::<f64>() > TRAINING;
    let later =
        if long { first.clone() } else { trained(model, &sets, &options, &site.path().join("later"), &states)? };
    let mean = |of: &[StepMetrics], value: &dyn Fn(&StepMetrics) -> f64| {
        of.iter().map(value).sum::<f64>() / (of.len() as f64).max(1.0)
    };
    let speed = StepSpeed {
        first: mean(&first, &|m| m.seconds),
        later: mean(&later, &|m| m.seconds),
        tokens: mean(&first, &|m| m.tokens as f64),
    };
    Ok((scaled(speed, own as f64 / measured as f64), measured == own))
}

/// Tokens of a row, about.
fn mean_length(model: &Model, sets: &eraser_train::Sets, variant: &Variant) -> Result<f64> {
    let (mut tokens, mut n) = (0, 0);
    for term in variant.train.terms() {
        for record in spread(sets.rows(term.set), 4) {
            let length = model.tokenizer.encode(&format!("{} {}", record.input, record.output))?.len();
            tokens += length.min(variant.train.max_length);
            n += 1;
        }
    }
    Ok(tokens as f64 / f64::from(n.max(1)))
}

fn trained(
    model: &Model,
    sets: &eraser_train::Sets,
    options: &TrainOptions,
    dir: &Path,
    states: &Path,
) -> Outcome<Vec<StepMetrics>> {
    let mut seen = Seen { start: Instant::now(), steps: Vec::new() };
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|e| Error::failed(format!("{}: {e}", dir.display())))?;
    }
    match eraser_train::train(model, sets, options, dir, states, false, &mut seen) {
        Err(e) if e.kind() != ErrorKind::Interrupted => Err(e.into()),
        _ => Ok(seen.steps),
    }
}

/// Ends a training when time is up.
struct Seen {
    start: Instant,
    steps: Vec<StepMetrics>,
}

impl Observer for Seen {
    fn start(&mut self, _total: usize, _done: usize) {}

    fn step(&mut self, metrics: &StepMetrics) -> Control {
        self.steps.push(metrics.clone());
        if self.start.elapsed().as_secs_f64() > TRAINING { Control::Stop } else { Control::Continue }
    }
}
