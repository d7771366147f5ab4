//! Lines of a diagnosis. In: what was found of one thing; out: `ok`, `warning` or `error`, with what to do. Invariant: a
//! model is healthy if no line is an error.

use super::heard::heard;
use eraser_model::{Error, Result};
use serde::Serialize;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The model can be used, but something may not be as it was meant.
    Warning,
    /// The model cannot be used as it is.
    Error,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How grave it is.
    pub level: Level,
    /// What was looked at: `memory`, `tokenizer`, ..
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// What was found of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// How many things are wrong.
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|f| f.level == Level::Error).count()
    }

    pub(super) fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.add(Level::Ok, what, found.into(), Vec::new());
    }

    pub(super) fn warning(&mut self, what: &'static str, found: impl Into<String>, hint: &str) {
        let hints = if hint.is_empty() { Vec::new() } else { vec![hint.to_owned()] };
        self.add(Level::Warning, what, found.into(), hints);
    }

    /// The value of work; an error is noted, and so are warnings that it logged, unless they were noted before.
    pub(super) fn part<T>(&mut self, what: &'static str, work: impl FnOnce() -> Result<T>) -> Option<T> {
        let (result, said) = heard(work);
        let value = self.of(what, result);
        for said in said {
            if self.findings.iter().all(|finding| finding.found != said) {
                self.add(Level::Warning, what, said, Vec::new());
            }
        }
        value
    }

    pub(super) fn error(&mut self, what: &'static str, error: &Error) {
        self.add(Level::Error, what, error.to_string(), error.hints().to_vec());
    }

    fn add(&mut self, level: Level, what: &'static str, found: String, hints: Vec<String>) {
        self.findings.push(Finding { level, what, found, hints });
    }

    /// The value of a result; an error is noted.
    pub(super) fn of<T>(&mut self, what: &'static str, result: Result<T>) -> Option<T> {
        result.map_err(|e| self.error(what, &e)).ok()
    }
}
