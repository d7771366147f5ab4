//! The terms of a method with their samples. In: sets and options; out: a part for each term, and what is said of rows
//! that are too long. Invariant: a set of which nothing would be learnt is an error before the first step.

use crate::{
    feed::{Feed, Source, limit, surroundings},
    method::{Given, KlScope, Loss},
    options::{Overlong, TrainOptions},
    sets::Sets,
    step::Part,
};
use eraser_data::{PromptTemplate, SetName};
use eraser_model::{Error, Model, Result, counted};

/// The terms of the method, each with its samples.
pub(crate) fn parts<'a>(
    model: &'a Model,
    sets: &'a Sets,
    options: &'a TrainOptions,
    templates: &'a [PromptTemplate],
) -> Result<Vec<Part<'a>>> {
    let mut parts = Vec::new();
    for term in options.terms() {
        let mut records = sets.rows(term.set);
        if term.set == SetName::Retain {
            let most = options.retain_take.unwrap_or(records.len());
            records = records.get(..most).ok_or_else(|| {
                Error::request(format!(
                    "retain_take: {} asked for, the retain set has {}",
                    counted(most, "row"),
                    records.len()
                ))
                .hint("ask for fewer rows, or give a larger retain set")
            })?;
            if records.is_empty() {
                continue;
            }
        }
        let answers = term.unrelated.then(|| sets.rows(SetName::Help));
        let harmful = sets.rows(SetName::Harm);
        let anchored = matches!(term.loss, Loss::Kl(_)) && (term.noise || term.given != Given::Nothing);
        let noise = term.noise.then(|| surroundings(sets, options));
        let preferred = term.loss.is_of_pairs().then(|| sets.rows(SetName::Align));
        let given = term.given;
        let source = Source { set: term.set, records, noise, given, harmful, anchored, answers, preferred };
        parts.push(Part { term, weight: term.weight, feed: Feed::new(source, model, templates, options)? });
    }
    Ok(parts)
}

/// Looks for rows that do not fit before the first step: an error, or what the user should know.
pub(crate) fn check_lengths(
    parts: &[Part<'_>],
    model: &Model,
    sets: &Sets,
    options: &TrainOptions,
) -> Result<Vec<String>> {
    let most = limit(model, options);
    let allowed = if most < options.max_length {
        format!("{most} tokens (the most that the model takes)")
    } else {
        format!("{most} tokens (max_length)")
    };
    let refuse = options.overlong == Overlong::Refuse;
    let (mut told, mut notes) = (Vec::new(), Vec::new());
    for Part { term, feed, .. } in parts {
        let set = sets.describe(term.set);
        let found = feed.overlong(0);
        let all = feed.rows();
        if term.weight != 0.0 && found.empty == all && term.loss != Loss::Kl(KlScope::All) {
            return Err(nothing_supervised(&set, all, model, options));
        }
        if told.contains(&term.set) {
            continue;
        }
        told.push(term.set);
        let drawn = feed.drawn();
        let (cut, with) = match (refuse, drawn) {
            (true, 1..) => (feed.overlong(drawn).cut, format!(" with {} of prompt noise", counted(drawn, "token"))),
            _ => (found.cut, String::new()),
        };
        let Some(first) = cut.first().and_then(|row| Some((row, sets.rows(term.set).get(*row)?))) else { continue };
        let first = match first {
            (row, record) if record.place.is_empty() => format!("row {}", row + 1),
            (_, record) => record.place.clone(),
        };
        let (n, rows) = (cut.len(), feed.records());
        let what = format!("{set}: rows longer than {allowed}{with}: {n} of {rows}, the first at {first}");
        if refuse {
            return Err(Error::request(what)
                .hint("shorten or remove the rows, or raise --max-length up to what the model takes")
                .hint("--overlong cut trains on what fits, and counts what was cut"));
        }
        let empty = match found.empty {
            0 => String::new(),
            empty => format!("; samples that the cut leaves without a token of the answer: {empty} of {all}"),
        };
        notes.push(format!("{what}; they are cut{empty}"));
    }
    Ok(notes)
}

/// The error of a set of which nothing would be learnt.
pub(crate) fn nothing_supervised(set: &str, samples: usize, model: &Model, options: &TrainOptions) -> Error {
    let most = limit(model, options);
    let error = Error::request(format!(
        "{set}: not one of {} has a token of its answer within the first {}: nothing would be learnt",
        counted(samples, "sample"),
        counted(most, "token")
    ));
    if most < options.max_length {
        return error.hint("the model takes no more tokens: shorten the questions or the prompt template");
    }
    error.hint("raise --max-length (in a run file max_length), or shorten the questions or the prompt template")
}
