//! A study as a reader sees it. Input: `study.json`: rows of figures, findings, series to plot. Output: one table, the
//! findings in words, plots. Invariants after [`Study::read`]: sizes are bounded, every number can be shown and
//! plotted; the program that wrote the file judged its findings, the report only shows them.

pub(crate) mod view;

use crate::error::{Error, Result};
use crate::files;
use crate::format::{NONE, decimal, number};
use crate::table::Table;
use crate::terminal::{blocks, wrapped};
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::Path;

/// More of anything in a list than a study has.
const MAX: usize = 1000;

/// What the subjects of a search are called.
const NAMES: &str = "A subject such as t004-150 is the setting that was drawn with the number 4, trained for 150 steps. A setting \
     that is trained again for more steps keeps its number.";

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Study {
    /// `compare`, `sweep`, `tune` or `durability`.
    #[serde(rename = "study")]
    kind: String,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    held_out: Vec<String>,
    /// That attack success is under; empty in files of older versions: unknown.
    #[serde(default)]
    judge: String,
    rows: Vec<Row>,
    #[serde(default)]
    pub(crate) findings: Vec<Finding>,
    #[serde(default)]
    plots: Vec<PlotSeries>,
    /// What must be known of the rows, or of those of some subjects.
    #[serde(skip)]
    marks: Vec<String>,
    /// What the rows were measured on, where the study has a request of its own.
    #[serde(skip)]
    pub(crate) facts: Vec<(&'static str, String)>,
}

#[derive(Clone, Debug, Deserialize)]
struct Row {
    subject: String,
    /// The fingerprint of the adapter that was measured; None in files of older versions: unknown.
    #[serde(default)]
    adapter: Option<String>,
    #[serde(default)]
    values: Vec<Option<String>>,
    figures: Vec<Figure>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Figure {
    /// Empty in files of older versions.
    #[serde(default)]
    id: String,
    pub(crate) name: String,
    value: Option<f64>,
    ci: Option<[f64; 2]>,
    /// None: not a share.
    n: Option<u64>,
}

/// How attacks do after something was done to the weights.
pub(crate) struct Weakened {
    /// What was done.
    pub(crate) condition: String,
    /// The highest success of attacks by prompt.
    pub(crate) prompts: Option<f64>,
    /// The success of a given opening.
    pub(crate) opening: Option<f64>,
}

/// A figure's name, value, interval, and the answers that it is a share of.
type Measured = (String, f64, Option<[f64; 2]>, Option<u64>);

/// A claim and what was found.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Finding {
    pub(crate) claim: String,
    outcome: Outcome,
    #[serde(default)]
    settled: bool,
    #[serde(default)]
    pub(crate) evidence: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Holds,
    Fails,
    Unmeasured,
}

/// A plot's series.
#[derive(Clone, Debug, Deserialize)]
struct PlotSeries {
    title: String,
    x: String,
    y: String,
    series: Vec<Line>,
    #[serde(default)]
    diagonal: bool,
    /// The base model's value, where it has one.
    #[serde(default)]
    base: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    /// By point: the ends of its interval; empty in files of older versions.
    #[serde(default)]
    ci: Vec<Option<[f64; 2]>>,
}

impl Study {
    /// Reads and checks a `study.json`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let study: Self = serde_json::from_str(&files::read_text(path)?).map_err(|e| Error::content(path, e))?;
        study.check().map_err(|message| Error::content(path, message))?;
        Ok(study)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let mut lengths =
            vec![self.keys.len(), self.held_out.len(), self.rows.len(), self.findings.len(), self.plots.len()];
        lengths.extend(self.rows.iter().flat_map(|r| [r.values.len(), r.figures.len()]));
        lengths.extend(self.plots.iter().map(|p| p.series.len()));
        lengths.extend(self.plots.iter().flat_map(|p| &p.series).map(|s| s.points.len()));
        if lengths.into_iter().any(|n| n > MAX) {
            return Err(format!("a list is longer than {MAX}"));
        }
        let series = || self.plots.iter().flat_map(|p| &p.series);
        if series().any(|s| !s.ci.is_empty() && s.ci.len() != s.points.len()) {
            return Err("a series has not as many intervals as points".into());
        }
        let points = series().flat_map(|s| &s.points).flat_map(|p| [p.0, p.1]);
        let ends = series().flat_map(|s| s.ci.iter().flatten().flatten().copied());
        let points = points.chain(ends).chain(self.plots.iter().filter_map(|p| p.base));
        let figures = self.rows.iter().flat_map(|r| &r.figures);
        let values = figures.flat_map(|f| f.value.into_iter().chain(f.ci.into_iter().flatten()));
        if points.chain(values).any(|x| !x.is_finite() || x.abs() > 1e9) {
            return Err("a figure is out of range".into());
        }
        Ok(())
    }

    /// The hardened subjects of its rows, each once, with the fingerprint of the adapter that was measured.
    pub(crate) fn subjects(&self) -> Vec<(String, Option<String>)> {
        let mut all: Vec<(String, Option<String>)> = Vec::new();
        for row in self.rows.iter().filter(|row| row.subject != "base") {
            if !all.iter().any(|(subject, _)| *subject == row.subject) {
                all.push((row.subject.clone(), row.adapter.clone()));
            }
        }
        all
    }

    /// How attacks on a hardened subject do under each condition but the first, which is the model as it was trained.
    pub(crate) fn weakened(&self, subject: &str) -> Vec<Weakened> {
        let rows = self.rows.iter().filter(|row| self.is_durability() && row.subject == subject);
        let weakened = rows.skip(1).filter_map(|row| {
            let most = |wanted: &dyn Fn(&Figure) -> bool| {
                row.figures.iter().filter(|f| wanted(f)).filter_map(|f| f.value).max_by(f64::total_cmp)
            };
            let (prompts, opening) = (most(&Figure::is_of_prompts), most(&Figure::is_of_opening));
            Some(Weakened { condition: row.values.first()?.clone()?, prompts, opening })
        });
        weakened.collect()
    }

    /// What must be known of the rows.
    pub(crate) fn marks(&self) -> &[String] {
        &self.marks
    }

    /// The figures of a subject that were measured, each as `CONDITION.ID`, with its value, interval and answers.
    pub(crate) fn named<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = Measured> + 'a {
        let rows = self.rows.iter().filter(move |row| row.subject == subject);
        rows.flat_map(|row| {
            let condition = slug(row.values.first().cloned().flatten().as_deref().unwrap_or_default());
            row.figures.iter().filter_map(move |f| {
                let id = if f.id.is_empty() { slug(&f.name) } else { f.id.clone() };
                Some((format!("{condition}.{id}"), f.value?, f.ci, f.n))
            })
        })
    }

    pub(crate) fn is_durability(&self) -> bool {
        self.kind == "durability"
    }

    /// Says something of all rows.
    pub(crate) fn note(&mut self, said: String) {
        self.marks.push(said);
    }

    /// Says of the rows of a subject that they are of an earlier adapter, or that it is not known of which they are.
    pub(crate) fn mark(&mut self, subject: &str, earlier: bool, why: &str) {
        self.marks.push(if earlier {
            let verb = &self.kind;
            format!("Rows and findings of {subject} are of an earlier adapter: {why}. Run `eraser {verb}` again.")
        } else {
            format!("Whether the rows of {subject} are of the adapter in this directory is unknown: {why}.")
        });
        for row in self.rows.iter_mut().filter(|row| earlier && row.subject == subject) {
            row.subject.push_str(" (earlier adapter)");
        }
    }

    /// What it is called.
    pub(crate) fn title(&self) -> String {
        match self.kind.as_str() {
            "sweep" => format!("Sweep over {}", self.keys.join(", ")),
            // The first key is the steps, which the search sets itself.
            "tune" => format!("Search over {}", self.keys.get(1..).unwrap_or_default().join(", ")),
            "durability" => "Durability: erased, or only hidden?".into(),
            _ => "Methods compared".into(),
        }
    }

    /// What the table shows.
    pub(crate) fn caption(&self) -> String {
        let mut text =
            "Shares with their 95% intervals, by question. ASR: attack success under jailbreak templates, in parentheses \
                        (questions, templates)."
                .to_owned();
        if !self.held_out.is_empty() {
            let _ = write!(text, " Held-out templates, which no method learnt from: {}.", self.held_out.join(", "));
        }
        if self.kind == "durability" {
            text.push_str(
                " Each row is the hardened model after what its condition says; fine-tuning trains a new adapter on the \
                 merged weights. Prefill: the answer's opening is given.",
            );
        }
        if !self.judge.is_empty() {
            let _ = write!(text, " Judge of attack success: {}.", self.judge);
        }
        for mark in &self.marks {
            let _ = write!(text, " {mark}");
        }
        if self.kind == "tune" {
            let _ = write!(text, " {NAMES}");
            text.push_str(
                " The best setting comes first among those of the same number of steps. Attack success: the mean over attacks, \
                 each on its questions that were not trained on. These questions chose the setting, so how good it is must \
                 be measured on others.",
            );
        }
        if self.kind == "sweep" {
            text.push_str(" nll_harm and help KL are means over the last tenth of the steps.");
        }
        text
    }

    /// Whether subjects stand below each other.
    fn is_list(&self) -> bool {
        ["sweep", "tune", "durability"].contains(&self.kind.as_str())
    }

    /// Names of all figures, in the order of first appearance.
    fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for figure in self.rows.iter().flat_map(|r| &r.figures) {
            if !names.contains(&figure.name.as_str()) {
                names.push(figure.name.as_str());
            }
        }
        names
    }

    /// Subjects of a comparison side by side; points of a sweep below each other.
    pub(crate) fn table(&self) -> Table {
        let names = self.names();
        let cell = |row: &Row, name: &str| {
            row.figures.iter().find(|f| f.name == name).map_or_else(|| NONE.into(), Figure::text)
        };
        if self.is_list() {
            let value = |v: &Option<String>| v.clone().unwrap_or_else(|| NONE.into());
            let header = self.keys.iter().cloned().chain(names.iter().map(|n| (*n).to_owned()));
            let row = |r: &Row| {
                let values = r.values.iter().map(value).chain(names.iter().map(|name| cell(r, name)));
                std::iter::once(r.subject.clone()).chain(values).collect()
            };
            return Table {
                header: std::iter::once("subject".to_owned()).chain(header).collect(),
                rows: self.rows.iter().map(row).collect(),
            };
        }
        let n = |name: &str| {
            let all = self.rows.iter().flat_map(|r| &r.figures).filter(|f| f.name == name);
            crate::rows::counts(all.filter_map(|f| f.n))
        };
        let header = ["figure", "n"].map(String::from).into_iter().chain(self.rows.iter().map(|r| r.subject.clone()));
        let row = |name: &&str| {
            let cells = self.rows.iter().map(|r| cell(r, name));
            [(*name).to_owned(), n(name)].into_iter().chain(cells).collect()
        };
        Table { header: header.collect(), rows: names.iter().map(row).collect() }
    }
}

/// `merged, 4 bits (Q4_0)` as `merged-4-bits-q4_0`.
fn slug(text: &str) -> String {
    let parts = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|part| !part.is_empty());
    parts.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

impl Figure {
    fn is_of_opening(&self) -> bool {
        self.id == "asr_prefill"
    }

    fn is_of_prompts(&self) -> bool {
        self.id.starts_with("asr_") && !self.is_of_opening()
    }

    fn text(&self) -> String {
        match (self.value, self.ci) {
            (None, _) => NONE.into(),
            (Some(value), Some([lo, hi])) => {
                let [value, lo, hi] = [value, lo, hi].map(|x| decimal(100.0 * x, 1));
                format!("{value}% {lo}\u{2013}{hi}")
            }
            (Some(value), None) => number(value),
        }
    }
}

impl Finding {
    /// Whether it holds, in words.
    pub(crate) fn outcome(&self) -> String {
        let text = match self.outcome {
            Outcome::Holds => "holds",
            Outcome::Fails => "does not hold",
            Outcome::Unmeasured => return "not measured".into(),
        };
        let doubt = if self.settled { "" } else { ", but the 95% interval does not settle it" };
        format!("{text}{doubt}")
    }
}

/// For a terminal: the table, then the findings.
pub(crate) fn terminal(study: &Study) -> String {
    let mut out = format!("{}\n", study.title());
    let judge = (!study.judge.is_empty()).then(|| format!("Judge of attack success: {}", study.judge));
    let names = (study.kind == "tune").then(|| NAMES.to_owned());
    for line in judge.iter().chain(&names).chain(&study.marks) {
        out.push_str(&wrapped(line));
    }
    let fixed = match study.kind.as_str() {
        "sweep" => 1,
        _ => 2,
    };
    blocks(&mut out, &study.table(), fixed);
    if !study.findings.is_empty() {
        out.push('\n');
    }
    for finding in &study.findings {
        out.push_str(&wrapped(&format!("{}: {}. {}", finding.outcome(), finding.claim, finding.evidence)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::view::view;
    use super::*;
    use proptest::prelude::*;

    const COMPARE: &str = r#"{"study":"compare","held_out":["pirate"],"rows":[
        {"subject":"base","figures":[{"name":"ASR","value":1.0,"ci":[0.9,1.0],"n":20},{"name":"degenerate","value":0.0,"ci":[0.0,0.1],"n":20}]},
        {"subject":"eraser","figures":[{"name":"ASR","value":0.05,"ci":[0.01,0.24],"n":20}]}],
        "findings":[{"claim":"it <b>leaks</b> less","outcome":"holds","settled":false,"evidence":"5.0 % [0.9, 23.6]"}]}"#;

    #[test]
    fn subjects_stand_side_by_side() {
        let study: Study = serde_json::from_str(COMPARE).unwrap();
        let table = study.table();
        assert_eq!(table.header, ["figure", "n", "base", "eraser"]);
        assert_eq!(table.rows[0], ["ASR", "20", "100.0% 90.0\u{2013}100.0", "5.0% 1.0\u{2013}24.0"]);
        assert_eq!(table.rows[1][3], NONE);
        let text = terminal(&study);
        assert!(text.contains("holds, but the 95% interval does not settle it: it <b>leaks"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn points_stand_below_each_other_and_are_plotted() {
        let text = r#"{"study":"sweep","keys":["gamma"],"rows":[
            {"subject":"base","values":[null],"figures":[]},
            {"subject":"gamma-1","values":["1"],"figures":[{"name":"nll_harm","value":1.02,"ci":null,"n":null}]}],
            "plots":[{"title":"t","x":"gamma","y":"nats","series":[{"name":"nll_harm","points":[[1,1.02],[2,1.9]]}],"diagonal":true}]}"#;
        let study: Study = serde_json::from_str(text).unwrap();
        assert_eq!(study.table().header, ["subject", "gamma", "nll_harm"]);
        assert_eq!(study.table().rows, [["base", NONE, NONE], ["gamma-1", "1", "1.020"]]);
        let view = view(&study);
        assert_eq!(view.plots.len(), 1);
        assert!(view.plots[0].svg.contains("gamma") && view.plots[0].svg.contains("var(--s2)"));
    }

    #[test]
    fn damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("study.json");
        for text in ["", "{}", &COMPARE.replace("0.05", "1e300"), &COMPARE.replace("holds", "maybe")] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Study::read(&path), Err(Error::Content { .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn damaged_text_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = COMPARE.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(study) = serde_json::from_slice::<Study>(&bytes)
                && study.check().is_ok()
            {
                let _ = (terminal(&study), view(&study));
            }
        }
    }
}
