//! Scoring: subjects and options in, a file of scores per subject and task and `bench.json` out. Invariant: stopped
//! anywhere and started again, it leaves the same scores as if it had not been stopped.

use super::composite::{composites, pooled};
use super::encode::Encoder;
use super::figures::{difference, figure};
use super::metric::{Aggregate, Metric, Seen, Token};
use super::plan::{Job, Plan};
use super::results::{BenchSubject, BenchSummary, ItemScore};
use super::scorer::Scorer;
use super::unit::{Unit, units};
use crate::merge::Admitted;
use crate::subject::Fingerprint;
use eraser_data::ask::interrupted;
use eraser_data::{Journal, Progress, Share};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result, ScoreRequest};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// Items that are scored before they are stored; a pack holds items of one such group only.
const ROUND: usize = 256;
/// The same where texts are written, which takes longer.
const WRITTEN_ROUND: usize = 32;

/// Scores every task and text under every subject in the directory `dir` that admitted them; writes
/// `dir/bench/<subject>/<task>.jsonl` (one [`ItemScore`] a line) and `dir/bench.json`, and returns the latter. Scores
/// that the files hold already, of the same model, adapter and tokens, are not computed again. Of a plan that is one
/// share of several, only its scores are made, and what is returned is empty.
///
/// # Errors
/// An item that cannot be encoded; a file that cannot be read or written; `Interrupted` when `progress` says to stop.
pub fn bench(
    &Admitted { dir, subjects, served, ref fingerprints }: &Admitted<'_>,
    plan: &Plan,
    progress: &mut dyn Progress,
) -> Result<BenchSummary> {
    let options = plan.options();
    let loaded = subjects.iter().map(Scorer::Loaded).zip(fingerprints);
    let scorers: Vec<(Scorer<'_>, &Fingerprint)> =
        loaded.chain(served.iter().map(|subject| (Scorer::Served(subject), &subject.fingerprint))).collect();
    let model = scorers.first().map(|(scorer, _)| scorer.model()).unwrap_or_default();
    let mut summary =
        BenchSummary { schema: BenchSummary::SCHEMA, model, options: options.clone(), ..Default::default() };
    let mut base: Option<Vec<Told>> = None;
    for (scorer, fingerprint) in scorers {
        let name = scorer.name();
        let home = dir.join("bench").join(name);
        std::fs::create_dir_all(&home).writing(&home)?;
        let (tokenizer, longest) = scorer.tokenizer()?;
        let encoder = Encoder::new(tokenizer, options.bos, longest)?;
        let mut all = Vec::new();
        for job in &plan.jobs {
            let what = format!("{name} {}", job.name);
            let units = units(job, &encoder, scorer.loaded(), options).map_err(|e| e.context(&job.name))?;
            let start = Instant::now();
            let path = home.join(format!("{}.jsonl", job.name));
            let mut tick = |done: usize| progress.tick(&what, done, units.len());
            let (scores, new) = score_job((job, plan.share), &units, scorer, fingerprint, &path, &mut tick)?;
            summary.score_s += start.elapsed().as_secs_f64();
            summary.scored += new;
            if plan.share.is_part() {
                continue;
            }
            all.push(scores);
        }
        if plan.share.is_part() {
            continue;
        }
        let told = told(&plan.jobs, &all);
        let mut utility: Vec<_> = told.iter().map(|(task, metric, scores)| figure(task, *metric, scores)).collect();
        utility.extend(composites(&plan.jobs, &all, plan.retain.as_ref()));
        if let Some(base) = &base {
            let pairs = told.iter().zip(base);
            summary.differences.extend(pairs.map(|((task, metric, after), (_, _, before))| {
                difference(name, (task, *metric), (before, after), options.seed)
            }));
        }
        if scorer.is_base() && base.is_none() {
            base = Some(told);
        }
        let served = match scorer {
            Scorer::Served(subject) => Some(subject.test.clone()),
            Scorer::Loaded(_) => None,
        };
        let (name, fingerprint) = (name.to_owned(), Some(fingerprint.clone()));
        summary.subjects.push(BenchSubject { name, fingerprint, served, utility });
    }
    if !plan.share.is_part() {
        summary.write(dir)?;
    }
    Ok(summary)
}

/// Scores a job's units, those of a share of it, from the file where it can, and leaves the file complete and in order.
/// The second value is the number of units that were computed.
fn score_job(
    (job, share): (&Job, Share),
    units: &[Unit],
    scorer: Scorer<'_>,
    fingerprint: &Fingerprint,
    path: &Path,
    tick: &mut dyn FnMut(usize) -> bool,
) -> Result<(Vec<ItemScore>, usize)> {
    let keys: Vec<String> = units.iter().map(|unit| unit.key(&fingerprint.subject)).collect();
    let size = if units.iter().any(|unit| unit.ask.is_some()) { WRITTEN_ROUND } else { ROUND };
    let likeliest = job.metrics().iter().any(|metric| metric.needs_likeliest());
    let mut journal: Journal<ItemScore> = Journal::open(path)?;
    let mut scores = Vec::with_capacity(units.len());
    let mut computed = 0;
    let dealt = share.deal(&keys.chunks(size).map(<[_]>::concat).collect::<Vec<_>>());
    for (round, part) in units.chunks(size).enumerate().filter(|(round, _)| dealt.takes(*round)) {
        let ids = round * size..round * size + part.len();
        if !tick(ids.start) {
            return Err(interrupted());
        }
        let stored: Vec<ItemScore> = ids
            .clone()
            .filter_map(|id| journal.get(&(id, keys[id].clone())).filter(|s| fits(s, &units[id])).cloned())
            .collect();
        // Beside other items an item's score can differ by rounding: a round that is not complete is computed again as
        // a whole.
        if stored.len() == part.len() {
            scores.extend(stored);
            continue;
        }
        if let Some(error) = dealt.lacking(round, &format!("{} {}", scorer.name(), job.name)) {
            return Err(error);
        }
        let requests: Vec<ScoreRequest> = part.iter().flat_map(|unit| unit.requests.iter().cloned()).collect();
        let per_unit = requests.len() / part.len().max(1);
        let asks: Vec<_> = part.iter().filter_map(|unit| unit.ask.as_ref()).collect();
        // What is written takes longest: with it, scoring is no progress yet.
        let mut on_pack = |n: usize| {
            let done = if asks.is_empty() { (n / per_unit.max(1)).min(part.len()) } else { 0 };
            if tick(ids.start + done) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let found = if requests.is_empty() {
            Vec::new()
        } else {
            scorer.score(&requests, likeliest, &mut on_pack)?.ok_or_else(interrupted)?
        };
        let texts = if asks.is_empty() {
            Vec::new()
        } else {
            scorer.write(&asks, &mut |n| tick(ids.start + n.min(part.len())))?.ok_or_else(interrupted)?
        };
        let (mut found, mut texts) = (found.into_iter(), texts.into_iter());
        let mut new = Vec::with_capacity(part.len());
        for (id, unit) in ids.zip(part) {
            let tokens: Vec<Vec<Token>> = found.by_ref().take(unit.requests.len()).collect();
            let text = unit.ask.as_ref().and_then(|_| texts.next());
            new.push(ItemScore {
                subject: fingerprint.short().to_owned(),
                fingerprint: keys[id].clone(),
                ..scored(id, job, unit, &tokens, text)?
            });
        }
        computed += new.len();
        scores.extend(new.iter().cloned());
        journal.append(new)?;
    }
    tick(units.len());
    journal.finish(&scores)?;
    Ok((scores, computed))
}

/// Whether a stored score has the shape of its unit; a damaged file may claim anything.
fn fits(score: &ItemScore, unit: &Unit) -> bool {
    let n = unit.requests.len();
    score.loglikelihoods.len() == n && score.tokens.len() == n && score.text.is_some() == unit.ask.is_some()
}

fn scored(id: usize, job: &Job, unit: &Unit, tokens: &[Vec<Token>], text: Option<String>) -> Result<ItemScore> {
    let sum = |tokens: &Vec<Token>| tokens.iter().map(|token| f64::from(token.logprob)).sum();
    let loglikelihoods: Vec<f64> = tokens.iter().map(sum).collect();
    if loglikelihoods.iter().any(|l| !l.is_finite()) {
        return Err(Error::failed(format!("{}: row {}: a log-likelihood is not a number", job.name, id + 1))
            .hint("the weights are damaged, or the adapter's scale is far too large: `eraser doctor` says which"));
    }
    let seen = Seen {
        tokens,
        loglikelihoods: &loglikelihoods,
        characters: &unit.characters,
        right: &unit.right,
        own: unit.own,
        golds: &unit.golds,
        text: text.as_deref().unwrap_or_default(),
    };
    let metrics = job.metrics().iter().map(|metric| (metric.name().to_owned(), metric.value(&seen))).collect();
    Ok(ItemScore {
        id,
        tokens: tokens.iter().map(Vec::len).collect(),
        characters: unit.characters.clone(),
        right: unit.right.clone(),
        metrics,
        text,
        loglikelihoods,
        subject: String::new(),
        fingerprint: String::new(),
    })
}

/// A task, or several as one, a metric of it, and the scores.
type Told = (String, Metric, Vec<ItemScore>);

/// What figures are told of.
fn told(jobs: &[Job], all: &[Vec<ItemScore>]) -> Vec<Told> {
    let of_job = |(job, scores): (&Job, &Vec<ItemScore>)| {
        let told = job.metrics().iter().filter(|metric| metric.aggregate() != Aggregate::Part);
        told.map(|metric| (job.name.clone(), *metric, scores.clone())).collect::<Vec<_>>()
    };
    let pooled = pooled(jobs, all).into_iter().map(|(name, metric, scores)| (name.to_owned(), metric, scores));
    jobs.iter().zip(all).flat_map(of_job).chain(pooled).collect()
}
