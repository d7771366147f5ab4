//! A gate: conditions on the figures of a run. In: a run directory and conditions such as `asr.unseen > 5%`; out: for
//! each condition and subject whether it holds. Invariants: a figure that was not measured is an error, never a pass;
//! so is one whose files were changed since, or that is of another adapter than the one that is there.

use crate::failure::{Outcome, Problems};
use crate::stage::report;
use eraser_model::{Error, Result, nearest};
use eraser_report::{NamedFigure, NamedRun, NamedSubject, VERDICTS};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What stands before the name of a figure of the base.
const BASE: &str = "base.";
/// The name of the verdict.
const VERDICT: &str = "verdict";
/// The name of the base among the subjects.
const BASE_SUBJECT: &str = "base";
/// Names that a message lists at most.
const LISTED: usize = 12;

/// How a figure is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
    Unequal,
}

impl Comparison {
    /// In the order in which they are looked for: `<=` before `<`.
    const ALL: [(&'static str, Self); 6] = [
        ("<=", Self::LessOrEqual),
        (">=", Self::MoreOrEqual),
        ("==", Self::Equal),
        ("!=", Self::Unequal),
        ("<", Self::Less),
        (">", Self::More),
    ];

    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Less => value < bound,
            Self::LessOrEqual => value <= bound,
            Self::More => value > bound,
            Self::MoreOrEqual => value >= bound,
            Self::Equal => (value - bound).abs() <= f64::EPSILON,
            Self::Unequal => (value - bound).abs() > f64::EPSILON,
        }
    }
}

/// A condition under which the gate fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    /// Of the base, not of the hardened subjects.
    base: bool,
    name: String,
    end: End,
    comparison: Comparison,
    bound: Bound,
}

/// Which number of a figure is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Value,
    Low,
    High,
}

#[derive(Clone, Debug, PartialEq)]
enum Bound {
    Number(f64),
    Verdict(String),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Condition {
    /// Reads `NAME OP VALUE`: `asr.unseen > 5%`, `verdict != held`.
    ///
    /// # Errors
    /// What is wrong with it, in a line.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        const FORM: &str = "a condition is NAME OP VALUE, as in \"asr.unseen > 5%\"; OP is < <= > >= == or !=";
        let place = text.find(['<', '>', '=', '!']).ok_or(FORM)?;
        let found = Comparison::ALL.into_iter().find(|(sign, _)| text[place..].starts_with(sign));
        let (sign, comparison) = found.ok_or(FORM)?;
        let (whole, value) = (text[..place].trim(), text[place + sign.len()..].trim());
        if whole.is_empty() || value.is_empty() {
            return Err(FORM.to_owned());
        }
        let (base, name) = whole.strip_prefix(BASE).map_or((false, whole), |name| (true, name));
        let text = format!("{whole} {sign} {value}");
        if name == VERDICT {
            if base {
                return Err("the base has no verdict".to_owned());
            }
            if !matches!(comparison, Comparison::Equal | Comparison::Unequal) {
                return Err("a verdict is compared by == or !=".to_owned());
            }
            if !VERDICTS.contains(&value) {
                return Err(format!("`{value}` is no verdict; known: {}", VERDICTS.join(", ")));
            }
            let bound = Bound::Verdict(value.to_owned());
            return Ok(Self { text, base, name: name.to_owned(), end: End::Value, comparison, bound });
        }
        let ends = [(".low", End::Low), (".high", End::High)];
        let end = ends.into_iter().find_map(|(ending, end)| Some((name.strip_suffix(ending)?, end)));
        let (name, end) = end.unwrap_or((name, End::Value));
        let (digits, unit) = value.strip_suffix('%').map_or((value, 1.0), |digits| (digits.trim_end(), 100.0));
        let number: f64 = digits.parse().map_err(|_| format!("`{value}` is no number; write 0.05 or 5%"))?;
        if !number.is_finite() {
            return Err(format!("`{value}` is no number; write 0.05 or 5%"));
        }
        Ok(Self { text, base, name: name.to_owned(), end, comparison, bound: Bound::Number(number / unit) })
    }
}

/// What was found of one condition on one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// As it was given.
    pub condition: String,
    /// `base`, or the hardened subject.
    pub subject: String,
    /// The figure as it is shown, or the verdict.
    pub value: String,
    /// Whether the condition holds: the gate fails then.
    pub holds: bool,
}

/// The figures of a run and what the conditions say of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// Every figure.
    #[serde(flatten)]
    pub run: NamedRun,
    /// Of each condition, in their order, by subject.
    pub conditions: Vec<Found>,
    /// No condition holds. None: there are no conditions.
    pub passed: Option<bool>,
}

/// Compares the figures of the run directory `dir` with `conditions`, for the hardened subjects of these names, or else
/// for all of them.
///
/// # Errors
/// A directory without figures; an unknown subject or name; where there are conditions, figures that are not those that
/// were measured on the adapter that is there. All at once.
pub fn gate(dir: &Path, conditions: &[Condition], subjects: &[String]) -> Outcome<Gate> {
    let run = eraser_report::named(dir).map_err(|e| report::convert(&e))?;
    let mut problems = Problems::default();
    let hardened: Vec<&NamedSubject> = run.subjects.iter().filter(|s| s.subject != BASE_SUBJECT).collect();
    let base = run.subjects.iter().find(|s| s.subject == BASE_SUBJECT);
    let mut chosen: Vec<&NamedSubject> = Vec::new();
    for name in subjects {
        match hardened.iter().find(|s| s.subject == *name) {
            Some(subject) => chosen.push(subject),
            None => problems.push(unknown_subject(name, &hardened)),
        }
    }
    if subjects.is_empty() {
        chosen = hardened;
    }
    let mut found = Vec::new();
    if !conditions.is_empty() {
        for said in &run.changed {
            problems.push(Error::request(format!("{}: {said}", dir.display())));
        }
        let of_durability = |c: &Condition| c.name.starts_with("durability.");
        for said in run.durability_changed.iter().filter(|_| conditions.iter().any(of_durability)) {
            problems.push(Error::request(format!("{}: {said}", dir.display())));
        }
        if chosen.is_empty() && subjects.is_empty() && conditions.iter().any(|c| !c.base) {
            let error = Error::request(format!("{}: no hardened subject was measured", dir.display()));
            problems.push(error.hint("`base.` before a name asks for the base's figure"));
        }
        for subject in &chosen {
            if let Some(why) = &subject.stale {
                let what = format!("{}: its figures are of an earlier adapter: {why}", subject.subject);
                problems.push(Error::request(what).hint("evaluate it again, and then check"));
            }
        }
    }
    for condition in conditions {
        let of = if condition.base { base.as_slice() } else { chosen.as_slice() };
        if condition.base && base.is_none() {
            problems.push(Error::request(format!("\"{condition}\": the base was not measured")));
        }
        // What was measured on none of them is wrong once, and not for each.
        let is_number = matches!(condition.bound, Bound::Number(_));
        let on_none = |s: &&NamedSubject| is_number && !s.figures.iter().any(|f| f.name == condition.name);
        let of = if of.len() > 1 && of.iter().all(on_none) { &of[..1] } else { of };
        for subject in of {
            found.extend(problems.ok(condition.on(subject)));
        }
    }
    problems.finish(Some(()))?;
    let passed = (!conditions.is_empty()).then(|| found.iter().all(|f| !f.holds));
    Ok(Gate { conditions: found, passed, run })
}

fn unknown_subject(name: &str, hardened: &[&NamedSubject]) -> Error {
    let known: Vec<&str> = hardened.iter().map(|s| s.subject.as_str()).collect();
    let error = Error::request(format!("--subject: no hardened subject is called `{name}`"));
    match nearest(name, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None if known.is_empty() => error.hint("only the base was measured"),
        None => error.hint(format!("known: {}", known.join(", "))),
    }
}

impl Condition {
    fn on(&self, subject: &NamedSubject) -> Result<Found> {
        let found = |value: String, holds| Found {
            condition: self.text.clone(),
            subject: subject.subject.clone(),
            value,
            holds,
        };
        match &self.bound {
            Bound::Verdict(word) => {
                let verdict = subject.verdict.ok_or_else(|| {
                    Error::request(format!("\"{self}\": {} has no verdict", subject.subject))
                        .hint("a verdict needs the base: evaluate it too")
                })?;
                Ok(found(verdict.to_owned(), (verdict == word) == (self.comparison == Comparison::Equal)))
            }
            Bound::Number(bound) => {
                let figure =
                    subject.figures.iter().find(|f| f.name == self.name).ok_or_else(|| self.unmeasured(subject))?;
                let value = match (self.end, figure.ci) {
                    (End::Value, _) => figure.value,
                    (End::Low, Some([low, _])) => low,
                    (End::High, Some([_, high])) => high,
                    (_, None) => {
                        return Err(Error::request(format!("\"{self}\": {} has no interval", self.name)));
                    }
                };
                // A share of which a number above 1 is asked can only be a percentage without its sign.
                if figure.n.is_some() && bound.abs() > 1.0 {
                    let what = format!("\"{self}\": `{}` is a share, so it is never beyond 100%", self.name);
                    return Err(Error::request(what).hint(format!("did you mean {}%?", bound.abs())));
                }
                Ok(found(figure.shown(), self.comparison.holds(value, *bound)))
            }
        }
    }

    /// That a subject has no figure of this name, and which it has.
    fn unmeasured(&self, subject: &NamedSubject) -> Error {
        let error = Error::request(format!("\"{self}\": `{}` was not measured on {}", self.name, subject.subject));
        let with_judge: Vec<&str> = subject.figures.iter().map(|f| f.name.as_str()).collect();
        let of_judges: Vec<&str> = with_judge
            .iter()
            .copied()
            .filter(|name| name.strip_prefix(self.name.as_str()).is_some_and(|rest| rest.starts_with('@')))
            .collect();
        let error = if !of_judges.is_empty() {
            error.hint(format!("several judges judged: name one of {}", of_judges.join(", ")))
        } else if let Some(near) = nearest(&self.name, with_judge.iter().copied()) {
            error.hint(format!("did you mean {near}?"))
        } else {
            error
        };
        // The shortest names are the figures that are asked for first: those of one judge or template are longer.
        let mut names: Vec<&NamedFigure> = subject.figures.iter().filter(|f| !f.name.contains(['@', ':'])).collect();
        names.sort_by_key(|f| f.name.split('.').count());
        let more = subject.figures.len().saturating_sub(names.len().min(LISTED));
        let mut listed: Vec<String> =
            names.into_iter().take(LISTED).map(|f| format!("{} {}", f.name, f.shown())).collect();
        if more > 0 {
            listed.push(format!("and {more} more, which `eraser check RUN` lists"));
        }
        error.hint(format!("measured: {}", listed.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(verdict: Option<&'static str>) -> NamedSubject {
        let figure = |name: &str, value, ci| NamedFigure { name: name.into(), value, ci, n: Some(20) };
        NamedSubject {
            subject: "eraser".into(),
            figures: vec![
                figure("asr.unseen", 0.04, Some([0.0, 0.2])),
                figure("over_refusal", 0.05, None),
                figure("asr.seen@leak", 0.5, None),
            ],
            verdict,
            ..NamedSubject::default()
        }
    }

    fn holds(text: &str) -> std::result::Result<bool, String> {
        let condition = Condition::parse(text)?;
        condition.on(&subject(Some("held"))).map(|f| f.holds).map_err(|e| format!("{e} {:?}", e.hints()))
    }

    #[test]
    fn conditions_compare_values_ends_and_verdicts() {
        for (text, expected) in [
            ("asr.unseen > 5%", false),
            ("asr.unseen>0.03", true),
            ("asr.unseen.high > 5 %", true),
            ("asr.unseen.low >= 0", true),
            ("asr.unseen < 4%", false),
            ("asr.unseen <= 4%", true),
            ("over_refusal == 0.05", true),
            ("over_refusal != 5%", false),
            ("verdict != held", false),
            ("verdict == held", true),
        ] {
            assert_eq!(holds(text), Ok(expected), "{text}");
        }
    }

    /// A mistyped name was answered by sixty figures for each of four subjects.
    #[test]
    fn few_names_are_listed_the_general_ones_first() {
        let figure = |name: String| NamedFigure { name, value: 0.5, ci: None, n: Some(9) };
        let parts = (0..40).flat_map(|i| [format!("asr.seen.template:t{i}"), format!("asr.seen.direct@judge{i}")]);
        let general = ["asr.seen.direct", "asr.seen", "over_refusal"].map(str::to_owned);
        let figures = parts.chain(general).map(figure).collect();
        let subject = NamedSubject { subject: "x".into(), figures, ..NamedSubject::default() };
        let error = Condition::parse("zzz < 1").unwrap().on(&subject).unwrap_err();
        let told = error.hints().last().unwrap().clone();
        assert!(
            told.starts_with("measured: over_refusal 50.0%; asr.seen 50.0%; asr.seen.direct 50.0%; and 80 more"),
            "{told}"
        );
    }

    #[test]
    fn what_was_not_measured_never_passes() {
        for (text, told) in [
            ("asr.unsen > 5%", "did you mean asr.unseen?"),
            ("asr.seen > 5%", "several judges judged: name one of asr.seen@leak"),
            ("zzz < 1", "measured: over_refusal 5.0%; asr.unseen 4.0% [0.0%, 20.0%]"),
            ("over_refusal.high > 5%", "has no interval"),
        ] {
            let error = holds(text).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        let verdict = Condition::parse("verdict == held").unwrap();
        assert!(verdict.on(&subject(None)).is_err());
    }

    #[test]
    fn a_condition_that_cannot_be_read_is_refused() {
        for (text, told) in [
            ("asr.unseen", "NAME OP VALUE"),
            ("asr.unseen >", "NAME OP VALUE"),
            ("> 5%", "NAME OP VALUE"),
            ("asr.unseen = 5%", "NAME OP VALUE"),
            ("asr.unseen > five", "is no number"),
            ("asr.unseen > nan", "is no number"),
            ("asr.unseen > inf%", "is no number"),
            ("verdict > held", "== or !="),
            ("verdict == good", "known: held"),
            ("base.verdict == held", "no verdict"),
        ] {
            let error = Condition::parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
