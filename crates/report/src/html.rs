//! report.html. Input: the run and its chosen answers. Output: one page without scripts and without outside requests.
//! Invariants: every text from a file passes minijinja's HTML escaping; only the SVG of `plot`, which holds numbers and
//! our own words, is inserted unescaped; the page's content policy forbids scripts and requests altogether.

use crate::answers::Answers;
use crate::bounds::garbage;
use crate::curves;
use crate::data::{self, DataReport};
use crate::error::Result;
use crate::format::{NONE, interval, number, percent, timing};
use crate::head::Head;
use crate::heat::{self, Heat};
use crate::judges;
use crate::likelihood;
use crate::measured::Measured;
use crate::notes::{self, LIMITS, WORDS};
use crate::plot::Plot;
use crate::rows::{self, APART_NOTE, AttackRow, UtilityRow, refusals_apart, signed_apart, utility_cell};
use crate::run::{Run, Stage, Trained};
use crate::scorecard::{self, Scorecard};
use crate::search::{self, Search};
use crate::served_table;
use crate::study::view::{self, StudyView};
use crate::summary::{Attack, Summary};
use crate::table::Table;
use crate::thoughts;
use crate::verdict::{self, Outcome, Verdict};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, HtmlEscape, Value as Shown};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const TEMPLATE: &str = include_str!("../templates/report.html");
const MACROS: &str = include_str!("../templates/macros.html");
const STYLE: &str = include_str!("../templates/report.css");
/// The look of all pages of this tool: colours, type, tables, chips.
pub const LOOK: &str = include_str!("../templates/look.css");

/// What the template is given.
#[derive(Serialize)]
#[allow(clippy::struct_excessive_bools)] // What the template asks, one by one.
struct Page<'a> {
    version: &'static str,
    look: &'static str,
    style: &'static str,
    head: &'a Head,
    /// The figures that matter most; None: nothing was measured.
    score: Option<Scorecard>,
    measured: bool,
    /// Why there are no figures.
    unmeasured: &'static str,
    has_base: bool,
    subjects: Vec<String>,
    /// None: the run is no study.
    study: Option<StudyView>,
    durability: Option<StudyView>,
    data: Option<DataView>,
    verdicts: Vec<VerdictView>,
    plan: Option<&'a str>,
    timing: Vec<(String, String)>,
    stages: &'a [Stage],
    /// What the figures were measured on.
    origin: &'a Measured,
    /// Subjects that a server had; no row when all were loaded.
    served: Table,
    served_caption: &'static str,
    /// By the judge that counts, the attack that is left strongest first.
    pooled: Vec<AttackGroup<'a>>,
    /// By other judges.
    beside: Vec<AttackGroup<'a>>,
    /// Which judge counts.
    rule: &'static str,
    heat: Vec<Heat>,
    parts: Vec<AttackGroup<'a>>,
    /// Some answer was left unjudged.
    unjudged: bool,
    /// Some judge grades harmfulness.
    graded: bool,
    judges: &'a BTreeMap<String, Vec<String>>,
    /// What the attacks that search found and cost; no row when there was none.
    searches: Table,
    search_plots: Vec<Plot>,
    /// What known answers cost; no row when it was not measured.
    likelihood: Table,
    /// The same under each template.
    likelihood_parts: Table,
    likelihood_caption: &'static str,
    likelihood_plots: Vec<Plot>,
    utility: Vec<UtilityLine<'a>>,
    over_refusal: Vec<OverRefusalLine>,
    agreement: Table,
    thoughts: Table,
    thoughts_caption: &'static str,
    training: Vec<Training<'a>>,
    training_plots: Vec<Plot>,
    answers: &'a Answers,
    /// What the sign behind a figure means; None: no figure has it.
    apart: Option<&'static str>,
    limits: [&'static str; 5],
    /// Each word with its meaning; what is a name in the files is between backticks.
    words: [(&'static str, &'static str); 8],
    /// In one line, what is not known of the figures' origin.
    unknown: Option<String>,
    /// Said where some figures are of an earlier adapter.
    stale: Option<&'static str>,
}

#[derive(Serialize)]
struct VerdictView {
    tone: &'static str,
    sign: &'static str,
    headline: String,
    gist: String,
    sentences: Vec<String>,
}

/// Rows of one attack, set and judge: a line per subject.
#[derive(Serialize)]
struct AttackGroup<'a> {
    attack: String,
    set: &'a str,
    judge: &'a str,
    /// Answers, and the questions that they answer where a question has several: `120 (10)`.
    n: String,
    lines: Vec<AttackLine>,
}

#[derive(Serialize)]
struct AttackLine {
    subject: String,
    color: usize,
    asr: String,
    ci: String,
    /// Length, start of the interval and its length, degenerate part, in per cent; None without figures.
    shape: Option<[String; 4]>,
    refused: String,
    degenerate: String,
    unjudged: u64,
    harmfulness: String,
}

#[derive(Serialize)]
struct UtilityLine<'a> {
    task: &'a str,
    metric: &'a str,
    n: String,
    /// By subject: the value with its difference to the base, and its interval or standard error.
    cells: Vec<(String, Option<String>)>,
}

#[derive(Serialize)]
struct OverRefusalLine {
    subject: String,
    color: usize,
    set: String,
    /// Whether refusing is right.
    wanted: bool,
    n: u64,
    rate: String,
    judged: String,
}

/// What the sets hold.
#[derive(Serialize)]
struct DataView {
    /// Why these may not be the rows that were trained on.
    doubt: Option<String>,
    preparation: Vec<String>,
    sets: Table,
    overlaps: Table,
    note: String,
}

#[derive(Serialize)]
struct Training<'a> {
    name: &'a str,
    /// None: there is no metrics file.
    note: Option<String>,
    preset: bool,
    /// Settings that differ from the published ones, or from the preset's.
    differs: Vec<(&'a str, String)>,
    settings: Vec<(&'a str, String)>,
}

/// The page.
pub(crate) fn render(run: &Run, answers: &Answers, searches: &[Search]) -> Result<String> {
    let empty = Summary::default();
    let summary = run.summary.as_ref().unwrap_or(&empty);
    let base = summary.subjects.iter().position(|s| s.name == "base");
    let rows = rows::attacks(summary);
    let label = |name: &str| run.provenance.label(name);
    let counted = judges::once(&rows, &|_| true);
    let counts = |row: &AttackRow<'_>| counted.iter().any(|c| std::ptr::eq(*c, row));
    let groups = |wanted: &dyn Fn(&AttackRow<'_>) -> bool| {
        let mut found: Vec<&AttackRow<'_>> = rows.iter().filter(|row| wanted(row)).collect();
        found.sort_by(|a, b| {
            let base_of = |row: &AttackRow<'_>| base.and_then(|b| row.cells[b]?.asr).unwrap_or_default();
            b.left(base).total_cmp(&a.left(base)).then(base_of(b).total_cmp(&base_of(a)))
        });
        found.into_iter().map(|row| attack_group(summary, row, base, &label)).collect::<Vec<_>>()
    };
    let color = |name: &str| {
        let known = summary.subjects.iter().position(|s| s.name == name);
        known.or_else(|| run.trained.iter().position(|t| t.name == name).map(|i| i + 1)).unwrap_or_default()
    };
    let any = |of: &dyn Fn(&Attack) -> bool| rows.iter().flat_map(|r| r.cells.iter().flatten()).any(|a| of(a));
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        look: LOOK,
        style: STYLE,
        head: &run.head,
        score: run.summary.as_ref().map(|s| scorecard::scorecard(s, &label, &run.durable())),
        measured: run.summary.is_some(),
        unmeasured: run.unmeasured,
        has_base: base.is_some(),
        subjects: summary.subjects.iter().map(|s| run.provenance.label(&s.name)).collect(),
        study: run.study.as_ref().map(view::view),
        durability: run.durability.as_ref().map(view::view),
        data: run.data.as_ref().map(|report| data_view(report, run.provenance.data.clone())),
        verdicts: in_order(verdict::verdicts(summary, run).into_iter().map(verdict_view).collect()),
        plan: run.plan.as_deref(),
        timing: timing(&summary.timing, &run.requests),
        stages: &run.stages,
        origin: &run.measured,
        served: served_table::table(summary),
        served_caption: served_table::CAPTION,
        pooled: groups(&|row| !row.part && counts(row)),
        beside: groups(&|row| !row.part && !counts(row)),
        rule: judges::RULE,
        heat: heat::maps(summary, base),
        parts: groups(&|row| row.part),
        unjudged: any(&|a| a.unjudged > 0),
        graded: any(&|a| a.harmfulness.is_some()),
        judges: &run.judges,
        searches: search::table(searches),
        search_plots: search::plots(searches),
        likelihood: likelihood::table(summary, false, &label),
        likelihood_parts: likelihood::table(summary, true, &label),
        likelihood_caption: likelihood::CAPTION,
        likelihood_plots: likelihood::plots(summary, &label),
        utility: utility(summary, base),
        over_refusal: over_refusal(summary, &label),
        agreement: notes::agreement(summary, &label),
        thoughts: thoughts::table(summary, &label),
        thoughts_caption: thoughts::CAPTION,
        training: run.trained.iter().map(training_view).collect(),
        training_plots: curves::plots(&run.trained, &color),
        answers,
        apart: rows::any_apart(summary).then_some(APART_NOTE),
        limits: LIMITS,
        words: WORDS,
        unknown: run.provenance.unknown(),
        stale: run.provenance.any_stale().then_some(notes::EARLIER),
    };
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.add_filter("coded", |sentence: &str| {
        let piece = |(text, code): (&str, bool)| {
            let escaped = HtmlEscape(text);
            if code { format!("<code>{escaped}</code>") } else { escaped.to_string() }
        };
        Shown::from_safe_string(notes::coded(sentence).into_iter().map(piece).collect())
    });
    // The name's ending turns HTML escaping on.
    env.add_template("report.html", TEMPLATE)?;
    env.add_template("macros.html", MACROS)?;
    Ok(env.get_template("report.html")?.render(Serde(&page))?)
}

/// Verdicts that are shown without a click.
const SHOWN: usize = 4;

/// As they come; where some are folded away, failures are first.
fn in_order(mut verdicts: Vec<VerdictView>) -> Vec<VerdictView> {
    if verdicts.len() > SHOWN {
        verdicts.sort_by_key(|v| v.tone != "bad");
    }
    verdicts
}

fn verdict_view(v: Verdict) -> VerdictView {
    let (tone, sign) = match (v.outcome, v.cost.any()) {
        (Outcome::Held, false) => ("good", "\u{2713}"),
        (Outcome::Failed | Outcome::Stale | Outcome::Untrained | Outcome::Nothing(_), _) => ("bad", "\u{2717}"),
        (Outcome::Unknown | Outcome::TooFew, _) => ("mixed", "?"),
        _ => ("mixed", "\u{25D1}"),
    };
    VerdictView { tone, sign, headline: v.headline(), gist: v.gist, sentences: v.sentences }
}

fn attack_group<'a>(
    summary: &'a Summary,
    row: &AttackRow<'a>,
    base: Option<usize>,
    label: &dyn Fn(&str) -> String,
) -> AttackGroup<'a> {
    let lines = summary.subjects.iter().zip(&row.cells).enumerate();
    let lines = lines.filter_map(|(i, (s, a))| a.map(|a| attack_line(label(&s.name), i, a, row.apart(i, base))));
    let attack = rows::in_words(row.attack);
    AttackGroup { attack, set: row.set, judge: row.judge, n: row.n(), lines: lines.collect() }
}

fn attack_line(subject: String, i: usize, a: &Attack, apart: bool) -> AttackLine {
    AttackLine {
        subject,
        color: scorecard::color(i),
        asr: signed_apart(percent(a.asr), apart),
        ci: interval(a.asr_ci),
        shape: scorecard::shape(a.asr, a.asr_ci, garbage(a)),
        refused: percent(a.refused),
        degenerate: percent(a.degenerate),
        unjudged: a.unjudged,
        harmfulness: a.harmfulness.map_or_else(|| NONE.into(), |h| format!("{h:.2}")),
    }
}

/// A share with its interval, where it has one.
fn with_interval(share: Option<f64>, ci: Option<[f64; 2]>) -> String {
    ci.map_or_else(|| percent(share), |ci| format!("{} {}", percent(share), interval(Some(ci))))
}

fn utility(summary: &Summary, base: Option<usize>) -> Vec<UtilityLine<'_>> {
    let line = |r: &UtilityRow<'_>| {
        // Where no item is right, or all are, the standard error is zero and says nothing; the interval does.
        let doubt = |i: usize| {
            let u = r.cells[i]?;
            match (u.ci.filter(|_| r.is_share), u.stderr) {
                (Some(ci), _) => Some(interval(Some(ci))),
                (None, Some(stderr)) if r.is_share => {
                    Some(format!("\u{b1} {} (standard error)", percent(Some(stderr))))
                }
                (None, stderr) => stderr.map(|stderr| format!("\u{b1} {} (standard error)", number(stderr))),
            }
        };
        (0..r.cells.len()).map(|i| (utility_cell(r, i, base), doubt(i))).collect()
    };
    let rows = rows::utility(summary);
    rows.iter().map(|r| UtilityLine { task: r.task, metric: r.metric, n: r.n(), cells: line(r) }).collect()
}

fn over_refusal(summary: &Summary, label: &dyn Fn(&str) -> String) -> Vec<OverRefusalLine> {
    let mut lines = Vec::new();
    let base = summary.subjects.iter().find(|s| s.name == "base");
    let before = |wanted| base.and_then(|s| if wanted { s.contrast.as_ref() } else { s.over_refusal.as_ref() });
    for wanted in [false, true] {
        for (i, s) in summary.subjects.iter().enumerate() {
            let measured = if wanted { &s.contrast } else { &s.over_refusal };
            lines.extend(measured.as_ref().map(|o| OverRefusalLine {
                subject: label(&s.name),
                color: scorecard::color(i),
                set: o.set.clone(),
                wanted,
                n: o.n,
                rate: signed_apart(with_interval(o.rate, o.ci), refusals_apart(before(wanted), Some(o))),
                judged: with_interval(o.judged, o.judged_ci),
            }));
        }
    }
    lines
}

fn data_view(report: &DataReport, doubt: Option<String>) -> DataView {
    DataView {
        doubt,
        preparation: data::preparation(report),
        sets: data::sets(report),
        overlaps: data::overlaps(report),
        note: data::note(report),
    }
}

fn settings(map: &Map<String, Value>) -> Vec<(&str, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    map.iter().map(|(key, value)| (key.as_str(), text(value))).collect()
}

fn training_view(trained: &Trained) -> Training<'_> {
    let said = trained.sentences();
    Training {
        name: &trained.name,
        note: (!said.is_empty()).then(|| said.join(" ")),
        preset: trained.settings.get("preset").is_some_and(Value::is_string),
        differs: trained.differs.as_ref().map(settings).unwrap_or_default(),
        settings: settings(&trained.settings),
    }
}
