//! What a run takes. In: what it would work on, what is made already, and what was measured of the machine; out: its
//! steps, each with answers, tokens and seconds from, to. Invariant: what is not known is told, and never counted as
//! nothing.

use super::rates::{Rates, Speed, terms};
use super::site::Site;
use crate::plan::{RunPlan, Variant};
use eraser_eval::work;
use eraser_model::counted;
use eraser_train::SetName;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// What a measurement of a few steps or answers may be beside the whole: other lengths, a busier machine.
const SLACK: [f64; 2] = [0.75, 1.35];
/// What answers of a hardened model may be in length beside those of the base: refusals, or more than before.
const LENGTH: [f64; 2] = [0.6, 1.4];
/// A training that may end early takes at least this share of its steps.
const EARLY: f64 = 0.3;

/// Whether something is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Todo {
    /// From the beginning.
    New,
    /// Some of it is there, and is gone on with.
    Begun,
    /// It was done with the same inputs, and is not done again.
    Done,
    /// It was done; whether with the same inputs was not looked at.
    DoneBefore,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// `load`, `prepare`, `train` or `eval`.
    pub stage: &'static str,
    /// Of what: a set, a variant, a subject.
    pub name: String,
    /// In words.
    pub what: String,
    /// Whether it is to be done.
    pub todo: Todo,
    /// New tokens to generate, from, to; of training: tokens of all steps.
    pub tokens: Option<[f64; 2]>,
    /// Seconds, from, to; None: not known.
    pub seconds: Option<[f64; 2]>,
}

/// What is made already.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    pub(super) prepare: Option<Todo>,
    /// Of each variant, in their order.
    pub(super) train: Vec<Todo>,
    pub(super) eval: Option<Todo>,
}

/// Every step.
pub(super) fn steps(plan: &RunPlan, site: &Site, made: &Made, rates: Option<&Rates>) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(rates) = rates {
        steps.push(Step {
            stage: "load",
            name: plan.model.spec.clone(),
            what: "the model is read".to_owned(),
            todo: Todo::New,
            tokens: None,
            seconds: Some(slack([rates.load; 2])),
        });
    }
    steps.extend(prepared(plan, site, made, rates));
    for (i, variant) in plan.variants.iter().enumerate() {
        steps.push(trained(plan, site, i, variant, made.train.get(i).copied().unwrap_or(Todo::New), rates));
    }
    steps.extend(evaluated(plan, site, made, rates));
    steps
}

fn slack([low, high]: [f64; 2]) -> [f64; 2] {
    [low * SLACK[0], high * SLACK[1]]
}

/// Lines of a file: answers that are there.
fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn prepared<'a>(
    plan: &'a RunPlan,
    site: &'a Site,
    made: &'a Made,
    rates: Option<&'a Rates>,
) -> impl Iterator<Item = Step> + 'a {
    let speed = rates.and_then(|r| r.prepare);
    site.stages.iter().map(move |stage| {
        let there = lines(&plan.dir.join("prepare").join(format!("{}.jsonl", stage.name)));
        let done = matches!(made.prepare, Some(Todo::Done | Todo::DoneBefore));
        let todo = match made.prepare {
            Some(todo @ (Todo::Done | Todo::DoneBefore)) => todo,
            _ if there > 0 => Todo::Begun,
            _ => Todo::New,
        };
        let [low, high] = stage.count.map(|n| if done { 0 } else { n.saturating_sub(there) });
        let answers =
            if low == high { counted(high, "answer") } else { format!("{low} to {}", counted(high, "answer")) };
        let by = if stage.elsewhere { ", by another model or a server" } else { "" };
        let kept = if there > 0 && !done { format!(", {there} are there") } else { String::new() };
        let what = if done {
            "made before".to_owned()
        } else {
            format!("{answers} of at most {} tokens{by}{kept}", stage.limit)
        };
        let speed = speed.filter(|_| !stage.elsewhere || high == 0).map(|s| limited(s, stage.limit));
        Step {
            stage: "prepare",
            name: stage.name.to_owned(),
            what,
            todo,
            tokens: Some([0.0, (high * stage.limit) as f64])
                .map(|t| speed.map_or(t, |s| [low as f64, high as f64].map(|n| n * s.tokens))),
            seconds: speed.map(|s| slack([low as f64 * s.seconds, high as f64 * s.seconds])),
        }
    })
}

/// A speed under another limit of tokens.
fn limited(speed: Speed, limit: usize) -> Speed {
    // Answers that ended before both limits are the same; others go to the limit.
    let factor = if limit < speed.limit {
        (limit as f64 / speed.tokens.max(1.0)).min(1.0)
    } else if speed.cut || speed.tokens > 0.8 * speed.limit as f64 {
        limit as f64 / speed.limit.max(1) as f64
    } else {
        1.0
    };
    Speed { seconds: speed.seconds * factor, tokens: speed.tokens * factor, ..speed }
}

fn trained(plan: &RunPlan, site: &Site, i: usize, variant: &Variant, todo: Todo, rates: Option<&Rates>) -> Step {
    let options = &variant.train;
    let sets: Vec<SetName> = options.terms().iter().map(|t| t.set).filter(|set| variant.reads(*set)).collect();
    let counting = if sets.contains(&SetName::Help) { Some(SetName::Help) } else { sets.first().copied() };
    let epoch = counting.and_then(|set| site.rows(set)).unwrap_or([1; 2]);
    let batch = options.micro_batch * options.grad_accum;
    let total = epoch.map(|rows| options.total_steps(rows.max(1)));
    let done = match todo {
        Todo::Begun => lines(&plan.dir.join(&variant.dir).join("train/metrics.jsonl")),
        Todo::Done | Todo::DoneBefore => total[1],
        Todo::New => 0,
    };
    let rounds = options.rounds + 1;
    let left = total.map(|n| n.saturating_sub(done) * rounds);
    let speed = rates.and_then(|r| r.steps.get(i).copied());
    let early = if options.early_stop.is_some() { EARLY } else { 1.0 };
    let seconds = speed.map(|speed| {
        let of = |left: usize, rows: usize| {
            // The frozen model is asked once for each row: in the first epoch.
            let first = rows.div_ceil(batch.max(1)).saturating_sub(done).min(left) as f64;
            first * speed.first + (left as f64 - first) * speed.later
        };
        let [low, high] = slack([of(left[0], epoch[0]), of(left[1], epoch[1])]);
        [low * early, high]
    });
    let tokens = speed.map(|speed| left.map(|n| n as f64 * speed.tokens));
    let steps = if left[0] == left[1] {
        counted(left[1], "step")
    } else {
        format!("{} to {}", left[0], counted(left[1], "step"))
    };
    let mut what = format!("{steps} of {}", counted(batch * terms(variant), "row"));
    // Writing to a string cannot fail.
    if let Some(speed) = speed {
        let _ = write!(what, ", about {:.0} tokens a step", speed.tokens);
    }
    if rounds > 1 {
        let _ = write!(what, ", in {rounds} trainings between which the model is asked again");
    }
    if options.early_stop.is_some() {
        what += "; it may end early";
    }
    if todo == Todo::Begun {
        let _ = write!(what, "; {} are done", counted(done, "step"));
    }
    if matches!(todo, Todo::Done | Todo::DoneBefore) {
        "trained before".clone_into(&mut what);
    }
    Step { stage: "train", name: variant.name.clone(), what, todo, tokens, seconds }
}

fn evaluated(plan: &RunPlan, site: &Site, made: &Made, rates: Option<&Rates>) -> Vec<Step> {
    let work = work::work(&site.asked);
    let known: usize = work::scored(&site.asked).iter().map(Vec::len).sum();
    let subjects = std::iter::once("base").chain(plan.variants.iter().map(|v| v.name.as_str()));
    let limit = site.asked.options().max_new_tokens;
    let speed = rates.and_then(|r| r.eval);
    let scoring = rates.and_then(|r| r.scoring);
    let trained_anew = |name: &str| {
        let at = plan.variants.iter().position(|v| v.name == name);
        at.is_some_and(|i| !matches!(made.train.get(i), Some(Todo::Done | Todo::DoneBefore)))
    };
    let mut steps = Vec::new();
    for name in subjects {
        let done = matches!(made.eval, Some(Todo::Done | Todo::DoneBefore)) && !trained_anew(name);
        // Answers of an adapter that is trained again are of no use.
        let there = |file: &str| {
            let path = plan.dir.join("eval").join(name).join(format!("{file}.jsonl"));
            if trained_anew(name) { 0 } else { lines(&path) }
        };
        let mut parts = Vec::new();
        let (mut left, mut kept, mut unknown) = (0, 0, false);
        for w in &work {
            let found = there(&w.file).min(w.prompts.len());
            left += w.prompts.len() - found;
            kept += found;
            unknown |= w.searches || w.graders > 0;
            let search = if w.searches { " after a search for each" } else { "" };
            let judge = if w.graders > 0 { ", judged by a model" } else { "" };
            parts.push(format!("{} {}{search}{judge}", w.file, w.prompts.len()));
        }
        let scored = if there("likelihood") > 0 { 0 } else { known };
        if scored > 0 {
            parts.push(format!("likelihood {scored}"));
        }
        if done {
            (left, unknown) = (0, false);
        }
        let todo = match made.eval {
            Some(todo) if done => todo,
            _ if kept > 0 => Todo::Begun,
            _ => Todo::New,
        };
        let length = if name == "base" { [1.0; 2] } else { LENGTH };
        let reading = scoring.filter(|_| scored > 0).unwrap_or_default();
        let seconds = speed.filter(|_| !unknown).map(|s| {
            let most = (s.seconds * length[1]).min(s.seconds * limit as f64 / s.tokens.max(1.0));
            let reading = if done { 0.0 } else { reading };
            slack([left as f64 * s.seconds * length[0] + reading, left as f64 * most.max(s.seconds) + reading])
        });
        // What is only scored needs no answers.
        let seconds = seconds.or_else(|| (left == 0 && !unknown && rates.is_some()).then(|| slack([reading; 2])));
        let tokens = speed.map(|s| {
            [left as f64 * s.tokens * length[0], (left as f64 * s.tokens * length[1]).min((left * limit) as f64)]
        });
        let tokens = tokens.or(Some([0.0, (left * limit) as f64]));
        let what = if done {
            "measured before".to_owned()
        } else {
            let there = if kept > 0 { format!(", {kept} are there") } else { String::new() };
            format!("{} of at most {limit} tokens ({}){there}", counted(left, "answer"), parts.join(", "))
        };
        steps.push(Step { stage: "eval", name: name.to_owned(), what, todo, tokens, seconds });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_under_another_limit_take_another_time() {
        let speed = Speed { seconds: 1.0, tokens: 50.0, cut: false, limit: 100 };
        let tokens = |limit| limited(speed, limit).tokens as usize;
        assert_eq!((tokens(25), tokens(200)), (25, 50));
        let to_the_limit = Speed { tokens: 100.0, ..speed };
        assert_eq!(limited(to_the_limit, 200).seconds as usize, 2);
    }
}
