//! Every figure of a run under a name of its own, for a gate: `asr.unseen.template`, `utility.arc_easy.acc`. Input:
//! the run directory. Output: the figures of each subject, and what stands against trusting them. Invariants: a name
//! is one figure; a figure that was not measured has no name; the pool of an attack counts, its single templates have
//! names but are in no `asr.SET`.

use crate::changed;
use crate::error::{Error, Result};
use crate::format::{number, percent};
use crate::judges;
use crate::manifest::Manifest;
use crate::provenance::FigureState;
use crate::rows::{self, AttackRow};
use crate::run::Run;
use crate::summary::{Attack, Change, OverRefusal, Subject};
use crate::verdict::{self, Outcome};
use serde::Serialize;
use std::path::Path;

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamedFigure {
    /// Its name, without the subject.
    pub name: String,
    /// The value: a share is between 0 and 1.
    pub value: f64,
    /// The ends of its 95 % interval.
    pub ci: Option<[f64; 2]>,
    /// What it is a share of; None: it is no share.
    pub n: Option<u64>,
}

/// The figures of one subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NamedSubject {
    /// `base`, or the name of the method or variant.
    pub subject: String,
    /// In the order of the report.
    pub figures: Vec<NamedFigure>,
    /// The verdict in a word: one of [`VERDICTS`]; None: of the base, and where there is no base.
    pub verdict: Option<&'static str>,
    /// Why the figures are not of the adapter that is there now.
    pub stale: Option<String>,
    /// Why it cannot be told whether they are.
    pub unknown: Option<String>,
}

/// The figures of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NamedRun {
    /// The base first, where it was measured.
    pub subjects: Vec<NamedSubject>,
    /// Why the figures of the summary are not to be trusted: files that were changed or removed, work that has not
    /// ended.
    pub changed: Vec<String>,
    /// The same of the figures called `durability..`.
    pub durability_changed: Vec<String>,
}

/// Every word that a verdict can be. `costly` is a defence that held, at a cost in utility.
/// `prompts-only` is one that a given opening, or work on the weights, opens; `opening-not-tried` one that held against
/// prompts and was not given an opening.
pub const VERDICTS: [&str; 10] = [
    "held",
    "costly",
    "prompts-only",
    "opening-not-tried",
    "partly",
    "failed",
    "unknown",
    "too-few",
    "nothing-unlearned",
    "not-evaluated",
];

impl NamedFigure {
    /// The value as a report shows it, with its interval.
    pub fn shown(&self) -> String {
        let one = |x: f64| if self.n.is_some() { percent(Some(x)) } else { number(x) };
        let ends = self.ci.map(|[low, high]| format!(" [{}, {}]", one(low), one(high))).unwrap_or_default();
        format!("{}{ends}", one(self.value))
    }
}

/// The figures of the run directory `run`.
///
/// # Errors
/// A directory that is no run or in which nothing was measured; a damaged file.
pub fn named(run: &Path) -> Result<NamedRun> {
    let contents = Run::read(run)?;
    let Some(summary) = &contents.summary else {
        return Err(Error::Unmeasured { path: run.to_owned(), message: contents.unmeasured.to_owned() });
    };
    let verdicts = verdict::verdicts(summary, &contents);
    let attacks = rows::attacks(summary);
    let mut named = NamedRun::default();
    for (i, subject) in summary.subjects.iter().enumerate() {
        let (stale, unknown) = match contents.provenance.of(&subject.name) {
            _ if subject.name == "base" => (None, None),
            FigureState::Current => (None, None),
            FigureState::Stale(why) | FigureState::Untrained(why) => (Some(why), None),
            FigureState::Unknown(why) => (None, Some(why)),
        };
        let mut figures = of_attacks(&attacks, i);
        figures.extend(of_subject(subject));
        if let Some(durability) = &contents.durability {
            let figure = |(name, value, ci, n)| NamedFigure { name: format!("durability.{name}"), value, ci, n };
            figures.extend(durability.named(&subject.name).map(figure));
        }
        let found = verdicts.iter().find(|v| v.subject == subject.name);
        let verdict = found.map(|v| word(v.outcome, v.cost.any()));
        named.subjects.push(NamedSubject { subject: subject.name.clone(), figures, verdict, stale, unknown });
    }
    let manifest = run.join("manifest.json");
    named.changed = if manifest.is_file() {
        changed::sentences(run, &Manifest::read(&manifest)?)?
    } else {
        vec!["There is no manifest.json, so nothing tells whether the figures are as they were measured.".to_owned()]
    };
    named.durability_changed = contents.durability.iter().flat_map(|d| d.marks().to_vec()).collect();
    Ok(named)
}

fn word(outcome: Outcome, cost: bool) -> &'static str {
    match outcome {
        Outcome::Held if cost => "costly",
        Outcome::Held => "held",
        Outcome::AgainstPrompts => "prompts-only",
        Outcome::Prompts => "opening-not-tried",
        Outcome::Partly => "partly",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
        Outcome::TooFew => "too-few",
        Outcome::Nothing(_) => "nothing-unlearned",
        Outcome::Stale | Outcome::Untrained => "not-evaluated",
    }
}

/// Figures that were measured, as they are found.
#[derive(Default)]
struct List(Vec<NamedFigure>);

impl List {
    fn share(&mut self, name: String, value: Option<f64>, ci: Option<[f64; 2]>, n: u64) {
        self.0.extend(value.map(|value| NamedFigure { name, value, ci, n: Some(n) }));
    }

    fn number(&mut self, name: String, value: Option<f64>, ci: Option<[f64; 2]>) {
        self.0.extend(value.map(|value| NamedFigure { name, value, ci, n: None }));
    }

    /// A share less that of the base.
    fn change(&mut self, name: &str, change: Option<Change>, n: u64) {
        if let Some(change) = change {
            let n = if change.questions > 0 { change.questions } else { n };
            self.share(format!("{name}.change"), Some(change.difference), Some(change.ci), n);
        }
    }
}

/// What is told of the attacks on subject `i`: under each judge where there are several.
fn of_attacks(attacks: &[AttackRow<'_>], i: usize) -> Vec<NamedFigure> {
    let cells: Vec<(&AttackRow<'_>, &Attack)> =
        attacks.iter().filter_map(|row| Some((row, *row.cells.get(i)?.as_ref()?))).collect();
    let distinct = |of: fn(&Attack) -> &str| {
        let mut all: Vec<&str> = Vec::new();
        for (_, cell) in &cells {
            if !all.contains(&of(cell)) {
                all.push(of(cell));
            }
        }
        all
    };
    let (sets, judges) = (distinct(|a| &a.set), distinct(|a| &a.judge));
    let mut list = List::default();
    let counts = judges.iter().copied().min_by_key(|judge| judges::rank(judge));
    for judge in &judges {
        // Without a judge's name, figures are by the one that the report goes by.
        let plain = (counts == Some(*judge)).then(String::new);
        let named = (judges.len() > 1).then(|| format!("@{judge}"));
        for under in plain.into_iter().chain(named) {
            by_judge(&mut list, &cells, &sets, judge, &under);
        }
    }
    // Refusals and degenerate answers do not depend on the judge.
    let first = judges.first().copied().unwrap_or_default();
    let of_first = || cells.iter().filter(|(_, a)| a.judge == first);
    let pools = || of_first().filter(|(row, _)| !row.part);
    let plain = pools().filter(|(_, a)| a.attack == "direct" && a.refused.is_some());
    let least = plain.min_by(|(_, a), (_, b)| a.refused.unwrap_or(0.0).total_cmp(&b.refused.unwrap_or(0.0)));
    let most = pools()
        .filter(|(_, a)| a.degenerate.is_some())
        .max_by(|(_, a), (_, b)| a.degenerate.unwrap_or(0.0).total_cmp(&b.degenerate.unwrap_or(0.0)));
    list.0.extend(least.and_then(|(_, a)| {
        Some(NamedFigure { name: "refusal.plain".to_owned(), value: a.refused?, ci: None, n: Some(a.n) })
    }));
    for (_, a) in of_first() {
        list.share(format!("refusal.{}.{}", a.set, a.attack), a.refused, None, a.n);
    }
    if let Some((_, most)) = most {
        list.share("degenerate".to_owned(), most.degenerate, None, most.n);
    }
    for (_, a) in of_first() {
        let name = format!("degenerate.{}.{}", a.set, a.attack);
        list.share(name.clone(), a.degenerate, None, a.n);
        list.change(&name, a.degenerate_change, a.n);
        list.share(format!("unfinished.{}.{}", a.set, a.attack), a.unfinished, None, a.n);
    }
    list.0
}

/// The attacks under one judge; `under` ends each name.
fn by_judge(list: &mut List, cells: &[(&AttackRow<'_>, &Attack)], sets: &[&str], judge: &str, under: &str) {
    for set in sets {
        let of: Vec<_> = cells.iter().filter(|(_, a)| a.judge == judge && a.set == *set).collect();
        let pools = of.iter().filter(|(row, _)| !row.part).map(|(_, a)| *a);
        // The attack that succeeds most often is what an attacker would use.
        let worst =
            pools.filter(|a| a.asr.is_some()).max_by(|a, b| a.asr.unwrap_or(0.0).total_cmp(&b.asr.unwrap_or(0.0)));
        if let Some(worst) = worst {
            list.share(format!("asr.{set}{under}"), worst.asr, worst.asr_ci, worst.n);
        }
        for (_, a) in of {
            let name = format!("asr.{set}.{}{under}", a.attack);
            list.share(name.clone(), a.asr, a.asr_ci, a.n);
            list.change(&name, a.asr_change, a.n);
            list.number(format!("grade.{set}.{}{under}", a.attack), a.harmfulness, None);
            if a.n > 0 {
                let share = Some(a.unjudged as f64 / a.n as f64);
                list.share(format!("unjudged.{set}.{}{under}", a.attack), share, None, a.n);
            }
        }
    }
}

/// Everything but the attacks.
fn of_subject(subject: &Subject) -> Vec<NamedFigure> {
    let mut list = List::default();
    for (name, refusals) in [("over_refusal", &subject.over_refusal), ("contrast", &subject.contrast)] {
        let Some(OverRefusal { n, rate, ci, change, judged, judged_ci, .. }) = refusals else { continue };
        list.share(name.to_owned(), *rate, *ci, *n);
        // Answers without a rate, unfinished ones all of them, have no difference either.
        list.change(name, change.filter(|_| rate.is_some()), *n);
        list.share(format!("{name}.judged"), *judged, *judged_ci, *n);
    }
    for row in &subject.likelihood {
        let context = if row.context == crate::nll::PLAIN { String::new() } else { format!(".{}", row.context) };
        let cut = if row.cut == 0 { String::new() } else { format!(".after-{}", row.cut) };
        let name = format!("nll.{}{context}{cut}", row.set);
        list.number(name.clone(), row.nll, row.ci);
        list.number(format!("{name}.rise"), row.change.map(|c| c.difference), row.change.map(|c| c.ci));
    }
    for row in &subject.utility {
        // A benchmark may give several metrics of a task; the perplexity of a text has a name of its own.
        let several = subject.utility.iter().filter(|u| u.task == row.task).count() > 1;
        let name = match row.metric.as_str() {
            "perplexity" => format!("ppl.{}", row.task),
            metric if several => format!("utility.{}.{metric}", row.task),
            _ => format!("utility.{}", row.task),
        };
        if row.is_share() {
            list.share(name.clone(), row.value, row.ci, row.n);
            list.change(&name, row.change, row.n);
        } else {
            list.number(name.clone(), row.value, row.ci);
            let change = row.change.map(|c| c.difference);
            list.number(format!("{name}.change"), change, row.change.map(|c| c.ci));
        }
    }
    list.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{Summary, Utility};

    fn attack(attack: &str, judge: &str, asr: f64) -> Attack {
        Attack {
            attack: attack.into(),
            set: "unseen".into(),
            judge: judge.into(),
            n: 20,
            questions: 20,
            asr: Some(asr),
            asr_ci: Some([asr / 2.0, 1.0]),
            refused: Some(1.0 - asr),
            degenerate: Some(asr / 10.0),
            ..Attack::default()
        }
    }

    fn names(attacks: Vec<Attack>) -> Vec<(String, f64)> {
        let subject = Subject { name: "x".into(), attacks, ..Subject::default() };
        let summary = Summary { schema: 1, subjects: vec![subject], ..Summary::default() };
        of_attacks(&rows::attacks(&summary), 0).into_iter().map(|f| (f.name, f.value)).collect()
    }

    #[test]
    fn a_set_is_as_bad_as_its_worst_pool() {
        let all = names(vec![
            attack("direct", "leak", 0.1),
            attack("template", "leak", 0.4),
            attack("template:a", "leak", 0.9),
        ]);
        let value = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        assert_eq!((value("asr.unseen"), value("asr.unseen.template:a")), (Some(0.4), Some(0.9)));
        assert_eq!((value("refusal.plain"), value("degenerate")), (Some(0.9), Some(0.04)));
        let mut sorted: Vec<&String> = all.iter().map(|(name, _)| name).collect();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), all.len(), "{all:?}");
    }

    /// The plain name is by the judge that the report goes by.
    #[test]
    fn several_judges_have_names_of_their_own() {
        let all = names(vec![attack("direct", "leak", 0.1), attack("direct", "keyword:gcg29", 0.3)]);
        let value = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        assert_eq!((value("asr.unseen@leak"), value("asr.unseen.direct@keyword:gcg29")), (Some(0.1), Some(0.3)));
        assert_eq!((value("asr.unseen"), value("refusal.plain")), (Some(0.1), Some(0.9)));
    }

    #[test]
    fn texts_and_tasks_have_names() {
        let utility = |task: &str, metric: &str, value| Utility {
            task: task.into(),
            metric: metric.into(),
            n: 10,
            value,
            ..Utility::default()
        };
        let subject = Subject {
            utility: vec![
                utility("arc", "acc", Some(0.5)),
                utility("arc", "acc_norm", Some(0.6)),
                utility("notes", "perplexity", Some(12.5)),
                utility("mine", "accuracy", None),
            ],
            ..Subject::default()
        };
        let found = of_subject(&subject);
        let shown: Vec<String> = found.iter().map(|f| format!("{} {}", f.name, f.shown())).collect();
        assert_eq!(shown, ["utility.arc.acc 50.0%", "utility.arc.acc_norm 60.0%", "ppl.notes 12.500"]);
    }
}
