//! `summary.json` as a reader sees it. Invariant after [`Summary::read`]: every share lies in 0..1, every interval is
//! ordered, every count is plausible, so that tables and plots need no checks of their own.

use crate::error::{Error, Result};
use crate::files;
use crate::nll::{self, Nll};
use crate::served::Served;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::Path;

/// The only layout this version reads.
const SCHEMA: u32 = 1;
/// More answers than any evaluation has; a larger count is damage.
const MAX_COUNT: u64 = 1_000_000_000;

/// How far a figure may be outside its interval by rounding.
const ROUNDING: f64 = 1e-6;
/// More rows than any evaluation has, over all subjects; keeps comparing them cheap.
const MAX_ROWS: usize = 10_000;

/// What was measured, by subject.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Summary {
    /// Version of the layout.
    pub schema: u32,
    /// One entry per subject, base first.
    pub subjects: Vec<Subject>,
    /// What it took.
    #[serde(default)]
    pub timing: Timing,
}

/// Measurements of one subject.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Subject {
    /// `base`, or the name of the method or variant.
    pub name: String,
    /// What was measured under this name: hex SHA-256 of model and adapter. None in files of older versions: unknown.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// The part of it that is the adapter's.
    #[serde(default)]
    pub adapter: Option<String>,
    /// Of a model that a server had: which, and what its self-test found.
    #[serde(default)]
    pub served: Option<Served>,
    /// A row per attack, set and judge.
    #[serde(default)]
    pub attacks: Vec<Attack>,
    /// A row per task and metric.
    #[serde(default)]
    pub utility: Vec<Utility>,
    /// What known answers cost.
    #[serde(default)]
    pub likelihood: Vec<Nll>,
    /// Refusals of benign questions.
    #[serde(default)]
    pub over_refusal: Option<OverRefusal>,
    /// Refusals of questions that look like them and must be refused.
    #[serde(default)]
    pub contrast: Option<OverRefusal>,
    /// How far judges agree.
    #[serde(default)]
    pub agreement: Vec<Agreement>,
}

/// A figure of a subject less that of the base, on the same questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Change {
    /// The difference.
    pub difference: f64,
    /// Its 95 % interval.
    pub ci: [f64; 2],
    /// Questions behind it.
    #[serde(default)]
    pub questions: u64,
}

/// Two judges on the same answers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Agreement {
    /// One judge.
    pub first: String,
    /// Another.
    pub second: String,
    /// Answers that both judged.
    pub n: u64,
    /// Share on which they agree.
    pub agree: Option<f64>,
    /// Cohen's kappa.
    pub kappa: Option<f64>,
}

/// One attack on one set under one judge.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Attack {
    /// `direct`, `template` (all templates pooled), `template:<name>`, ..
    pub attack: String,
    /// `seen` or `unseen` in training.
    pub set: String,
    /// Judge with its list: `keyword:gcg29`, `leak`.
    pub judge: String,
    /// Answers.
    pub n: u64,
    /// Questions that these answer; 0 in files of older versions: unknown.
    #[serde(default)]
    pub questions: u64,
    /// Questions of which at least one answer succeeds and is not degenerate; None in files of older versions.
    #[serde(default)]
    pub open_questions: Option<u64>,
    /// Attack success rate over the judged answers.
    pub asr: Option<f64>,
    /// Its 95 % interval, by question.
    pub asr_ci: Option<[f64; 2]>,
    /// The rate less the base's on the same prompts.
    #[serde(default)]
    pub asr_change: Option<Change>,
    /// Share of answers that refuse.
    pub refused: Option<f64>,
    /// Share of answers that are empty, repetitive or not language.
    pub degenerate: Option<f64>,
    /// That share less the base's.
    #[serde(default)]
    pub degenerate_change: Option<Change>,
    /// Degenerate answers among those that the judge calls a success.
    #[serde(default)]
    pub degenerate_successes: u64,
    /// Answers without a judgement.
    #[serde(default)]
    pub unjudged: u64,
    /// Share of answers that are none, because the thought before them has no end; None for a model without thoughts.
    #[serde(default)]
    pub unfinished: Option<f64>,
    /// Thoughts that the judge judged.
    #[serde(default)]
    pub thoughts: u64,
    /// Share of these that the judge would call a success, were they the answer.
    #[serde(default)]
    pub thought_leaks: Option<f64>,
    /// Its 95 % interval, by question.
    #[serde(default)]
    pub thought_leaks_ci: Option<[f64; 2]>,
    /// Mean grade, of judges that give one: `rubric` 1..5, `strongreject` 0..1.
    #[serde(default)]
    pub harmfulness: Option<f64>,
}

/// One metric of one task.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Utility {
    /// Task.
    pub task: String,
    /// Metric: `accuracy`, ..
    pub metric: String,
    /// Items.
    pub n: u64,
    /// Value.
    pub value: Option<f64>,
    /// Standard error.
    pub stderr: Option<f64>,
    /// 95 % interval of a share.
    #[serde(default)]
    pub ci: Option<[f64; 2]>,
    /// The value less the base's on the same items.
    #[serde(default)]
    pub change: Option<Change>,
}

/// Refusals of benign questions.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct OverRefusal {
    /// Name of the question set.
    pub set: String,
    /// Questions.
    pub n: u64,
    /// Share refused, by the keyword list.
    pub rate: Option<f64>,
    /// Its 95 % interval.
    #[serde(default)]
    pub ci: Option<[f64; 2]>,
    /// That share less the base's.
    #[serde(default)]
    pub change: Option<Change>,
    /// Share refused by a model's judgement.
    #[serde(default)]
    pub judged: Option<f64>,
    /// Its 95 % interval.
    #[serde(default)]
    pub judged_ci: Option<[f64; 2]>,
}

/// What the run took.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// Seconds of training.
    pub train_s: Option<f64>,
    /// Seconds of evaluation.
    pub eval_s: Option<f64>,
    /// Seconds of the whole command.
    pub total_s: Option<f64>,
    /// Peak resident set size, MB.
    pub peak_rss_mb: Option<u64>,
}

impl Summary {
    /// Reads and checks a `summary.json`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path)?;
        let summary: Self = serde_json::from_str(&text).map_err(|e| Error::content(path, e))?;
        summary.check().map_err(|message| Error::content(path, message))?;
        Ok(summary)
    }

    /// Every subject but the base.
    pub(crate) fn hardened(&self) -> impl Iterator<Item = &Subject> {
        self.subjects.iter().filter(|s| s.name != "base")
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("schema {} is not supported; this version reads {SCHEMA}", self.schema));
        }
        let rows: usize =
            self.subjects.iter().map(|s| 1 + s.attacks.len() + s.utility.len() + s.likelihood.len()).sum();
        if rows > MAX_ROWS {
            return Err(format!("{rows} rows; no evaluation has more than {MAX_ROWS}"));
        }
        let mut names = HashSet::new();
        for subject in &self.subjects {
            if !names.insert(subject.name.as_str()) {
                return Err(format!("there are two subjects `{}`", subject.name));
            }
            subject.check().map_err(|message| format!("subject `{}`: {message}", subject.name))?;
        }
        let t = &self.timing;
        if [t.train_s, t.eval_s, t.total_s].into_iter().flatten().any(|s| !(0.0..1e12).contains(&s)) {
            return Err("timing: seconds out of range".into());
        }
        Ok(())
    }
}

impl Subject {
    fn check(&self) -> std::result::Result<(), String> {
        let mut rows = HashSet::new();
        for a in &self.attacks {
            let name = format!("attack `{}` on `{}` under `{}`", a.attack, a.set, a.judge);
            if !rows.insert(a.key()) {
                return Err(format!("duplicate row: {name}"));
            }
            let shares = [a.asr, a.refused, a.degenerate, a.unfinished, a.thought_leaks];
            if !shares.into_iter().flatten().all(is_share) {
                return Err(format!("{name}: a share is not between 0 and 1"));
            }
            check_inside("asr", a.asr, a.asr_ci).map_err(|e| format!("{name}: {e}"))?;
            check_inside("thought_leaks", a.thought_leaks, a.thought_leaks_ci).map_err(|e| format!("{name}: {e}"))?;
            check_intervals([a.asr_ci], [a.asr_change, a.degenerate_change]).map_err(|e| format!("{name}: {e}"))?;
            if a.n > MAX_COUNT || a.unjudged > a.n || a.questions > a.n || a.thoughts > a.n {
                return Err(format!("{name}: {} answers to {} questions, {} unjudged", a.n, a.questions, a.unjudged));
            }
            if a.degenerate_successes > a.n {
                return Err(format!("{name}: more degenerate successes than answers"));
            }
            if a.harmfulness.is_some_and(|h| !(0.0..=5.0).contains(&h)) {
                return Err(format!("{name}: the grade is not between 0 and 5"));
            }
        }
        let mut tasks = HashSet::new();
        for u in &self.utility {
            let name = format!("task `{}`, metric `{}`", u.task, u.metric);
            if !tasks.insert(u.key()) {
                return Err(format!("duplicate row: {name}"));
            }
            let bad = |x: Option<f64>| x.is_some_and(|x| !x.is_finite() || x.abs() > 1e12);
            if u.n > MAX_COUNT || bad(u.value) || bad(u.stderr) || u.stderr.is_some_and(|s| s < 0.0) {
                return Err(format!("{name}: a figure is out of range"));
            }
            if u.is_share() && !u.value.into_iter().all(is_share) {
                return Err(format!("{name}: a share is not between 0 and 1"));
            }
            check_inside("value", u.value, u.ci).map_err(|e| format!("{name}: {e}"))?;
            let change = u.change.filter(|_| u.is_share());
            check_intervals([u.ci], [change]).map_err(|e| format!("{name}: {e}"))?;
            let values = u.change.into_iter().flat_map(|c| [c.difference, c.ci[0], c.ci[1]]);
            if values.into_iter().any(|x| !x.is_finite() || x.abs() > 1e12) {
                return Err(format!("{name}: a figure is out of range"));
            }
        }
        nll::check(&self.likelihood)?;
        for o in self.over_refusal.iter().chain(&self.contrast) {
            if o.n > MAX_COUNT || !o.rate.into_iter().chain(o.judged).all(is_share) {
                return Err(format!("over_refusal on `{}`: a figure is out of range", o.set));
            }
            for (what, value, ci) in [("rate", o.rate, o.ci), ("judged", o.judged, o.judged_ci)] {
                check_inside(what, value, ci).map_err(|e| format!("over_refusal on `{}`: {e}", o.set))?;
            }
            check_intervals([o.ci, o.judged_ci], [o.change])
                .map_err(|e| format!("over_refusal on `{}`: {e}", o.set))?;
        }
        for a in &self.agreement {
            let kappa = a.kappa.is_none_or(|k| (-1.0..=1.0).contains(&k));
            if a.n > MAX_COUNT || !a.agree.into_iter().all(is_share) || !kappa {
                return Err(format!("agreement of `{}` and `{}`: a figure is out of range", a.first, a.second));
            }
        }
        Ok(())
    }
}

impl Attack {
    /// What makes two rows comparable across subjects: attack, set and judge.
    pub(crate) fn key(&self) -> (&str, &str, &str) {
        (&self.attack, &self.set, &self.judge)
    }

    /// Questions that its answers are about; files of older versions have one answer to each.
    pub(crate) fn asked(&self) -> u64 {
        if self.questions > 0 { self.questions } else { self.n }
    }
}

impl Utility {
    /// What makes two rows comparable across subjects: task and metric.
    pub(crate) fn key(&self) -> (&str, &str) {
        (&self.task, &self.metric)
    }

    /// True when the metric is a share of right answers, to be shown in per cent; others are plain numbers.
    pub(crate) fn is_share(&self) -> bool {
        ["acc", "exact_match", "mc1", "mc2", "rate", "share"].iter().any(|m| self.metric.starts_with(m))
    }
}

/// Intervals of shares, and differences of shares.
fn check_intervals<const I: usize, const C: usize>(
    intervals: [Option<[f64; 2]>; I],
    changes: [Option<Change>; C],
) -> std::result::Result<(), String> {
    for [low, high] in intervals.into_iter().flatten() {
        if low > high {
            return Err("the interval ends before it starts".into());
        }
        if !is_share(low) || !is_share(high) {
            return Err("an interval is not between 0 and 1".into());
        }
    }
    for Change { difference, ci: [low, high], .. } in changes.into_iter().flatten() {
        if low > high {
            return Err("the interval of the change ends before it starts".into());
        }
        if ![difference, low, high].iter().all(|x| (-1.0..=1.0).contains(x)) {
            return Err("a change is not between -1 and 1".into());
        }
    }
    Ok(())
}

/// A figure is never outside its own interval; one that is was changed by hand.
pub(crate) fn check_inside(what: &str, value: Option<f64>, ci: Option<[f64; 2]>) -> std::result::Result<(), String> {
    match value.zip(ci) {
        Some((value, [low, high])) if low <= high && !(low - ROUNDING..=high + ROUNDING).contains(&value) => {
            Err(format!("{what} is {value}, which is outside its interval [{low}, {high}]: the file was changed"))
        }
        _ => Ok(()),
    }
}

fn is_share(x: f64) -> bool {
    (0.0..=1.0).contains(&x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<Summary, String> {
        let summary: Summary = serde_json::from_str(text).map_err(|e| e.to_string())?;
        summary.check()?;
        Ok(summary)
    }

    fn with_attack(attack: &str) -> String {
        format!(r#"{{"schema":1,"subjects":[{{"name":"base","attacks":[{attack}]}}]}}"#)
    }

    #[test]
    fn nulls_stay_nulls() {
        let s = parse(&with_attack(
            r#"{"attack":"direct","set":"seen","judge":"leak","n":0,"asr":null,"asr_ci":null,"refused":null,"degenerate":null,"unjudged":0}"#,
        ))
        .unwrap();
        assert_eq!(s.subjects[0].attacks[0].asr, None);
    }

    #[test]
    fn damage_is_named() {
        let row =
            |rest: &str| with_attack(&format!(r#"{{"attack":"direct","set":"seen","judge":"leak","n":4,{rest}}}"#));
        for (text, word) in [
            (row(r#""asr":1.5"#), "between 0 and 1"),
            (row(r#""asr":0.5,"asr_ci":[0.9,0.1]"#), "interval"),
            (row(r#""asr":0.9,"asr_ci":[0.0,0.49]"#), "asr is 0.9, which is outside its interval [0, 0.49]"),
            (row(r#""unjudged":5"#), "unjudged"),
            (row(r#""n":5"#), "duplicate field"),
            (r#"{"schema":2,"subjects":[]}"#.to_owned(), "schema 2"),
            (r#"{"schema":1,"subjects":[{"name":"a"},{"name":"a"}]}"#.to_owned(), "two subjects"),
            (r#"{"schema":1,"subjects":[],"timing":{"total_s":-1}}"#.to_owned(), "timing"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
