//! What training ended with. In: train/summary.json, and the metrics of the run; out: the sentences of the report.
//! Invariant: a training that unlearned nothing is called so wherever its subject is judged.

use crate::error::{Error, Result};
use crate::format::counted;
use crate::metrics::Metrics;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// More terms than any method has.
const MAX_TERMS: usize = 64;
/// What the word means, said where a report first uses it.
const HINGE: &str = "The hinge is max(0, gamma - nll_harm). It is closed, that is 0, once the harmful answers cost the model \
                     gamma nats per token; a closed hinge changes nothing.";

/// The part of train/summary.json that a reader must know.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct TrainingSummary {
    /// No hinge was ever open.
    #[serde(default)]
    nothing_unlearned: bool,
    /// Share of the hinges that were closed; None: no token of the harmful answers was supervised, or there is no
    /// hinge.
    #[serde(default)]
    capped_share: Option<f64>,
    #[serde(default)]
    threshold: Option<Threshold>,
    /// It began from another adapter, and not from the base model.
    #[serde(skip)]
    pub(crate) began_from_adapter: bool,
    /// By term.
    #[serde(default)]
    samples: BTreeMap<String, Samples>,
}

/// Where the hinge closes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Threshold {
    /// Nats per token.
    gamma: f64,
    /// None: it was not measured but given.
    measured: Option<BaseLoss>,
}

/// The loss of the harmful answers under the base model.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct BaseLoss {
    /// Nats per token.
    nll: f64,
}

/// What a term learned from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
struct Samples {
    /// Drawn.
    #[serde(rename = "samples")]
    all: u64,
    /// Cut to the longest length.
    #[serde(default)]
    cut: u64,
    /// Without a token of the answer.
    #[serde(default)]
    empty: u64,
}

impl TrainingSummary {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let summary: Self = crate::files::json(path)?;
        if summary.samples.len() > MAX_TERMS {
            return Err(Error::content(path, format_args!("more than {MAX_TERMS} terms")));
        }
        Ok(summary)
    }

    /// Where its hinge closes, nats per token; None for a method without one.
    pub(crate) fn gamma(&self) -> Option<f64> {
        Some(self.threshold?.gamma)
    }

    /// That nothing was unlearned, and why; None where something was.
    pub(crate) fn nothing_unlearned(&self) -> Option<&'static str> {
        self.nothing_unlearned.then_some(if self.capped_share.is_some() {
            "nothing was unlearned: the hinge was closed from the first step"
        } else {
            "nothing was unlearned: no token of the harmful answers was left to learn from"
        })
    }

    /// Why the hinge was closed from the first step, and what to do; empty where something was unlearned.
    pub(crate) fn remedy(&self) -> Vec<String> {
        if !self.nothing_unlearned {
            return Vec::new();
        }
        if self.capped_share.is_none() {
            return vec!["Every harmful answer was cut to nothing: raise `--max-length`.".to_owned()];
        }
        let gamma = self.threshold.map_or_else(String::new, |t| format!(" ({:.3} nats per token)", t.gamma));
        let whom = if self.began_from_adapter { "the adapter that training began from" } else { "the base model" };
        vec![
            HINGE.to_owned(),
            format!(
                "The harmful answers cost {whom} more than gamma{gamma} already. Train again with `--gamma auto`, which \
                 measures what they cost and goes beyond it."
            ),
        ]
    }

    /// How many samples were cut or empty, a sentence per term where any were.
    pub(crate) fn lost(&self) -> impl Iterator<Item = String> {
        let lost = self.samples.iter().filter(|(_, s)| s.cut > 0 || s.empty > 0);
        lost.map(|(term, Samples { all, cut, empty })| {
            format!(
                "The {term} term drew {}: {cut} were cut to the greatest length, and {empty} had no token to learn from.",
                counted(*all, "sample")
            )
        })
    }
}

/// How far the trainings of a subject went.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Course {
    /// Optimiser steps of each round before the last training.
    pub(crate) rounds: Vec<u64>,
    /// The record of the adapter has no end.
    pub(crate) unfinished: bool,
}

impl Course {
    /// The steps of the last training, `steps`, and of the rounds before it.
    fn sentences(&self, steps: Option<u64>) -> Vec<String> {
        let all: Vec<u64> = self.rounds.iter().copied().chain(steps).collect();
        let numbers: Vec<String> = all.iter().map(ToString::to_string).collect();
        let done = match all.as_slice() {
            [] => "no optimiser step".to_owned(),
            [one] if self.rounds.is_empty() => counted(*one, "optimiser step"),
            [one] => format!("{} in round 1", counted(*one, "optimiser step")),
            _ => format!(
                "{} optimiser steps, a number for each of {} trainings",
                crate::format::list(&numbers),
                all.len()
            ),
        };
        let mut said = Vec::new();
        if self.unfinished {
            let far = "This training has not ended: it is still at work, or was stopped";
            said.push(format!("{far}. Done so far: {done}. To go on with it, add `--resume` to its command."));
        } else if self.rounds.is_empty() {
            said.push(format!("{}.", capital(&done)));
        } else {
            said.push(format!("Trained in rounds: {done}."));
        }
        if !self.rounds.is_empty() {
            let how = "Each goes on from the adapter of the one before, with what that still answered in the harm set.";
            said.push(how.to_owned());
            said.extend(steps.map(|_| "What follows is of the last one.".to_owned()));
        }
        said
    }
}

/// What the training section says of a subject; `gamma` is the threshold of its hinge. Nothing where there are no
/// metrics and nothing is known of a training.
pub(crate) fn sentences(
    metrics: Option<&Metrics>,
    course: &Course,
    summary: Option<&TrainingSummary>,
    gamma: Option<f64>,
) -> Vec<String> {
    let Some(m) = metrics else {
        return if *course == Course::default() { Vec::new() } else { course.sentences(None) };
    };
    let mut said = course.sentences(Some(m.steps as u64));
    if let Some((first, last)) = m.nll_ends {
        let gamma = gamma.map_or_else(String::new, |g| format!("; the threshold gamma is {g}"));
        said.push(format!("nll_harm went from {first:.3} to {last:.3} nats per token{gamma}."));
    }
    if let Some(base) = summary.and_then(|s| s.threshold?.measured) {
        said.push(format!(
            "gamma was measured: the harmful answers cost the base model {:.3} nats per token.",
            base.nll
        ));
    }
    match (summary.and_then(TrainingSummary::nothing_unlearned), m.closed_at) {
        (Some(nothing), _) => {
            said.push(format!("{}.", capital(nothing)));
            said.extend(summary.iter().flat_map(|s| s.remedy()));
        }
        (None, Some(step)) => {
            said.extend([format!("The hinge was closed for the first time at step {step}."), HINGE.into()]);
        }
        (None, None) if gamma.is_none() => {}
        (None, None) if m.hinged && course.unfinished => {
            said.extend(["The hinge has not closed yet.".to_owned(), HINGE.into()]);
        }
        (None, None) if m.hinged => {
            // A token or a sample has a hinge of its own, with some scopes.
            let closed = summary.and_then(|s| s.capped_share).filter(|share| *share > 0.0);
            let found = closed.map_or_else(
                || "The hinge never closed".to_owned(),
                |share| format!("{:.1} % of the hinges were closed, in no step all of them", 100.0 * share),
            );
            said.extend([format!("{found}: the harm term was still at work when training ended."), HINGE.into()]);
        }
        (None, None) => {}
    }
    said.extend(summary.iter().flat_map(|s| s.lost()));
    if m.stride > 1 {
        said.push(format!("Each point of the thin curves is the mean of {} steps.", m.stride));
    }
    if m.left_out > 0 {
        said.push(format!(
            "Left out of the curves, because training diverged: {} that were not finite or too large.",
            counted(m.left_out as u64, "value")
        ));
    }
    said
}

/// How a subject was trained, in a sentence or two, by the options of its record; None where the method is not on
/// record.
pub(crate) fn recipe(options: &Value) -> Option<String> {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => {
            all.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    let train = &options["train"];
    let mut parts = vec![format!("method {}", train["method"].as_str()?)];
    parts.extend(train["preset"].as_str().map(|preset| format!("preset {preset}")));
    let mut said = Vec::new();
    // Where a training began, and which file a template is in, are paths of the machine that made the run.
    let differs = options["differs"].as_object();
    let differing = differs.into_iter().flatten().filter(|(key, _)| *key != "method" && *key != "init_adapter");
    let differing: Vec<String> = differing.map(|(key, value)| format!("{key} {}", shown(value))).collect();
    let usual = if train["preset"].is_string() { "the preset" } else { "the published settings" };
    match (differs, differing.is_empty()) {
        (None, _) => {}
        (Some(_), true) => parts.push(format!("with {usual} as they are")),
        (Some(_), false) => parts.push(format!("with {usual} but {}", differing.join(", "))),
    }
    said.push(format!("{}.", capital(&parts.join(", "))));
    let rows = options["rows"].as_object().into_iter().flatten();
    let rows: Vec<String> = rows.map(|(set, n)| format!("{set} {n}")).collect();
    if !rows.is_empty() {
        said.push(format!("Rows: {}.", rows.join(", ")));
    }
    if let Some(first) = train["init_adapter"].as_str() {
        let parts: Vec<&str> = first.trim_end_matches('/').rsplit(['/', '\\']).take(2).collect();
        let name = parts.into_iter().rev().collect::<Vec<_>>().join("/");
        said.push(format!("It began from another adapter, {name}, and not from the base model."));
    }
    Some(said.join(" "))
}

/// `text` with a capital at the beginning.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> TrainingSummary {
        serde_json::from_str(text).unwrap()
    }

    /// Two trainings of 150 steps were told as one of 150, and one that was stopped as one that had ended.
    #[test]
    fn every_round_and_whether_it_ended_is_told() {
        let told = |rounds: &[u64], unfinished, steps| {
            Course { rounds: rounds.to_vec(), unfinished }.sentences(steps).join(" ")
        };
        assert_eq!(told(&[], false, Some(150)), "150 optimiser steps.");
        let rounds = told(&[150], false, Some(150));
        assert!(
            rounds.starts_with("Trained in rounds: 150 and 150 optimiser steps, a number for each of 2 trainings.")
        );
        let stopped = told(&[], true, Some(1));
        assert!(stopped.contains("has not ended") && stopped.contains("Done so far: 1 optimiser step."), "{stopped}");
        assert!(told(&[80], true, None).contains("Done so far: 80 optimiser steps in round 1."));
        assert!(told(&[], true, None).contains("Done so far: no optimiser step."));
        assert!(sentences(None, &Course::default(), None, None).is_empty());
    }

    /// Weights of 0 and a single adapted layer were not told, nor that training began from another adapter.
    #[test]
    fn a_recipe_names_all_that_is_not_usual() {
        let options = serde_json::json!({
            "train": {"method": "eraser", "preset": "strong", "init_adapter": "/home/x/run/adapter"},
            "differs": {"help_weight": 0.0, "layers": [1], "targets": ["q_proj", "v_proj"], "init_adapter": "/home/x/run/adapter"},
            "rows": {"harm": 3, "help": 9},
        });
        assert_eq!(
            recipe(&options).unwrap(),
            "Method eraser, preset strong, with the preset but help_weight 0.0, layers 1, targets q_proj v_proj. Rows: harm 3, \
             help 9. It began from another adapter, run/adapter, and not from the base model."
        );
        assert_eq!(
            recipe(&serde_json::json!({"train": {"method": "gam"}, "differs": {}})).unwrap(),
            "Method gam, with the published settings as they are."
        );
        assert_eq!(recipe(&Value::Null), None);
    }

    #[test]
    fn a_closed_hinge_and_answers_cut_to_nothing_are_told_apart() {
        let closed = read(r#"{"nothing_unlearned":true,"capped_share":1.0,"threshold":{"gamma":1.8,"measured":null}}"#);
        assert!(closed.nothing_unlearned().unwrap().contains("closed from the first step"));
        assert!(closed.remedy().join(" ").contains("1.800 nats") && closed.remedy()[0].contains("hinge is"));
        let empty = read(r#"{"nothing_unlearned":true,"samples":{"harm":{"samples":4,"cut":4,"empty":4}}}"#);
        assert!(empty.nothing_unlearned().unwrap().contains("no token"));
        assert_eq!(empty.lost().count(), 1);
        let earlier = read(r#"{"steps":3,"capped_share":1.0}"#);
        assert!(earlier.nothing_unlearned().is_none() && earlier.remedy().is_empty() && earlier.lost().count() == 0);
    }
}
