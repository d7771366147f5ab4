//! Subjects that a server has. In: flags `NAME=URL#MODEL`, or tables `subject` of a run file; out: names and how each
//! server is asked. Invariant: a key is only ever named by the environment variable that holds it.

use super::basics::{check_name, clash, wrong};
use super::section::Section;
use crate::failure::Problems;
use eraser_data::ask::{EndpointOptions, Served};
use eraser_eval::EvalOptions;
use eraser_model::{Error, Result};
use serde::Serialize;

/// The key of the tables, and with `--` the flag.
pub(crate) const KEY: &str = "subject";
/// The keys of a table.
pub(super) const SERVED_KEYS: [&str; 8] =
    ["name", "url", "model", "key_env", "concurrency", "timeout", "attempts", "backoff"];
/// Attacks that compute on the weights.
const BY_WEIGHTS: [&str; 2] = ["gcg", "autodan"];

/// A model under test that a server has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServedPlan {
    /// Its name in tables and paths; the others are compared with `base`.
    pub name: String,
    /// The server, the model's name there, and how it is asked.
    #[serde(flatten)]
    pub endpoint: EndpointOptions,
}

impl ServedPlan {
    /// From flags, each `NAME=URL#MODEL`; `how` is the rest of how the servers are asked.
    pub fn of_flags(flags: &[String], how: &EndpointOptions, problems: &mut Problems) -> Vec<Self> {
        const AT: &str = "--subject";
        let mut plans: Vec<Self> = Vec::new();
        for text in flags {
            let Some((name, (url, model))) =
                text.split_once('=').and_then(|(name, at)| Some((name, at.rsplit_once('#')?)))
            else {
                problems.push(wrong(AT, format!("`{text}` is no NAME=URL#MODEL")).hint(
                    "for example base=http://127.0.0.1:8000/v1#my-model; `base` is what others are compared with",
                ));
                continue;
            };
            let endpoint = EndpointOptions { url: Some(url.to_owned()), model: Some(model.to_owned()), ..how.clone() };
            let plan = Self { name: name.to_owned(), endpoint };
            plan.check(&plans, &|_| AT.to_owned(), problems);
            plans.push(plan);
        }
        plans
    }

    /// From the tables of `section`.
    pub(super) fn from_section(section: &Section<'_>, problems: &mut Problems) -> Vec<Self> {
        let mut plans: Vec<Self> = Vec::new();
        for table in section.sections(KEY, problems) {
            table.know(&SERVED_KEYS, problems);
            for key in ["name", "url", "model"] {
                if table.get(key).is_none() {
                    problems.push(table.missing(key));
                }
            }
            let usual = EndpointOptions::default();
            let endpoint = EndpointOptions {
                url: table.value("url", problems),
                model: table.value("model", problems),
                key_env: table.value("key_env", problems),
                concurrency: table.value("concurrency", problems).unwrap_or(usual.concurrency),
                timeout: table.value("timeout", problems).unwrap_or(usual.timeout),
                attempts: table.value("attempts", problems).unwrap_or(usual.attempts),
                backoff: table.value("backoff", problems).unwrap_or(usual.backoff),
            };
            let Some(name) = table.value::<String>("name", problems) else { continue };
            let plan = Self { name, endpoint };
            let at = |key: &str| format!("{}: `{key}`", table.place(key));
            if plan.endpoint.url.is_some() && plan.endpoint.model.is_some() {
                plan.check(&plans, &at, problems);
            }
            plans.push(plan);
        }
        plans
    }

    /// Notes what is wrong with it, or beside those `before` it. `at` says what an option is called.
    fn check(&self, before: &[Self], at: &dyn Fn(&str) -> String, problems: &mut Problems) {
        if let Err(e) = check_name(&self.name) {
            problems.push(wrong(&at("name"), e).hint("NAME is what comes before = in NAME=URL#MODEL"));
        }
        if let Some(e) = clash("subjects", &self.name, before.iter().map(|plan| plan.name.as_str())) {
            problems.push(wrong(&at("name"), e));
        }
        if let Err(e) = Served::new(&self.endpoint) {
            problems.push(e.context(at("url")));
        }
        let options = &self.endpoint;
        for (key, value) in [("concurrency", options.concurrency), ("attempts", options.attempts)] {
            if value == 0 {
                problems.push(wrong(&at(key), format!("{key} must be at least 1")));
            }
        }
        for (key, value, least) in [("timeout", options.timeout, 1e-3), ("backoff", options.backoff, 0.0)] {
            if !(value.is_finite() && value >= least) {
                problems.push(wrong(&at(key), format!("{key}: {value} is no number of seconds")));
            }
        }
    }

    /// As a table of a run file.
    pub(super) fn to_toml(&self) -> Result<toml::Value> {
        toml::Value::try_from(self).map_err(|e| Error::failed(format!("cannot write the plan: {e}")))
    }
}

/// Notes which measures cannot be taken of subjects that are served. `at` says what an option is called.
pub(super) fn check_measures(
    served: &[ServedPlan],
    options: &EvalOptions,
    answers: bool,
    at: &dyn Fn(&str) -> String,
    problems: &mut Problems,
) {
    let Some(first) = served.first() else { return };
    let name = &first.name;
    let hint = "leave it out, or load the model here: --model, with --adapter for each hardened one";
    for attack in options.attacks.iter().filter(|attack| BY_WEIGHTS.contains(&attack.as_str())) {
        let what = format!("`{attack}` computes on the weights, and subject `{name}` is served, which gives none");
        problems.push(wrong(&at("attacks"), what).hint(hint));
    }
    if options.likelihood || answers {
        let key = if options.likelihood { "likelihood" } else { "likelihood_set" };
        let what = format!("how likely known answers are is computed on the weights, and subject `{name}` is served");
        problems.push(wrong(&at(key), what).hint(hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn plans(flags: &[&str]) -> (Vec<ServedPlan>, String) {
        let mut problems = Problems::default();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let plans = ServedPlan::of_flags(&flags, &EndpointOptions::default(), &mut problems);
        let failure = problems.finish(Some(())).err();
        let errors = failure.iter().flat_map(Failure::errors);
        (plans, errors.map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_flag_is_a_name_a_url_and_a_model() {
        let (plans, said) = plans(&["base=http://127.0.0.1:8000/v1#org/model:1", "hard=https://x/v1#a=b"]);
        assert_eq!(said, "");
        let of = |i: usize| {
            let plan: &ServedPlan = &plans[i];
            (plan.name.as_str(), plan.endpoint.url.as_deref().unwrap(), plan.endpoint.model.as_deref().unwrap())
        };
        assert_eq!(of(0), ("base", "http://127.0.0.1:8000/v1", "org/model:1"));
        assert_eq!(of(1), ("hard", "https://x/v1", "a=b"));
    }

    #[test]
    fn every_wrong_flag_is_named() {
        for (flags, part) in [
            (&["http://x/v1#m"][..], "is no NAME=URL#MODEL"),
            (&["base=http://x/v1"], "is no NAME=URL#MODEL"),
            (&["base=http://x/v1#"], "the name of a model"),
            (&["base=ftp://x#m"], "not an http or https URL"),
            (&["a/b=http://x/v1#m"], "cannot be a name"),
            (&["a=http://x/v1#m", "A=http://x/v1#n"], "upper and lower case"),
            (&["a=http://u:secret@x/v1#m"], "password"),
        ] {
            let (_, said) = plans(flags);
            assert!(said.contains(part), "{flags:?}: {said}");
            assert!(!said.contains("secret") || part != "password", "{said}");
        }
    }
}
