//! What is measured, read and checked. In: options; out: rows by set, contexts, cuts. Invariant: every error is found
//! before the first forward pass, and all are reported together.

use super::context::Context;
use super::options::AnswerSet;
use crate::attack::read_templates;
use crate::name::{self, At, Checked};
use crate::options::EvalOptions;
use eraser_data::{Record, read_set};
use eraser_model::Error;
use std::collections::HashSet;

/// Answers that are scored together, and stored when they are. Packs are filled within them only.
pub(super) const ROUND: usize = 64;

/// Rows of one set.
pub(crate) struct Set {
    pub(super) name: String,
    pub(super) rows: Vec<Record>,
}

/// All of it.
pub(crate) struct Plan {
    pub(super) sets: Vec<Set>,
    pub(super) contexts: Vec<Context>,
    /// Ascending.
    pub(super) cuts: Vec<usize>,
}

impl Plan {
    /// Reads every file; None where no set is named. `at` says what an option is called.
    pub(crate) fn new(options: &EvalOptions, at: At<'_>) -> Checked<Option<Self>> {
        let mut errors = Vec::new();
        let named = at("likelihood_set");
        let cuts = cuts(&options.likelihood_cuts, at, &mut errors);
        let mut names = HashSet::new();
        let mut sets = Vec::new();
        for AnswerSet { set, path } in &options.likelihood_set {
            errors.extend(name::check("set", set).err().map(|e| e.context(&named)));
            if !names.insert(set.as_str()) {
                let error = Error::request(format!("{named}: the set `{set}` appears twice"));
                errors.push(error.hint("give each file a name of its own, as NAME=FILE"));
            }
            match read_set(path) {
                Ok(mut rows) => {
                    rows.truncate(options.limit.unwrap_or(usize::MAX));
                    sets.push(Set { name: set.clone(), rows });
                }
                Err(error) => errors.push(error),
            }
        }
        let measured = options.likelihood || !options.likelihood_set.is_empty();
        let templates = if measured { read_templates(&options.templates) } else { Ok(Vec::new()) };
        let contexts = match templates {
            Ok(templates) => Context::all(templates),
            // The attack that has them too tells of them.
            Err(_) if options.attacks.iter().any(|attack| attack == "template" || attack == "autodan") => Vec::new(),
            Err(wrong) => {
                errors.extend(wrong);
                Vec::new()
            }
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok((!sets.is_empty()).then_some(Self { sets, contexts, cuts }))
    }

    /// Every question in every context, with its answer: those that are scored together, each.
    pub(crate) fn rounds(&self) -> Vec<Vec<(String, String)>> {
        let mut rounds = Vec::new();
        for set in &self.sets {
            for context in &self.contexts {
                let turn = |row: &Record| (context.user(&row.input), row.output.clone());
                rounds.extend(set.rows.chunks(ROUND).map(|rows| rows.iter().map(turn).collect()));
            }
        }
        rounds
    }

    /// The names of the sets, in order.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &str> {
        self.sets.iter().map(|set| set.name.as_str())
    }
}

/// The cuts in order.
fn cuts(asked: &[usize], at: At<'_>, errors: &mut Vec<Error>) -> Vec<usize> {
    let mut cuts = asked.to_vec();
    cuts.sort_unstable();
    cuts.dedup();
    let twice = cuts.iter().find(|cut| asked.iter().filter(|asked| asked == cut).count() > 1);
    if cuts.is_empty() || twice.is_some() {
        let what = twice.map_or_else(|| "no cut is named".to_owned(), |cut| format!("{cut} appears twice"));
        let error = Error::request(format!("{}: {what}", at("likelihood_cuts")));
        errors.push(error.hint("0,5,20,80 is the usual list: from the first token on, and after 5, 20 and 80 tokens"));
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_reported_at_once() {
        let set = |set: &str| AnswerSet { set: set.into(), path: "absent.jsonl".into() };
        let options = EvalOptions {
            likelihood_set: vec![set("a/b"), set("x"), set("x")],
            likelihood_cuts: vec![5, 5],
            templates: vec!["absent.txt".into()],
            ..EvalOptions::default()
        };
        let errors = Plan::new(&options, &name::key).map(|_| ()).unwrap_err();
        let all = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for part in ["a/b", "`x` appears twice", "absent.jsonl", "5 appears twice", "absent.txt"] {
            assert!(all.contains(part), "{part} not in\n{all}");
        }
        let none = EvalOptions { likelihood_cuts: Vec::new(), ..EvalOptions::default() };
        assert!(Plan::new(&none, &name::key).map(|_| ()).unwrap_err()[0].to_string().contains("no cut"));
        assert!(Plan::new(&EvalOptions::default(), &name::key).unwrap().is_none());
        // Templates that nothing is asked under are one fault, and not this plan's.
        let unused = EvalOptions { templates: vec!["absent.txt".into()], ..EvalOptions::default() };
        assert!(Plan::new(&unused, &name::key).unwrap().is_none());
    }
}
