//! Scoring: subjects and options in, a file of scores per subject and task and `bench.json` out. Invariant: stopped
//! anywhere and started again, it leaves the same scores as if it had not been stopped.

use super::encode::Encoder;
use super::item::Metric;
use super::plan::{Job, Plan, Work};
use super::results::{BenchSubject, BenchSummary, Difference, ItemScore};
use super::{BenchOptions, paired, text};
use crate::merge::Admitted;
use crate::served::{ServedSubject, scores as served_scores};
use crate::stats::{self, Cluster, Paired, mean, standard_error};
use crate::subject::{Fingerprint, Subject};
use crate::summary::{BASE, UtilitySummary};
use eraser_data::ask::interrupted;
use eraser_data::{Journal, Progress, Share};
use eraser_model::error::PathContext as _;
use eraser_model::files::hex;
use eraser_model::{Error, Result, ScoreRequest, Tokenizer, score};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// Items that are scored before they are stored; a pack holds items of one such group only.
const ROUND: usize = 256;
/// The metric of a text.
const PERPLEXITY: &str = "perplexity";

/// What is scored together: the choices of an item, or a window.
struct Unit {
    requests: Vec<ScoreRequest>,
    characters: Vec<usize>,
    right: Vec<bool>,
}

/// What gives the log-probabilities.
#[derive(Clone, Copy)]
enum Scorer<'a> {
    Loaded(&'a Subject<'a>),
    Served(&'a ServedSubject),
}

impl<'a> Scorer<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Loaded(subject) => &subject.name,
            Self::Served(subject) => &subject.name,
        }
    }

    fn model(self) -> String {
        match self {
            Self::Loaded(subject) => subject.model.name.clone(),
            Self::Served(subject) => subject.test.model.clone(),
        }
    }

    fn is_base(self) -> bool {
        match self {
            Self::Loaded(subject) => subject.adapter.is_none(),
            Self::Served(subject) => subject.name == BASE,
        }
    }

    /// The tokenizer, and the most tokens that are scored at once.
    fn tokenizer(self) -> Result<(&'a Tokenizer, usize)> {
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

    /// The log-probabilities of every request; None when `on_done`, given how many are there, breaks off.
    fn score(
        self,
        requests: &[ScoreRequest],
        on_done: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        match self {
            Self::Loaded(subject) => score(&subject.model.decoder, subject.adapter, requests, on_done),
            Self::Served(subject) => served_scores(subject, requests, on_done),
        }
    }
}

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
    let mut base: Option<Vec<Vec<ItemScore>>> = None;
    for (scorer, fingerprint) in scorers {
        let name = scorer.name();
        let home = dir.join("bench").join(name);
        std::fs::create_dir_all(&home).writing(&home)?;
        let (tokenizer, longest) = scorer.tokenizer()?;
        let encoder = Encoder::new(tokenizer, options.bos, longest)?;
        let mut all = Vec::new();
        let mut utility = Vec::new();
        for job in &plan.jobs {
            let what = format!("{name} {}", job.name);
            let units = units(job, &encoder, options).map_err(|e| e.context(&job.name))?;
            let start = Instant::now();
            let path = home.join(format!("{}.jsonl", job.name));
            let mut tick = |done: usize| progress.tick(&what, done, units.len());
            let (scores, new) = score_job((job, plan.share), &units, scorer, fingerprint, &path, &mut tick)?;
            summary.score_s += start.elapsed().as_secs_f64();
            summary.scored += new;
            if plan.share.is_part() {
                continue;
            }
            utility.extend(metrics(job).iter().map(|metric| figure(&job.name, metric, &scores)));
            all.push(scores);
        }
        if plan.share.is_part() {
            continue;
        }
        if let Some(base) = &base {
            for (job, (before, after)) in plan.jobs.iter().zip(base.iter().zip(&all)) {
                let rows =
                    metrics(job).into_iter().map(|m| difference(name, &job.name, m, before, after, options.seed));
                summary.differences.extend(rows);
            }
        }
        if scorer.is_base() && base.is_none() {
            base = Some(all);
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

/// The tokens of a job.
fn units(job: &Job, encoder: &Encoder<'_>, options: &BenchOptions) -> Result<Vec<Unit>> {
    match &job.work {
        Work::Items { items, .. } => items
            .iter()
            .enumerate()
            .map(|(row, prompted)| {
                let item = &prompted.item;
                let request = |c: &super::item::Choice| {
                    encoder.pair(&format!("{}{}", prompted.before, c.context), &format!(" {}", c.continuation))
                };
                let requests = item.choices.iter().map(request).collect::<Result<_>>();
                let characters = item.choices.iter().map(|c| c.continuation.chars().count()).collect();
                let requests = requests.map_err(|e| e.context(format!("row {}", row + 1)))?;
                Ok(Unit { requests, characters, right: item.right.clone() })
            })
            .collect(),
        Work::Text(content) => {
            let window = options.window.min(encoder.longest);
            let windows = text::windows(&encoder.bare(content)?, encoder.prefix, window);
            let windows = windows.into_iter().take(options.limit.unwrap_or(usize::MAX));
            Ok(windows.map(|w| Unit { requests: vec![w], characters: Vec::new(), right: Vec::new() }).collect())
        }
    }
}

/// The names of a job's metrics.
fn metrics(job: &Job) -> Vec<&'static str> {
    match &job.work {
        Work::Items { metrics, .. } => metrics.iter().map(|m| m.name()).collect(),
        Work::Text(_) => vec![PERPLEXITY],
    }
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
    let keys: Vec<String> = units.iter().map(|unit| key(&fingerprint.subject, unit)).collect();
    let mut journal: Journal<ItemScore> = Journal::open(path)?;
    let mut scores = Vec::with_capacity(units.len());
    let mut computed = 0;
    let dealt = share.deal(&keys.chunks(ROUND).map(<[_]>::concat).collect::<Vec<_>>());
    for (round, part) in units.chunks(ROUND).enumerate().filter(|(round, _)| dealt.takes(*round)) {
        let ids = round * ROUND..round * ROUND + part.len();
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
        let mut on_pack = |n: usize| {
            let alive = tick(ids.start + (n / per_unit.max(1)).min(part.len()));
            if alive { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let found = scorer.score(&requests, &mut on_pack)?.ok_or_else(interrupted)?;
        let mut found = found.into_iter();
        let mut new = Vec::with_capacity(part.len());
        for (id, unit) in ids.zip(part) {
            let tokens: Vec<Vec<f32>> = found.by_ref().take(unit.requests.len()).collect();
            new.push(ItemScore {
                subject: fingerprint.short().to_owned(),
                ..scored(id, job, unit, &tokens, &keys[id])?
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
    score.loglikelihoods.len() == unit.requests.len() && score.tokens.len() == unit.requests.len()
}

fn scored(id: usize, job: &Job, unit: &Unit, tokens: &[Vec<f32>], key: &str) -> Result<ItemScore> {
    let sum = |t: &Vec<f32>| t.iter().map(|&x| f64::from(x)).sum();
    let loglikelihoods: Vec<f64> = tokens.iter().map(sum).collect();
    if loglikelihoods.iter().any(|l| !l.is_finite()) {
        return Err(Error::failed(format!("{}: row {}: a log-likelihood is not a number", job.name, id + 1))
            .hint("the weights are damaged, or the adapter's scale is far too large: `eraser doctor` says which"));
    }
    let counts: Vec<usize> = tokens.iter().map(Vec::len).collect();
    let metrics = match &job.work {
        Work::Items { metrics, .. } => {
            let value = |m: &Metric| (m.name().to_owned(), m.value(&loglikelihoods, &unit.characters, &unit.right));
            metrics.iter().map(value).collect()
        }
        Work::Text(_) => BTreeMap::from([(PERPLEXITY.to_owned(), perplexity(&loglikelihoods, &counts))]),
    };
    let (characters, right) = (unit.characters.clone(), unit.right.clone());
    let (subject, fingerprint) = (String::new(), key.to_owned());
    Ok(ItemScore { id, loglikelihoods, tokens: counts, characters, right, metrics, subject, fingerprint })
}

/// `exp` of the mean negative log-likelihood per token.
fn perplexity(loglikelihoods: &[f64], tokens: &[usize]) -> f64 {
    (-loglikelihoods.iter().sum::<f64>() / tokens.iter().sum::<usize>() as f64).exp()
}

/// Identifies a unit's score: subject and tokens. 16 hex digits.
fn key(fingerprint: &str, unit: &Unit) -> String {
    let mut hash = Sha256::new();
    hash.update(fingerprint);
    for request in &unit.requests {
        hash.update((request.scored as u64).to_le_bytes());
        hash.update((request.ids.len() as u64).to_le_bytes());
        for id in &request.ids {
            hash.update(id.to_le_bytes());
        }
    }
    for (characters, right) in unit.characters.iter().zip(&unit.right) {
        hash.update((*characters as u64).to_le_bytes());
        hash.update([u8::from(*right)]);
    }
    let mut key = hex(&hash.finalize());
    key.truncate(16);
    key
}

/// The values of all items under a metric.
fn values(scores: &[ItemScore], metric: &str) -> Vec<f64> {
    scores.iter().filter_map(|s| s.metrics.get(metric).copied()).collect()
}

/// The perplexity of some windows together.
fn pooled<'a>(scores: impl Iterator<Item = &'a ItemScore>) -> f64 {
    let (mut sums, mut tokens) = (Vec::new(), Vec::new());
    for score in scores {
        sums.extend_from_slice(&score.loglikelihoods);
        tokens.extend_from_slice(&score.tokens);
    }
    perplexity(&sums, &tokens)
}

/// Whether an item's value is 0 or 1.
fn is_right_or_wrong(metric: &str) -> bool {
    ![PERPLEXITY, Metric::Mc2.name()].contains(&metric)
}

fn figure(task: &str, metric: &str, scores: &[ItemScore]) -> UtilitySummary {
    let values = values(scores, metric);
    let (value, stderr) = if metric == PERPLEXITY {
        // The error of a ratio of sums is not that of a mean; the interval of the difference is resampled.
        ((!scores.is_empty()).then(|| pooled(scores.iter())), None)
    } else {
        (mean(&values), standard_error(&values))
    };
    // Each item is a question of its own.
    let right = values.iter().map(|v| Cluster { part: usize::from(*v > 0.5), n: 1 }).collect::<Vec<_>>();
    let ci = if is_right_or_wrong(metric) { stats::interval(&right) } else { None };
    let (task, metric, n) = (task.to_owned(), metric.to_owned(), values.len());
    UtilitySummary { task, metric, n, value, stderr, ci, change: None }
}

fn difference(
    subject: &str,
    task: &str,
    metric: &str,
    before: &[ItemScore],
    after: &[ItemScore],
    seed: u64,
) -> Difference {
    let pairs: Vec<(f64, f64)> = values(before, metric).into_iter().zip(values(after, metric)).collect();
    let (a, b) = (figure(task, metric, before).value, figure(task, metric, after).value);
    let name = format!("{task}/{metric}");
    let (ci, method) = match metric {
        PERPLEXITY => {
            let of = |scores: &[ItemScore], items: &[usize]| pooled(items.iter().filter_map(|&i| scores.get(i)));
            let statistic = |items: &[usize]| of(after, items) - of(before, items);
            (paired::bootstrap(pairs.len(), seed, &name, statistic), "bootstrap")
        }
        metric if is_right_or_wrong(metric) => {
            let pair = |(a, b): &(f64, f64)| Paired { change: i64::from(b > a) - i64::from(a > b), n: 1 };
            (stats::change(&pairs.iter().map(pair).collect::<Vec<_>>()).map(|c| c.ci), "bonett-price")
        }
        _ => (paired::means(&pairs, seed, &name), "bootstrap"),
    };
    Difference {
        subject: subject.to_owned(),
        task: task.to_owned(),
        metric: metric.to_owned(),
        n: pairs.len(),
        difference: a.zip(b).map(|(a, b)| b - a),
        ci,
        method: method.to_owned(),
    }
}
